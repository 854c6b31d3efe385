"""Real nodes for the programs here: written configs, ``meshsvc run``, plain HTTP to admin."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BENCHAPP = Path(__file__).resolve().parent / "benchapp"
MESHSVC = Path(sys.executable).with_name("meshsvc")
POLL_S = 0.05

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # nodes start as installed ones do, from bytecode


@dataclass
class Node:
    """One node: where it lives, and its process while it runs."""

    name: str
    peer: int
    admin: int
    etcd: int
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0

    @property
    def config(self) -> Path:
        """Its TOML file."""
        return self.folder / "meshsvc.toml"

    @property
    def events(self) -> Path:
        """What its benchapp saw: lines of monotonic nanoseconds, event, node."""
        return self.folder / "events"

    def get(self, path: str) -> Any:
        """Ask the admin port; raises OSError while nobody answers."""
        return self._request("GET", path, None, 5.0)

    def call(self, target: str, verb: str, payload: object, timeout_s: float = 60.0) -> Any:
        """Call a verb as ``meshsvc call`` does; returns the reply."""
        body = {"target": target, "verb": verb, "payload": payload, "timeout_s": timeout_s}
        return self._request("POST", "/v1/call", json.dumps(body), timeout_s + 5)["reply"]

    def _request(self, method: str, path: str, body: str | None, timeout_s: float) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=timeout_s)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            data = response.read()
            if response.status != 200:
                raise RuntimeError(f"{self.name} {path}: {response.status} {data[:500]!r}")
            return json.loads(data)
        finally:
            connection.close()


@dataclass
class Cluster:
    """Nodes that know each other; use as a context manager.

    ``cpus`` gives each node the CPUs of its shards: [0] is one shard on CPU 0. With ``store``
    all nodes hold the store, and serve etcd's API on the port ``etcd``.
    """

    cpus: Sequence[list[int]]
    pin: bool = True
    store: bool = False
    nodes: list[Node] = field(default_factory=list)
    folder: Path = field(init=False)

    def __enter__(self) -> Cluster:
        self.folder = Path(tempfile.mkdtemp(prefix="mb-"))
        ports = free_ports(3 * len(self.cpus))
        for number in range(len(self.cpus)):
            name = f"n{number + 1}"
            self.nodes.append(Node(name, ports.pop(), ports.pop(), ports.pop(), self.folder / name))
        for node, cpus in zip(self.nodes, self.cpus, strict=True):
            self._write(node, cpus)
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            kill(node)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, node: Node, cpus: list[int]) -> None:
        node.folder.mkdir()
        seeds = [f"127.0.0.1:{other.peer}" for other in self.nodes[:3] if other is not node]
        roster = [other.name for other in self.nodes]
        node.config.write_text(
            f"""
[node]
name = "{node.name}"
cluster = "bench"
data_dir = "{node.folder}/data"
cpu_allocation = {cpus}
pin_cores = {str(self.pin).lower()}
applications = ["benchapp"]
[listen]
peer = "127.0.0.1:{node.peer}"
admin = "127.0.0.1:{node.admin}"
{self._store(node)}
[seeds]
addresses = {json.dumps(seeds)}
[mesh]
roster = {json.dumps(roster)}
[applications.benchapp]
events = "{node.events}"
"""
        )

    def _store(self, node: Node) -> str:
        if not self.store:
            return ""
        return f'etcd = "127.0.0.1:{node.etcd}"\n[store]\nexpect = {len(self.nodes)}'

    def start(self, *nodes: Node) -> None:
        """Start nodes, all when none is named; ``started`` of each is the moment of its exec."""
        path = os.pathsep.join([str(BENCHAPP), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        for node in nodes or self.nodes:
            with (node.folder / "log").open("ab") as log:
                node.started = time.monotonic()
                node.process = subprocess.Popen(
                    [MESHSVC, "run", "--config", node.config],
                    env=os.environ | {"PYTHONPATH": path},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )

    def wait_formed(self, timeout_s: float = 60.0) -> float:
        """Wait for one epoch with every node on its roster; returns the monotonic moment."""
        deadline = time.monotonic() + timeout_s
        seen: dict[str, object] = {}
        while time.monotonic() < deadline:
            seen = {node.name: _mesh_of(node) for node in self.nodes}
            epochs = {state[0] for state in seen.values() if isinstance(state, tuple)}
            whole = all(state[1:] == ("formed", len(self.nodes)) for state in seen.values())
            if whole and len(epochs) == 1:
                return time.monotonic()
            time.sleep(POLL_S)
        logs = "\n".join(f"--- {n.name}\n{tail(n.folder / 'log')}" for n in self.nodes[:3])
        raise SystemExit(f"the nodes did not form in {timeout_s:g} s: {seen}\n{logs}")


def _mesh_of(node: Node) -> tuple[object, ...] | str:
    try:
        mesh = node.get("/v1/mesh")
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    return mesh["epoch"], mesh["state"], len(mesh["roster"])


def tail(path: Path, lines: int = 15) -> str:
    """The end of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def free_ports(count: int) -> list[int]:
    """TCP ports that nothing listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def family(pid: int) -> list[int]:
    """A process and all its descendants, parents first."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        children.setdefault(int(after_name[1]), []).append(int(stat.parent.name))
    found = [pid]
    for each in found:
        found.extend(children.get(each, []))
    return found


def kill(node: Node) -> float:
    """kill -9 of all processes of a node, supervisor first; returns the monotonic moment."""
    moment = time.monotonic()
    if node.process is None:
        return moment
    for pid in family(node.process.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    node.process.wait()
    node.process = None
    return moment

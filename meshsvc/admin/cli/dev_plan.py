"""Where the nodes of a local cluster live: ports, folders, config files, ``cluster.json``.

Ports are taken from below the range that the kernel uses for outgoing connections: one from
that range may be in use by a client just when a killed node wants it back, and a dial to a
dead port there can even connect to itself. They are remembered in the folder, so that a
cluster that is started again is found where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.exits import CliError

HOST = "127.0.0.1"
CLUSTER = "dev"
LISTENERS = ("peer", "admin", "client", "etcd")

MOST_VOTERS = 5
"""Nodes that found the store of a larger cluster; the others join it."""

FIRST_PORT = 10_000
LAST_PORT = 65_535
TRIES = 2_000
"""Ports tried before giving up: a machine on which that many are taken has other troubles."""

_PORTS_FILE = "ports.json"
_LONGEST_RUN_DIR = 80
"""A Unix socket's path has at most 107 bytes, and names go behind this."""

IsFree = Callable[[int], bool]


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node: its name, its ports by listener, and its folder."""

    name: str
    ports: dict[str, int]
    folder: Path

    @property
    def config(self) -> Path:
        """Its config file."""
        return self.folder / "meshsvc.toml"

    @property
    def data_dir(self) -> Path:
        """Where it keeps its data."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.folder / "node.log"

    def address(self, listener: str) -> str:
        """``host:port`` of one of its listeners."""
        return f"{HOST}:{self.ports[listener]}"

    @property
    def admin_url(self) -> str:
        """Where to ask it."""
        return f"http://{self.address('admin')}"


def plan_nodes(
    folder: Path, count: int, base_port: int | None, busy_ok: Callable[[str, int], bool]
) -> list[NodePlan]:
    """The nodes n1 to n``count``, with their ports chosen and remembered.

    ``busy_ok(name, admin port)`` tells whether a port is taken by that very node, which
    still runs from an earlier time.
    """
    names = [f"n{number}" for number in range(1, count + 1)]
    if base_port is not None and base_port + 10 * count > LAST_PORT:
        text = f"--base-port {base_port} leaves no room for {count} nodes below {LAST_PORT}"
        raise CliError(exits.USAGE, text)
    remembered = _remembered(folder)
    taken: set[int] = set()
    plans = []
    for position, name in enumerate(names):
        ports = remembered.get(name)
        if base_port is not None:
            start = base_port + 10 * position
            ports = {listener: start + i for i, listener in enumerate(LISTENERS)}
        plans.append(NodePlan(name, ports or {}, folder / name))
    running = {p.name for p in plans if p.ports and busy_ok(p.name, p.ports["admin"])}
    # Those that keep their ports first, so that no other node is given one of them.
    for plan in sorted(plans, key=lambda plan: not plan.ports):
        kept = plan.name in running or (plan.ports and all(map(is_free, plan.ports.values())))
        if not kept and base_port is not None:
            busy = [str(port) for port in plan.ports.values() if not is_free(port)]
            text = f"{plan.name} needs port {', '.join(busy)}, which another program has"
            raise CliError(exits.CANNOT_CREATE, f"{text}; give another --base-port, or none")
        if not kept:
            plan.ports.clear()
            plan.ports.update(
                zip(LISTENERS, free_ports(len(LISTENERS), taken, is_free), strict=True)
            )
        taken.update(plan.ports.values())
    folder.mkdir(parents=True, exist_ok=True)
    saved = remembered | {plan.name: plan.ports for plan in plans}
    write_atomically(folder / _PORTS_FILE, json.dumps(saved, indent=2) + "\n")
    return plans


def free_ports(count: int, taken: Iterable[int], free: IsFree) -> list[int]:
    """Free ports next to each other, away from those that are taken already."""
    last = _first_outgoing() - count
    used = set(taken)
    pick = random.Random()
    for _ in range(TRIES):
        start = pick.randrange(FIRST_PORT, max(last, FIRST_PORT + 1))
        found = list(range(start, start + count))
        if used.isdisjoint(found) and all(map(free, found)):
            return found
    text = f"no {count} free ports found on {HOST} between {FIRST_PORT} and {last}"
    raise CliError(exits.IO, f"{text}; give --base-port PORT")


def is_free(port: int) -> bool:
    """Whether a port can be bound now; connections that just ended do not count."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, port))
        except OSError:
            return False
    return True


def fitting(shards: int, room: int) -> tuple[int, str]:
    """How many shards the nodes get where there are CPUs for ``room``, and what to say of that.

    A node refuses more than there are; whoever tries meshsvc on a small machine wants it to run.
    """
    if shards <= room:
        return shards, ""
    text = f"this machine has CPUs for {room} shards a node, {shards} were asked for"
    return room, f"{text}: going on with {room}"


def node_config(plan: NodePlan, plans: Sequence[NodePlan], shards: int) -> str:
    """The config file of one node of the cluster."""
    names = [each.name for each in plans]
    seeds = [each.address("peer") for each in plans if each is not plan]
    return "".join(_lines(plan, names, seeds, shards))


def _lines(plan: NodePlan, names: list[str], seeds: list[str], shards: int) -> Iterator[str]:
    yield "# Written anew by every start of `meshsvc dev`: put changes into conf.d/*.toml here.\n"
    yield f'[node]\nname = "{plan.name}"\ncluster = "{CLUSTER}"\n'
    yield f"data_dir = {_quoted(plan.data_dir)}\n"
    run_dir = plan.data_dir / "run"
    if len(os.fsencode(run_dir)) > _LONGEST_RUN_DIR:
        # The folder is too deep for the path of a Unix socket.
        mark = hashlib.blake2b(os.fsencode(plan.folder), digest_size=6).hexdigest()
        short = Path(tempfile.gettempdir()) / f"meshsvc-{os.getuid()}-{mark}"
        yield f"run_dir = {_quoted(short)}\n"
    yield f"cpu_allocation = {shards}\n"
    yield "# Several nodes share the CPUs of this machine.\npin_cores = false\n\n[listen]\n"
    yield "".join(f'{name} = "{plan.address(name)}"\n' for name in LISTENERS)
    yield f"\n[seeds]\naddresses = {json.dumps(seeds)}\n"
    # Two nodes elect nobody without each other; one of them can decide alone.
    controller = "raft" if len(names) > 2 else "static"
    yield f'\n[mesh]\ncontroller = "{controller}"\nroster = {json.dumps(names)}\n'
    yield f"\n[store]\nexpect = {min(len(names), MOST_VOTERS)}\n"


def _quoted(path: Path) -> str:
    return json.dumps(str(path), ensure_ascii=False)


def write_configs(plans: Sequence[NodePlan], shards: int) -> None:
    """Write the folder and the config file of every node."""
    for plan in plans:
        plan.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(plan.config, node_config(plan, plans, shards))


def cluster_row(
    plan: NodePlan, pid: int | None, shards: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """A node in ``cluster.json``; ``pid`` is None and ``shards`` empty while it is down."""
    return {
        "name": plan.name,
        "pid": pid,
        "shards": [{"index": row["index"], "pid": row["pid"]} for row in shards],
        "peer": plan.address("peer"),
        "client": plan.address("client"),
        "etcd": plan.address("etcd"),
        "admin": plan.address("admin"),
        "config": str(plan.config),
        "data_dir": str(plan.data_dir),
    }


def write_atomically(path: Path, text: str) -> None:
    """Replace a file at once: a reader sees the old or the new text, never half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def _remembered(folder: Path) -> dict[str, dict[str, int]]:
    try:
        found = json.loads((folder / _PORTS_FILE).read_text(encoding="utf-8"))
        return {
            str(name): {listener: int(ports[listener]) for listener in LISTENERS}
            for name, ports in found.items()
        }
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}  # none yet, or damaged: then ports are chosen anew


def _first_outgoing() -> int:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
        first = int(text.split()[0])
    except (OSError, ValueError, IndexError):
        return 32768
    return first if first > FIRST_PORT + TRIES else 65000

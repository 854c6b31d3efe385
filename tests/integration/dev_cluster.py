"""A cluster under ``meshsvc dev``, and what tests ask of it over its admin ports."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

MESHSVC = str(Path(sys.executable).with_name("meshsvc"))
START_S = 40.0


def wait_until(check, timeout_s, what):
    """Poll until ``check`` returns something true, and return it; else fail naming ``what``."""
    deadline = time.monotonic() + timeout_s
    last = None
    while time.monotonic() < deadline:
        last = check()
        if last:
            return last
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s: {what() if callable(what) else what}")


class Node:
    """One row of ``cluster.json``."""

    def __init__(self, cluster, name):
        self.cluster, self.name = cluster, name

    @property
    def row(self):
        return next(row for row in self.cluster.table() if row["name"] == self.name)

    @property
    def pid(self):
        return self.cluster.pids.get(self.name) or self.row["pid"]

    def http(self, path, body=None, timeout_s=5.0, port="admin"):
        """(status, parsed body, headers) of one request; (0, None, {}) when nobody answers."""
        data = None if body is None else json.dumps(body).encode()
        url = f"http://{self.row[port]}{path}"
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, data, {"Content-Type": "application/json"}),
                timeout=timeout_s,
            ) as answer:
                return answer.status, json.loads(answer.read() or b"null"), answer.headers
        except urllib.error.HTTPError as error:
            text = error.read()
            return (
                error.code,
                json.loads(text) if text.startswith((b"{", b"[")) else text,
                error.headers,
            )
        except (OSError, ValueError):
            return 0, None, {}

    def get(self, what):
        return self.http(f"/v1/{what}")[1]

    def metrics(self):
        """{series: value} of /metrics."""
        try:
            with urllib.request.urlopen(f"http://{self.row['admin']}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return {}
        rows = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {series: float(value) for series, value in rows}

    def call(self, target, verb, payload=None, timeout_s=2.0):
        """The reply, or the error as {"error": {"kind", "text"}}."""
        body = {"target": target, "verb": verb, "payload": payload, "timeout_s": timeout_s}
        return self.http("/v1/call", body, timeout_s + 5)[1]

    def statuses(self):
        return {row["name"]: row["status"] for row in self.get("members") or ()}

    def shard_pid(self, index):
        return next(row["pid"] for row in self.get("shards") if row["index"] == index)

    def kill(self, sig=signal.SIGKILL):
        os.kill(self.pid, sig)

    def cli(self, *args, timeout_s=20):
        """Run the CLI against this node."""
        env = {**os.environ, "MESHSVC_ADMIN": f"http://{self.row['admin']}"}
        return subprocess.run(
            [MESHSVC, *args],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=env,
            check=False,
        )


class DevCluster:
    """``meshsvc dev`` in a directory, until the end of the ``with`` block."""

    def __init__(self, directory, nodes=3, shards=2, extra=()):
        self.directory, self.count, self.shards, self.extra = Path(directory), nodes, shards, extra
        self.pids = {}
        self.started = []
        self.log = self.directory / "dev.out"

    def __enter__(self):
        command = [MESHSVC, "dev", "--nodes", str(self.count), "--shards", str(self.shards)]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [*command, "--dir", str(self.directory / "c"), *self.extra],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        try:
            wait_until(self._ready, START_S, self.log.read_text)
        except BaseException:
            self.__exit__()
            raise
        self.nodes = [Node(self, row["name"]) for row in self.table()]
        return self

    def _ready(self):
        if self.process.poll() is not None:
            raise AssertionError(f"dev ended: {self.log.read_text()}")
        return "formed" in self.log.read_text() and (self.directory / "c/cluster.json").exists()

    def __exit__(self, *_):
        for process in self.started:
            process.terminate()
        for process in (*self.started, self.process):
            if process is self.process:
                process.send_signal(signal.SIGINT)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    def table(self):
        return json.loads((self.directory / "c/cluster.json").read_text())["nodes"]

    def start_again(self, node):
        """Start a node that was killed, by hand."""
        process = self.run_node(node.row["config"])
        self.pids[node.name] = process.pid
        return process

    def run_node(self, config, log="by-hand.log"):
        with (Path(config).parent / log).open("ab") as out:
            process = subprocess.Popen(
                [MESHSVC, "run", "--config", str(config)],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        self.started.append(process)
        return process

    def describe(self):
        """Everything that tells why a wait failed."""
        return json.dumps(
            {node.name: [node.statuses(), node.get("mesh")] for node in self.nodes}, indent=1
        )

    def formed(self, nodes=None):
        """One epoch and every link up on these nodes, each seeing exactly them alive."""
        nodes = nodes or self.nodes
        names = {node.name for node in nodes}
        epochs = set()
        for node in nodes:
            mesh = node.get("mesh")
            if not mesh or mesh["state"] != "formed" or set(mesh["roster"]) != names:
                return None
            if {link["peer"] for link in mesh["links"] if link["state"] == "up"} != names - {
                node.name
            }:
                return None
            epochs.add(mesh["epoch"])
        return epochs.pop() if len(epochs) == 1 else None

    def wait_formed(self, nodes=None, timeout_s=30.0):
        return wait_until(lambda: self.formed(nodes), timeout_s, self.describe)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def epoch_of(text):
    return tuple(map(int, text.split(".")))

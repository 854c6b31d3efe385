"""A real node under test: its processes, its ports, and waits that have a deadline."""

from __future__ import annotations

import ast
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]


def wait_for(condition, timeout_s=20.0, what=None):
    """Poll until the condition is true; its value. Fails naming what did not come true."""
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s} s: {what or condition}")
        time.sleep(0.02)


def alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def kill(pid, number=signal.SIGKILL):
    """Signal one process, which may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class RunningNode:
    """``twistd meshsvc run`` in a directory of its own, with the fake shard."""

    def __init__(self, base, shards=2, extra="", listen='client = "127.0.0.1:0"', cpus=None):
        self.base = Path(base)
        self.data = self.base / "data"
        self.config = self.base / "node.toml"
        # Not pinned: the tests also run where there are fewer CPUs than shards.
        self.config.write_text(
            "[node]\n"
            'name = "n1"\ncluster = "test"\n'
            f'data_dir = "{self.data}"\n'
            f"cpu_allocation = {shards if cpus is None else cpus}\n"
            f"pin_cores = {'false' if cpus is None else 'true'}\n"
            f'[listen]\npeer = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\n{listen}\n{extra}\n'
        )
        self.output = self.base / "output"
        self.process = None
        self.seen = set()

    @property
    def command(self):
        """The arguments behind twistd's own."""
        factory = "--shard-factory=fake_shard:build"
        return ["meshsvc", "run", "--config", str(self.config), factory]

    @property
    def env(self):
        """The environment with the fake shard importable."""
        path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))
        return {**os.environ, "PYTHONPATH": path}

    def start(self, *, wait=True, env=None):
        """Start it in the foreground; ``wait`` until all shards are ready."""
        with open(self.output, "ab") as out:
            self.process = subprocess.Popen(
                [*TWISTD, "-n", "--pidfile=", *self.command],
                cwd=self.base,
                env={**self.env, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        if wait:
            self.wait_log("shards are ready")
        return self

    def run(self, *flags):
        """Run twistd to its end, as when a start fails."""
        return subprocess.run(
            [*TWISTD, *flags, *self.command],
            cwd=self.base,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def stop(self):
        """End every process of the node that is left, by its pid."""
        pids = {pid for pid in self.pids() if pid}
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
        for pid in pids | self.seen:
            if alive(pid) and b"meshsvc" in Path(f"/proc/{pid}/cmdline").read_bytes():
                kill(pid)

    def log(self):
        """What it printed so far."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def wait_log(self, text, timeout_s=20.0, times=1):
        """Wait until a text was printed, so many times."""
        try:
            wait_for(lambda: self.log().count(text) >= times, timeout_s, text)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None

    def wait_exit(self, timeout_s=20.0):
        """Wait for the end of the supervisor; its exit status."""
        return self.process.wait(timeout_s)

    def states(self):
        """Rows of ShardStates and of NodeCounters as shard 0 last saw them."""
        try:
            return ast.literal_eval((self.data / "states").read_text())
        except OSError:
            return (), {}

    def pids(self):
        """The pids of the shards by what they told, for those that run."""
        rows, _ = self.states()
        pids = [row[1] for row in rows]
        self.seen.update(pid for pid in pids if pid)
        return pids

    def children(self):
        """The pids of the supervisor's children, by index, from the process table."""
        found = {}
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in map(int, task.read_text().split()):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                for word in words:
                    if word.startswith(b"--index="):
                        found[int(word[8:])] = pid
        self.seen.update(found.values())
        return found

    def port(self, listener="client", shard=0):
        """The port that a shard was told for the only listener it asked for."""

        def told():
            with contextlib.suppress(OSError):
                for line in (self.data / f"notes-{shard}").read_text().splitlines():
                    if line.startswith("listening "):
                        return int(line.rpartition(":")[2])
            return None

        return wait_for(told, what=f"{listener} listens")

    def counter(self, shard, name, **labels):
        """The total of one counter as the supervisor reports it."""
        _, counted = self.states()
        wanted = sorted(map(list, labels.items()))
        for kind, series, have, value in counted.get(shard, []):
            if (kind, series, have) == ("c", name, wanted):
                return value
        return 0


class Client:
    """One connection to the fake shard; ``shard``, ``incarnation`` and ``pid`` who serves it."""

    def __init__(self, port, timeout_s=10.0):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.file = self.socket.makefile("rb")

    def greet(self):
        """Read who serves; (shard, incarnation, pid)."""
        line = self.file.readline()
        return tuple(map(int, line.split())) if line else None

    def echo(self, line=b"hello\n"):
        """Send a line and read it back."""
        self.socket.sendall(line)
        return self.file.readline() == line

    def close(self):
        """Close it."""
        self.file.close()
        self.socket.close()


def fd_count(pid):
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))

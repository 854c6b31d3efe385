"""Serf agents on loopback addresses: the yardstick of ``failure.py``.

Each agent has an address of its own (127.0.0.x) and the settings that serf ships for a LAN,
as meshsvc has its own defaults. What they see is read from their log lines as they write
them, so that watching costs no polling.
"""

from __future__ import annotations

import re
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

EVENT = re.compile(rb"serf: Event(Member(?:Join|Failed|Leave)): (\S+)")
EVENTS = {b"MemberJoin": "joined", b"MemberFailed": "dead", b"MemberLeave": "left"}


@dataclass
class Agent:
    """One agent; ``seen`` holds (monotonic seconds, event, node) in order."""

    name: str
    host: str
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    rest: bytes = b""
    seen: list[tuple[float, str, str]] = field(default_factory=list)


class Serf:
    """A cluster of agents; use as a context manager."""

    def __init__(self, command: str, count: int) -> None:
        self._command = command
        self._selector = selectors.DefaultSelector()
        self._folder = Path(tempfile.mkdtemp(prefix="mb-"))
        self.agents = [Agent(f"n{n}", f"127.0.0.{n + 10}") for n in range(1, count + 1)]

    def __enter__(self) -> Serf:
        return self

    def __exit__(self, *_: object) -> None:
        for agent in self.agents:
            self.kill(agent)
        self._selector.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self, agent: Agent) -> None:
        """Start an agent that joins through the first three others."""
        agent.started = time.monotonic()
        seeds = [other.host for other in self.agents if other is not agent][:3]
        agent.process = subprocess.Popen(
            [
                *(self._command, "agent", f"-node={agent.name}", f"-bind={agent.host}:7946"),
                *(f"-rpc-addr={agent.host}:7373", "-log-level=info", "-profile=lan"),
                *(f"-retry-join={seed}" for seed in seeds),
                "-retry-interval=1s",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=self._folder,
        )
        assert agent.process.stdout
        self._selector.register(agent.process.stdout, selectors.EVENT_READ, agent)

    def kill(self, agent: Agent) -> float:
        """kill -9; returns the monotonic moment."""
        moment = time.monotonic()
        if agent.process is not None:
            assert agent.process.stdout
            agent.process.send_signal(signal.SIGKILL)
            agent.process.wait()
            self._selector.unregister(agent.process.stdout)
            agent.process.stdout.close()
            agent.process = None
        return moment

    def wait(self, event: str, about: Agent, since: float, timeout_s: float) -> float:
        """Wait until every other agent saw the event; the moment the last of them did."""
        deadline = time.monotonic() + timeout_s
        watchers = [agent for agent in self.agents if agent is not about and agent.process]
        while True:
            moments = [_first(agent, event, about.name, since) for agent in watchers]
            if None not in moments:
                return max(moment for moment in moments if moment is not None)
            if time.monotonic() > deadline:
                late = [a.name for a, m in zip(watchers, moments, strict=True) if m is None]
                raise SystemExit(f"serf: {late} did not see {about.name} {event}")
            self.read(0.5)

    def read(self, timeout_s: float) -> None:
        """Take in what the agents wrote, waiting at most this long for it."""
        for key, _ in self._selector.select(timeout_s):
            agent: Agent = key.data
            data = key.fileobj.read1(65536)  # type: ignore[union-attr]
            if not data:
                self._selector.unregister(key.fileobj)
                continue
            now = time.monotonic()
            *lines, agent.rest = (agent.rest + data).split(b"\n")
            for line in lines:
                if found := EVENT.search(line):
                    agent.seen.append((now, EVENTS[found[1]], found[2].decode()))

    def settle(self, seconds: float) -> None:
        """Let time pass and keep reading."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.read(left)


def _first(agent: Agent, event: str, node: str, since: float) -> float | None:
    return next((at for at, e, n in agent.seen if at >= since and (e, n) == (event, node)), None)

"""One node of a local cluster as a process: started here, or found running and adopted."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.client import AdminClient
from meshsvc.admin.cli.dev_plan import CLUSTER, NodePlan, cluster_row
from meshsvc.admin.cli.dev_watch import Answers
from meshsvc.admin.cli.exits import CliError

POLL_TIMEOUT_S = 1.0
"""A node on this machine that needs longer is stopped or stuck, and the others matter too."""

MAX_STARTS_KEPT = 32

RUN = (sys.executable, "-m", "meshsvc.admin.cli.main", "run", "--config")
"""What starts a node when its config file is put behind it."""


class DevNode:
    """The process of a node, whoever started it, and its last known pids."""

    def __init__(self, plan: NodePlan, command: Sequence[str] = RUN) -> None:
        self.plan = plan
        self.command = command
        self.child: subprocess.Popen[bytes] | None = None
        self.adopted: Adopted | None = None
        self.shards: list[dict[str, Any]] = []
        self.starts: list[float] = []
        self.ended: str = ""
        self.client = AdminClient(plan.admin_url, POLL_TIMEOUT_S)

    @property
    def pid(self) -> int | None:
        """The pid of its supervisor, None while it is down."""
        if self.child is not None:
            return self.child.pid
        return self.adopted.pid if self.adopted is not None else None

    def start(self) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches it through dev alone."""
        with self.plan.log.open("ab") as log:
            self.child = subprocess.Popen(
                [*self.command, str(self.plan.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.starts = [*self.starts[-MAX_STARTS_KEPT:], time.monotonic()]
        self.ended = ""

    def check(self) -> int | None:
        """Notice that the process has ended: its exit status, negative for a signal."""
        status: int | None = None
        if self.child is not None:
            status = self.child.poll()
        elif self.adopted is not None and not self.adopted.alive():
            status = 0
        if status is None:
            return None
        self.ended = _cause(status) if self.child is not None else "ended"
        self.child, self.shards = None, []
        if self.adopted is not None:
            self.adopted.close()
            self.adopted = None
        self.client.close()
        return status

    def adopt(self) -> bool:
        """Take over a node that runs at this place already; whether there is one."""
        status = self._status()
        pid = status.get("pid") if status is not None else None
        if self.pid is not None or not isinstance(pid, int):
            return False
        try:
            self.adopted = Adopted(pid)
        except OSError:
            return False
        self.ended = ""
        self.refresh_shards()
        return True

    def runs_already(self) -> bool:
        """Whether this very node answers at its admin address."""
        found = self._status() is not None
        self.client.close()
        return found

    def answers(self) -> Answers | None:
        """Everything it says that matters for being formed; None when it does not answer."""
        try:
            return Answers(
                self.client.get("/v1/status"),
                self.client.get("/v1/members"),
                self.client.get("/v1/mesh"),
            )
        except CliError:
            return None

    def refresh_shards(self) -> None:
        """Ask for the pids of its shards; keeps the last answer when there is none."""
        with suppress(CliError):
            rows = self.client.get("/v1/shards")
            self.shards = [row for row in rows if isinstance(row.get("pid"), int)]

    def row(self) -> dict[str, Any]:
        """The node as ``cluster.json`` has it."""
        return cluster_row(self.plan, self.pid, self.shards if self.pid else [])

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its supervisor, if it runs."""
        with suppress(ProcessLookupError):
            if self.child is not None:
                self.child.send_signal(number)
            elif self.adopted is not None:
                self.adopted.signal(number)

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of its output."""
        try:
            with self.plan.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 64 * 1024))
                text = log.read().decode("utf-8", "replace")
        except OSError as error:
            return f"(no log: {error.strerror})"
        return "\n".join(text.splitlines()[-lines:]) or "(nothing)"

    def _status(self) -> dict[str, Any] | None:
        try:
            status: dict[str, Any] = self.client.get("/v1/status")
        except CliError as error:
            if error.code not in (exits.UNREACHABLE, exits.RETRY):
                raise
            return None
        mine = (status.get("name"), status.get("cluster")) == (self.plan.name, CLUSTER)
        return status if mine else None


class Adopted:
    """A process that is no child; held by a pidfd, so that a reused pid is never signalled."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    def alive(self) -> bool:
        """Whether it has not ended."""
        # A pidfd is readable from the end of its process, even while nobody has reaped it.
        return not select.select([self._fd], [], [], 0)[0]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        signal.pidfd_send_signal(self._fd, number)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)


def _cause(status: int) -> str:
    if status < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}"
        return f"killed by signal {-status}"
    return f"exit code {status}"

"""``meshsvc dev``: a cluster on this machine, started, watched and stopped by one command.

Rules: a node that ends stays down until it is started by hand, or by ``--heal``; one that
was started by hand is adopted. Ctrl-C stops all of them. ``cluster.json`` in the folder
appears when the cluster is formed and follows every change of a pid. If dev itself is
killed its nodes go on, and the next dev in the folder adopts them.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.dev_node import RUN, DevNode
from meshsvc.admin.cli.dev_plan import (
    CLUSTER,
    NodePlan,
    fitting,
    plan_nodes,
    write_atomically,
    write_configs,
)
from meshsvc.admin.cli.dev_watch import lacking, restart_delay
from meshsvc.admin.cli.exits import CliError
from meshsvc.admin.cli.output import table

FORM_S = 30.0
"""Any start order forms in under 10 s; three times that for a slow machine."""

STOP_S = 35.0
"""The drain budget of a node and what it takes to end afterwards."""

KILLED_S = 5.0
"""How long to wait for what was killed."""

STARTING_POLL_S = 0.1
RUNNING_POLL_S = 1.0

_PASSED_ON = (exits.BUG, 73, exits.IO, exits.RETRY, exits.DENIED, exits.CONFIG)
"""Exit codes of a node that say why a start failed, hence are dev's own then."""


def dev(args: argparse.Namespace) -> int:
    """Run a cluster on this machine until Ctrl-C."""
    from meshsvc.node.start import room_for_shards  # noqa: PLC0415 - takes Twisted along

    folder = Path(args.dir).absolute()
    shards, note = fitting(args.shards, room_for_shards())
    if note:
        print(f"meshsvc: {note}", file=sys.stderr)
    return run_cluster(folder, args.nodes, shards, args.heal, args.base_port)


def run_cluster(
    folder: Path,
    nodes: int,
    shards: int,
    heal: bool = False,
    base_port: int | None = None,
    command: Sequence[str] = RUN,
) -> int:
    """Run a cluster in a folder until a signal; ``command`` starts a node, given its config."""
    with _locked(folder), _Signals() as signals:
        plans = plan_nodes(folder, nodes, base_port, _runs_already)
        write_configs(plans, shards)
        cluster = _Cluster(folder, [DevNode(plan, command) for plan in plans], signals, heal)
        return cluster.run()


class _Signals:
    """SIGINT and SIGTERM as a count; any signal ends a wait, so that nothing is late."""

    def __init__(self) -> None:
        self._stops = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> _Signals:
        self._read, write = os.pipe()
        self._write = write
        os.set_blocking(write, False)
        os.set_blocking(self._read, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._on_stop)
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]
        os.close(self._read)
        os.close(self._write)

    def _on_stop(self, *_: object) -> None:
        self._stops += 1

    def stops(self) -> int:
        """How many times it was asked to stop."""
        return self._stops

    def wait(self, seconds: float) -> None:
        """Sleep, but not past a signal."""
        if select.select([self._read], [], [], seconds)[0]:
            os.read(self._read, 4096)


class _Cluster:
    def __init__(
        self, folder: Path, nodes: Sequence[DevNode], signals: _Signals, heal: bool
    ) -> None:
        self.file = folder / "cluster.json"
        self.nodes = nodes
        self.signals = signals
        self.heal = heal
        self.written = ""
        self.progress = _Progress()

    def run(self) -> int:
        self.file.unlink(missing_ok=True)  # its presence says that the cluster is formed
        try:
            started = self._start()
            if started != exits.OK or self.signals.stops():
                return started
            self._show()
            while not self.signals.stops():
                self._watch()
                self.signals.wait(RUNNING_POLL_S)
            print("\nstopping (again to kill) ...", flush=True)
        finally:
            self._stop()
        print("stopped; start again with the same --dir to go on with its data", flush=True)
        return exits.OK

    def _start(self) -> int:
        for node in self.nodes:
            if not node.adopt():
                node.start()
        began = time.monotonic()
        while not self.signals.stops():
            for node in self.nodes:
                status = node.check()
                if status is not None:
                    return self._failed({node.plan.name: node.ended}, status)
            missing = lacking({node.plan.name: node.answers() for node in self.nodes})
            took_s = time.monotonic() - began
            self.progress.show([node.plan.name for node in self.nodes], missing, took_s)
            if not missing:
                self.progress.end(f"formed in {took_s:.1f} s")
                return exits.OK
            if took_s > FORM_S:
                return self._failed(missing, exits.UNHEALTHY)
            self.signals.wait(STARTING_POLL_S)
        return exits.OK

    def _failed(self, missing: dict[str, str], status: int) -> int:
        self.progress.end("not formed")
        for node in self.nodes:
            if node.plan.name not in missing:
                continue
            print(f"{node.plan.name}: {missing[node.plan.name]}; {node.plan.log} ends with:")
            print("\n".join(f"  {line}" for line in node.log_tail().splitlines()))
        print("stopping the others", flush=True)
        return status if status in _PASSED_ON else exits.UNHEALTHY

    def _watch(self) -> None:
        now = time.monotonic()
        for node in self.nodes:
            if node.check() is not None:
                heal = "restarting it" if self.heal else f"start it with:\n  {_by_hand(node.plan)}"
                print(f"{node.plan.name} is down ({node.ended}); {heal}", flush=True)
            if node.pid is not None:
                node.refresh_shards()
            elif node.adopt():
                print(f"{node.plan.name} is back, started by hand (pid {node.pid})", flush=True)
            elif self.heal and restart_delay(node.starts, now) <= 0:
                node.start()
                print(f"{node.plan.name} restarted (pid {node.pid})", flush=True)
        self._write()

    def _write(self) -> None:
        rows = [node.row() for node in self.nodes]
        text = json.dumps({"cluster": CLUSTER, "nodes": rows}, indent=2) + "\n"
        if text != self.written:
            write_atomically(self.file, text)
            self.written = text

    def _show(self) -> None:
        for node in self.nodes:
            node.refresh_shards()
        self._write()
        rows = [node.row() for node in self.nodes]
        shown = [row | {"shards": [shard["pid"] for shard in row["shards"]]} for row in rows]
        print(table(shown, ["name", "pid", "peer", "client", "etcd", "admin", "shards"]))
        print(_next_commands(self.nodes[0].plan, self.nodes[-1].plan.name, self.file), flush=True)

    def _stop(self) -> None:
        asked = self.signals.stops()
        deadline = time.monotonic() + STOP_S
        for node in self.nodes:
            node.signal(signal.SIGTERM)
        killed = False
        while any(node.pid is not None for node in self.nodes):
            if time.monotonic() > deadline + KILLED_S:
                break  # in the kernel, on a disk that hangs: nobody can end it now
            for node in self.nodes:
                node.check()
            if not killed and (time.monotonic() > deadline or self.signals.stops() > asked):
                killed, deadline = True, time.monotonic()
                for node in self.nodes:
                    node.signal(signal.SIGKILL)
            self.signals.wait(0.05)
        if self.written:
            self._write()


class _Progress:
    """What is awaited while starting: one refreshed line on a terminal, else changes only."""

    def __init__(self) -> None:
        self.terminal = sys.stdout.isatty()
        self.last = ""

    def show(self, names: Sequence[str], missing: dict[str, str], took_s: float) -> None:
        text = ", ".join(f"{name} {missing.get(name, 'ready')}" for name in names)
        if self.terminal:
            width = shutil.get_terminal_size().columns
            print("\r\x1b[K" + f"{took_s:4.1f} s  {text}"[: width - 1], end="", flush=True)
        elif text != self.last:
            print(f"{took_s:4.1f} s  {text}", flush=True)
        self.last = text

    def end(self, text: str) -> None:
        print(("\r\x1b[K" if self.terminal else "") + text, flush=True)


def _runs_already(name: str, admin_port: int) -> bool:
    probe = DevNode(NodePlan(name, {"admin": admin_port}, Path()))
    return probe.runs_already()


def _by_hand(plan: NodePlan) -> str:
    return f"meshsvc run --config {plan.config}"


def _next_commands(plan: NodePlan, other: str, file: Path) -> str:
    admin, etcd = f"--admin {plan.admin_url}", f"--endpoints {plan.address('etcd')}"
    return f"""
try, in another terminal:
  meshsvc members {admin}
  meshsvc mesh {admin}
  meshsvc call {other} sys.info {admin}
  meshsvc events --follow {admin}
  meshsvc kv put greeting hello {admin}
  etcdctl get greeting {etcd}
logs: {file.parent}/n*/node.log    pids and ports: {file}
Ctrl-C stops all nodes."""


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "dev.lock").open("a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read(20).strip() or "?"
            text = (
                f"{folder} is in use by another dev (pid {holder}): stop it, or give another --dir"
            )
            raise CliError(exits.RETRY, text) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield

"""Load on replicated tables, measured in the shard that writes, joins or reads."""

from __future__ import annotations

import gc
from pathlib import Path
from time import perf_counter, process_time, thread_time

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater

OPEN_S = 120.0
BATCH = 1000
READ_KEYS = 10_000

PAUSE_STEP_S = 0.001
"""How often the reactor is asked whether it is late; a pause shows with this precision."""


def value(number: int) -> str:
    """What a session is: where it is, and which it is."""
    return f"node-1/{number % 4} session-{number:010}"


def key(number: int) -> str:
    """Of a user."""
    return f"user:{number}"


class TableVerbs:
    """Registered by ``BenchService`` under ``bench.t_*``."""

    NAMES = ("open", "fill", "reads", "inserts", "many", "watch", "watched", "rss")

    def __init__(self, mesh) -> None:
        self.mesh = mesh
        self._watch: Watch | None = None

    def __getitem__(self, name: str):
        return getattr(self, name)

    async def open(self, call) -> dict[str, float]:
        """Open a table here; seconds until it was joined with everybody, and its rows then."""
        wanted = call.payload["rows"]
        begun = perf_counter()
        table = await self.mesh.tables.open(call.payload["name"], join_wait_s=0)
        await table.wait_joined(OPEN_S)
        joined = perf_counter() - begun
        while len(table) < wanted:
            await deferLater(self.mesh.clock, 0.001)
        return {"joined": joined, "seconds": perf_counter() - begun, "rows": len(table)}

    async def fill(self, call) -> dict[str, float]:
        """Insert rows here; bytes of this process that a row takes."""
        table = self.mesh.tables[call.payload["name"]]
        gc.collect()
        before, rows = rss(), call.payload["rows"]
        for first in range(0, rows, BATCH):
            last = min(rows, first + BATCH)
            await table.insert_many([(key(n), value(n)) for n in range(first, last)])
        gc.collect()
        return {"bytes": rss() - before, "memory": table.memory, "rows": len(table)}

    async def reads(self, call) -> dict[str, float]:
        """Look-ups a second of the table, and of a dict with the same rows."""
        table = self.mesh.tables[call.payload["name"]]
        await table.insert_many([(key(n), value(n)) for n in range(READ_KEYS)])
        keys, plain = [key(n) for n in range(READ_KEYS)], dict(table.view)
        ours, theirs = [], []
        for _ in range(call.payload["rounds"]):
            theirs.append(rate_of(plain.get, keys))
            ours.append(rate_of(table.get, keys))
            await deferLater(self.mesh.clock, 0)
        return {"table": max(ours), "dict": max(theirs)}

    async def inserts(self, call) -> dict[str, float]:
        """Inserts a second, ``window`` in flight; each counts when every member has it."""
        table = self.mesh.tables[call.payload["name"]]
        run = _Inserts(table, call.payload["count"], call.payload["window"])
        return await run.start()

    async def many(self, call) -> dict[str, float]:
        """Rows a second in batches of a thousand, one batch after the other."""
        table = self.mesh.tables[call.payload["name"]]
        batches = [
            [(key(n), value(n)) for n in range(at, at + BATCH)]
            for at in range(0, call.payload["count"], BATCH)
        ]
        depth, at, failed = call.payload["depth"], iter(batches), [0]

        async def lane() -> None:
            for batch in at:
                result = await table.insert_many(batch)
                failed[0] += not result.ok

        begun, used = perf_counter(), process_time()
        lanes = [Deferred.fromCoroutine(lane()) for _ in range(depth)]
        for each in lanes:
            await each
        cpu = process_time() - used
        rate = len(batches) * BATCH / (perf_counter() - begun)
        return {"per_s": rate, "failed": failed[0], "cpu": cpu}

    def watch(self, call) -> None:
        """Watch the reactor from now on, and with a table's name reads and writes of it."""
        reset_peak()
        name = call.payload["name"]
        self._watch = Watch(self.mesh.clock, self.mesh.tables[name] if name else None)

    async def watched(self, _) -> dict[str, float]:
        """What was seen since, and the most memory this process had."""
        watch, self._watch = self._watch, None
        return await watch.end() | {"peak": peak()}

    def rss(self, _) -> int:
        """Bytes of this process now."""
        gc.collect()
        return rss()


class Watch:
    """The longest gap between turns of the reactor, read and write.

    ``busy`` is the most CPU time between two turns: what a gap is on a machine that has nothing
    else to do.
    """

    def __init__(self, clock, table) -> None:
        self._clock, self._table = clock, table
        self._last, self._used = perf_counter(), thread_time()
        self.pause = self.write = self.read = self.busy = 0.0
        self.writes = 0
        self._writing: Deferred[None] | None = None
        self._over = False
        self._beat = LoopingCall(self._look)
        self._beat.start(PAUSE_STEP_S, now=False)
        if table is not None:
            self._writing = Deferred.fromCoroutine(self._write())

    def _look(self) -> None:
        now = perf_counter()
        self.pause = max(self.pause, now - self._last - PAUSE_STEP_S)
        self.busy = max(self.busy, thread_time() - self._used)
        if self._table is not None:
            self._table.get("user:1")
            self.read = max(self.read, perf_counter() - now)
        self._last, self._used = perf_counter(), thread_time()

    async def _write(self) -> None:
        while not self._over:
            begun = perf_counter()
            await self._table.insert("watched", self.writes)
            self.write = max(self.write, perf_counter() - begun)
            self.writes += 1
            await deferLater(self._clock, PAUSE_STEP_S)

    async def end(self) -> dict[str, float]:
        """Seconds."""
        self._over = True
        self._beat.stop()
        if self._writing is not None:
            await self._writing
        seen = {"pause": self.pause, "busy": self.busy, "writes": self.writes}
        return seen | {"write": self.write, "read": self.read}


class _Inserts:
    """Inserts with a number of them in flight."""

    def __init__(self, table, count: int, window: int) -> None:
        self._table, self._count, self._window = table, count, window
        self._sent = self._done = self._failed = 0
        self._finished: Deferred[dict[str, float]] = Deferred()

    def start(self) -> Deferred[dict[str, float]]:
        """Fires with the figures."""
        self._begun, self._used = perf_counter(), process_time()
        for _ in range(self._window):
            self._next()
        return self._finished

    def _next(self) -> None:
        number = self._sent
        self._sent += 1
        self._table.insert(key(number), value(number)).addCallback(self._acked)

    def _acked(self, result) -> None:
        self._done += 1
        self._failed += not result.ok
        if self._sent < self._count:
            self._next()
        elif self._done == self._count:
            seconds = perf_counter() - self._begun
            cpu = process_time() - self._used
            figures = {"per_s": self._count / seconds, "failed": self._failed, "cpu": cpu}
            self._finished.callback(figures)


def rate_of(get, keys) -> float:
    """Look-ups a second in a plain loop, which is how an application reads."""
    begun = perf_counter()
    for _ in range(20):
        for each in keys:
            get(each)
    return 20 * len(keys) / (perf_counter() - begun)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def rss() -> int:
    """Bytes of this process now."""
    return _status("VmRSS")


def peak() -> int:
    """The most since ``reset_peak``."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Start over."""
    Path("/proc/self/clear_refs").write_text("5")

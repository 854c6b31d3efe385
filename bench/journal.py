"""Durable appends of 256-byte entries against a plain loop of write and fdatasync.

The yardstick writes the same bytes to a file of its own in the same directory, one entry or
64 for each fdatasync; it has no checksums, no index, no thread and nobody to tell. Ours is
the journal called directly, and the service in a reactor with 1 and with 256 waiting
appenders, each appending again when it is told. Affinity: none. The disk decides these
figures more than anything else, so only the ratios mean something elsewhere.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from figures import figure, options, percentile, progress, show
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from meshsvc.counters import Counters
from meshsvc.storage.files import RealFileSystem
from meshsvc.storage.opening import open_journal
from meshsvc.storage.records import Append, Entry, HardState
from meshsvc.storage.service import JournalService, WriterThread
from meshsvc.storage.store import open_store

DATA = os.urandom(256)
BATCH = 64
APPENDERS = 256
NODE = "ab" * 16
HARD = HardState(1, 1, 1)


def mint() -> int:
    return random.getrandbits(64)


@contextmanager
def folder(parent: str) -> Iterator[str]:
    path = tempfile.mkdtemp(prefix="bench-journal-", dir=parent)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def plain(parent: str, batch: int, seconds: float) -> float:
    """Entries per second of write and fdatasync."""
    with folder(parent) as path:
        fd = os.open(os.path.join(path, "f"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        data, count, begun = DATA * batch, 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            os.write(fd, data)
            os.fdatasync(fd)
            count += batch
        rate = count / (time.perf_counter() - begun)
        os.close(fd)
        return rate


def direct(parent: str, batch: int, seconds: float) -> float:
    """Entries per second of the journal, called directly: each group appends one a batch."""
    with folder(parent) as path:
        journal = open_journal(RealFileSystem(), path + "/journal", NODE, 0, mint)
        index, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            index += 1
            entries = (Entry(index, 1, 0, DATA),)
            journal.commit([Append(group, HARD, entries) for group in range(batch)])
        rate = index * batch / (time.perf_counter() - begun)
        journal.close()
        return rate


async def served(parent: str, appenders: int, seconds: float) -> tuple[float, list[float]]:
    """Entries per second, and each append's latency, of so many who wait for each append."""
    with folder(parent) as path:
        thread = WriterThread(reactor)
        service = JournalService(
            reactor,
            thread,
            lambda: open_store(RealFileSystem(), path, NODE, 0, mint),
            lambda code, text: None,
            Counters(),
        )
        await service.open()
        latencies: list[float] = []
        begun = time.perf_counter()

        async def appender(group: int) -> None:
            log, index = service.group(group), 0
            while (now := time.perf_counter()) - begun < seconds:
                index += 1
                await log.append(HARD, (Entry(index, 1, 0, DATA),))
                latencies.append(time.perf_counter() - now)

        for each in [Deferred.fromCoroutine(appender(group)) for group in range(appenders)]:
            await each
        rate = len(latencies) / (time.perf_counter() - begun)
        await service.stopService()
        return rate, latencies


async def measure(args) -> int:
    seconds = 0.5 if args.quick else 3.0
    rows: dict[str, list[float]] = {}
    latencies: list[float] = []
    for number in range(args.rounds or (2 if args.quick else 5)):
        progress(f"round {number + 1}")
        rows.setdefault("plain1", []).append(plain(args.dir, 1, seconds))
        rows.setdefault("direct1", []).append(direct(args.dir, 1, seconds))
        rate, _ = await served(args.dir, 1, seconds)
        rows.setdefault("served1", []).append(rate)
        rows.setdefault("plain64", []).append(plain(args.dir, BATCH, seconds))
        rows.setdefault("direct64", []).append(direct(args.dir, BATCH, seconds))
        rate, latencies = await served(args.dir, APPENDERS, seconds)
        rows.setdefault("served256", []).append(rate)
    one, many = "write+fdatasync of 1", f"write+fdatasync of {BATCH}"
    figures = [
        figure("journal, 1 a batch", "/s", rows["direct1"], rows["plain1"], (">=", 0.8), one),
        figure("journal, 64 a batch", "/s", rows["direct64"], rows["plain64"], (">=", 0.5), many),
        figure("service, 1 appender", "/s", rows["served1"], rows["plain1"], (">=", 0.5), one),
        figure("service, 256", "/s", rows["served256"], rows["plain64"], (">=", 0.3), many),
    ]
    p50, p99 = (percentile(latencies, share) * 1000 for share in (0.5, 0.99))
    notes = [f"{APPENDERS} appenders: an append takes {p50:.2f} ms (p50), {p99:.2f} ms (p99)"]
    return show("Durable appends of 256 bytes", figures, notes, args.json)


if __name__ == "__main__":
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--dir", default=".", help="on the disk to measure (here)")
    arguments = parser.parse_args()
    codes: list[int] = []
    with suppress(SystemExit):  # how react always ends
        react(lambda _: Deferred.fromCoroutine(measure(arguments)).addCallback(codes.append))
    raise SystemExit(codes[0] if codes else 1)

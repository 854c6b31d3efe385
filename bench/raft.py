"""Proposals a second through three Raft cores in one process, every message as bytes.

Affinity: one process on one CPU. No disks and no network: what is measured is the core and its
encoding. The yardstick is what cannot be saved: each entry encoded once, decoded by two
others and appended to three lists, at the same batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

from figures import figure, options, progress, show, show_yardstick

from meshsvc.raft.core import CONFIG, FRESH_TERM
from meshsvc.raft.messages import decode_message, encode_message
from meshsvc.raft.quorum import make_config
from meshsvc.raft.raft import Raft
from meshsvc.raft.settings import Settings
from meshsvc.storage.records import Entry, HardState
from meshsvc.wire.codec import decode, encode

BATCHES = (1, 128)
DATA = bytes(100)
UNITS = {f"encode and append, batch {batch}": "/s" for batch in BATCHES}


class Trio:
    """Three cores that hear each other at once; disks remember nothing and take no time."""

    def __init__(self) -> None:
        first = Entry(1, FRESH_TERM, CONFIG, make_config([1, 2, 3]).encoded())
        stored = (HardState(FRESH_TERM, 0, 1), None, [first])
        self.rafts = {me: Raft(me, stored, Settings(), Random(me), 0.0) for me in (1, 2, 3)}
        self.applied = 0
        self.rafts[1].tick(0.0)
        self.pump()

    def pump(self) -> None:
        """Do all duties of all members."""
        moved = True
        while moved:
            moved = False
            for me, raft in self.rafts.items():
                while (ready := raft.ready()) is not None:
                    moved = True
                    known, data = None, b""
                    for to, message in (*ready.messages, *ready.after):
                        if message is not known:
                            known, data = message, encode_message(message)
                        self.rafts[to].step(me, decode_message(data), 0.0)
                    if ready.durable:
                        raft.persisted(ready, 0.0)
                    if ready.committed:
                        raft.applied(ready.committed[-1].index)
                        self.applied += len(ready.committed) if me == 1 else 0


def ours(count: int, batch: int) -> float:
    """Proposals a second."""
    trio = Trio()
    began = time.process_time()
    for _ in range(0, count, batch):
        trio.rafts[1].propose([DATA] * batch, 0.0)
        trio.pump()
    took = time.process_time() - began
    if trio.applied < count:
        raise SystemExit(f"{count} were proposed, {trio.applied} applied")
    return count / took


def yardstick(count: int, batch: int) -> float:
    """Entries a second, encoded, decoded twice, appended three times."""
    logs: list[list[Entry]] = [[], [], []]
    began = time.process_time()
    for start in range(0, count, batch):
        entries = [Entry(start + n, 2, 1, DATA) for n in range(batch)]
        logs[0].extend(entries)
        flat: list[object] = []
        for entry in entries:
            flat += (entry.term, entry.kind, entry.data)
        data = encode([2, 2, start, 2, start, flat])
        for log in logs[1:]:
            row = decode(data)
            assert isinstance(row, list)
            found = row[5]
            log.extend(
                Entry(start + at // 3, *found[at : at + 3]) for at in range(0, len(found), 3)
            )
    return count / (time.process_time() - began)


def measured(run: Callable[[int, int], float], counts: dict[int, int]) -> dict[int, float]:
    """One round at each batch."""
    return {batch: run(counts[batch], batch) for batch in BATCHES}


def main() -> int:
    """Measure and print."""
    args = options(__doc__.splitlines()[0]).parse_args()
    rounds = args.rounds or (2 if args.quick else 7)
    counts = {1: 3_000 if args.quick else 10_000, 128: 38_400 if args.quick else 128_000}
    mine: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    theirs: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        for batch, value in measured(yardstick, counts).items():
            theirs[batch].append(value)
        if not args.yardstick:
            for batch, value in measured(ours, counts).items():
                mine[batch].append(value)
    if args.yardstick:
        show_yardstick(dict(zip(UNITS, theirs.values(), strict=True)), UNITS)
        return 0
    goals = {1: 0.05, 128: 0.3}
    figures = [
        figure(
            f"proposals, 3 members, batch {batch}",
            "/s",
            mine[batch],
            theirs[batch],
            (">=", goals[batch]),
            "encode and append",
        )
        for batch in BATCHES
    ]
    notes = ["100-byte proposals, one process", f"medians of {rounds} rounds"]
    return show("raft", figures, notes, args.json)


if __name__ == "__main__":
    raise SystemExit(main())

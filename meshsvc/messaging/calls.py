"""The caller's side of an ask: every one ends exactly once.

A call is pending from ``start`` until the first of: its reply, its deadline, the loss of
the way to its target (or of that life of it), or cancellation. Deadlines are kept in
buckets of ``TICK_S``, so that ten thousand pending asks cost one timer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

from meshsvc.messaging.lanes import Lane
from meshsvc.model import ShardAddress

TICK_S = 0.02
"""Deadlines are rounded up to this; promises speak of 50 ms."""

MAX_PENDING = 65536
"""Asks one shard may have pending; beyond it the next one is refused as Overloaded."""


@dataclass(slots=True, eq=False)
class PendingCall:
    """One ask that has not ended; ``waiter`` is whatever the service wants to be told with."""

    call_id: int
    waiter: Any
    lane: Lane
    item: bytes
    verb: Any
    started: float
    deadline: float


class CallTable:
    """All pending asks of a shard, by id; ids rise and are never reused."""

    def __init__(self) -> None:
        self._calls: dict[int, PendingCall] = {}
        self._buckets: dict[int, list[int]] = {}
        self._due: list[int] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def full(self) -> bool:
        """Whether another ask must be refused."""
        return len(self._calls) >= MAX_PENDING

    def next_id(self) -> int:
        """Reserve the id of the next call."""
        self._next += 1
        return self._next

    def start(self, call: PendingCall) -> bool:
        """Enter a call under an id from ``next_id``; True when ``deadline`` is earlier for it."""
        self._calls[call.call_id] = call
        bucket = int(call.deadline / TICK_S) + 1
        ids = self._buckets.get(bucket)
        if ids is not None:
            ids.append(call.call_id)
            return False
        self._buckets[bucket] = [call.call_id]
        heappush(self._due, bucket)
        return self._due[0] == bucket

    def end(self, call_id: int) -> PendingCall | None:
        """Take a call out; None when it ended before."""
        return self._calls.pop(call_id, None)

    def answered(self, call_id: int, source: ShardAddress) -> PendingCall | None:
        """Take a call out; None when it ended before, or when another shard was asked."""
        call = self._calls.get(call_id)
        if call is None or call.lane.target != source:
            return None
        del self._calls[call_id]
        return call

    def deadline(self) -> float | None:
        """When ``expire`` is next wanted; may be earlier than any call needs."""
        return self._due[0] * TICK_S if self._due else None

    def expire(self, now: float) -> list[PendingCall]:
        """Take out every call whose deadline has passed."""
        expired: list[PendingCall] = []
        while self._due and self._due[0] * TICK_S <= now:
            for call_id in self._buckets.pop(heappop(self._due)):
                call = self._calls.pop(call_id, None)
                if call is not None:
                    expired.append(call)
        return expired

    def on_lanes(self, lanes: Iterable[Lane]) -> list[PendingCall]:
        """Take out every call that travels over one of these lanes."""
        chosen = set(map(id, lanes))
        lost = [call for call in self._calls.values() if id(call.lane) in chosen]
        for call in lost:
            del self._calls[call.call_id]
        return lost

    def all(self) -> list[PendingCall]:
        """Take out every call: the service stops."""
        left = list(self._calls.values())
        self._calls.clear()
        return left

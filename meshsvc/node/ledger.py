"""Counters of all shards that never fall, although the processes that count them die.

A shard reports its totals with each beat. When its process ends, its last report is added
to what its earlier lives left behind, and the next life counts on top. What a killed shard
counted after its last beat is lost; that makes a total late, never lower.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from meshsvc.model import Incarnation, ShardId

MAX_SERIES = 4096
"""Series of one shard: some hundreds are normal, more than this is a label gone wild."""

Key = tuple[str, str, tuple[tuple[str, str], ...]]
"""Kind, name and labels of a series, as in ``Counters.snapshot``."""

_COUNTER, _GAUGE, _HISTOGRAM = "c", "g", "h"


class CounterLedger:
    """The rows of ``Counters.snapshot`` by shard, with dead lives added in."""

    def __init__(self) -> None:
        self._past: dict[ShardId, dict[Key, Any]] = {}
        self._now: dict[ShardId, tuple[Incarnation, dict[Key, Any]]] = {}

    def report(self, shard: ShardId, incarnation: Incarnation, rows: Iterable[Any]) -> None:
        """Take the totals of a life; those of an older life than the current are ignored."""
        current, _ = self._now.get(shard, (Incarnation(0), {}))
        if incarnation < current:
            return
        if incarnation > current:
            self.ended(shard)
        self._now[shard] = (incarnation, _parse(rows))

    def ended(self, shard: ShardId) -> None:
        """The current life of a shard is over: keep what it counted, forget its gauges."""
        incarnation, last = self._now.pop(shard, (Incarnation(0), {}))
        past = self._past.setdefault(shard, {})
        for key, data in last.items():
            if key[0] != _GAUGE:
                past[key] = _sum(past[key], data) if key in past else data
        # Remembered with nothing counted, so that a late report cannot be added twice.
        self._now[shard] = (Incarnation(incarnation + 1), {})

    def rows(self, shard: ShardId) -> list[list[object]]:
        """The rows of one shard over all its lives."""
        _, current = self._now.get(shard, (Incarnation(0), {}))
        total = dict(self._past.get(shard, {}))
        for key, data in current.items():
            total[key] = _sum(total[key], data) if key in total else data
        return [
            [kind, name, [list(pair) for pair in labels], data]
            for (kind, name, labels), data in total.items()
        ]

    @property
    def shards(self) -> list[ShardId]:
        """The shards that ever reported, in order."""
        return sorted(self._now)


def _parse(rows: Iterable[Any]) -> dict[Key, Any]:
    parsed: dict[Key, Any] = {}
    for row in rows:
        if len(parsed) == MAX_SERIES:
            break
        try:
            kind, name, labels, data = row
            key = (kind, name, tuple((label, value) for label, value in labels))
        except (TypeError, ValueError):
            continue  # a row of a newer shape: leave it out, keep the rest
        if _valid(kind, data):
            parsed[key] = data
    return parsed


def _valid(kind: object, data: Any) -> bool:
    if kind in (_COUNTER, _GAUGE):
        return isinstance(data, int | float)
    return kind == _HISTOGRAM and isinstance(data, Sequence) and len(data) == 3


def _sum(past: Any, now: Any) -> Any:
    if isinstance(past, int | float):
        return past + now
    buckets = [a + b for a, b in zip(past[0], now[0], strict=False)]
    return [buckets, past[1] + now[1], past[2] + now[2]]

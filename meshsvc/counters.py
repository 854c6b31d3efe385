"""Counters, gauges and histograms as plain numbers, cheap enough for the hot path.

A shard keeps one ``Counters``; its totals travel to the supervisor with every heartbeat,
where lives of a restarted shard are added up, and are exposed to Prometheus from there.
A series exists from its first use, so a scrape never shows rows of permanent zeroes.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

Labels = tuple[tuple[str, str], ...]
Series = tuple[str, Labels]

LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Upper bounds in seconds: from a hop on loopback to the longest default time-out."""


class Counter:
    """One series; add with ``counter.value += n``."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Histogram:
    """Counts by upper bound, with sum and count; buckets are fixed for all histograms."""

    __slots__ = ("buckets", "count", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(LATENCY_BUCKETS_S) + 1)
        self.count = 0
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Record one duration in seconds."""
        self.buckets[bisect_left(LATENCY_BUCKETS_S, seconds)] += 1
        self.count += 1
        self.total += seconds


def labels(**pairs: str) -> Labels:
    """Label pairs in the one order that makes equal sets equal keys."""
    return tuple(sorted(pairs.items()))


@dataclass(slots=True)
class Counters:
    """All series of one process, by name and labels."""

    counters: dict[Series, Counter] = field(default_factory=dict)
    gauges: dict[Series, float] = field(default_factory=dict)
    histograms: dict[Series, Histogram] = field(default_factory=dict)

    def counter(self, name: str, **pairs: str) -> Counter:
        """The counter of a series; hold on to it where it is bumped often."""
        key = (name, labels(**pairs))
        found = self.counters.get(key)
        if found is None:
            found = self.counters[key] = Counter()
        return found

    def add(self, name: str, amount: float = 1, **pairs: str) -> None:
        """Bump a counter by its name, for the cold paths."""
        self.counter(name, **pairs).value += amount

    def gauge(self, name: str, value: float, **pairs: str) -> None:
        """Set a gauge."""
        self.gauges[(name, labels(**pairs))] = value

    def histogram(self, name: str, **pairs: str) -> Histogram:
        """The histogram of a series; hold on to it where it is fed often."""
        key = (name, labels(**pairs))
        found = self.histograms.get(key)
        if found is None:
            found = self.histograms[key] = Histogram()
        return found

    def drop(self, variant: str, reason: str, amount: int = 1) -> None:
        """Count frames that were dropped: the only place a drop is counted."""
        self.add("frame_drops_total", amount, variant=variant, reason=reason)

    def total(self, name: str, **pairs: str) -> float:
        """The sum over every counter series of a name that carries the given labels."""
        wanted = set(pairs.items())
        return sum(
            counter.value
            for (series, have), counter in self.counters.items()
            if series == name and wanted <= set(have)
        )

    def snapshot(self) -> list[list[object]]:
        """Encodable rows ``[kind, name, [[label, value], ...], data]``; kind is c, g or h.

        ``data`` is a number for counters and gauges, ``[bucket counts, count, sum]`` else.
        """
        rows: list[list[object]] = []
        for (name, have), counter in self.counters.items():
            rows.append(["c", name, [list(pair) for pair in have], counter.value])
        for (name, have), value in self.gauges.items():
            rows.append(["g", name, [list(pair) for pair in have], value])
        for (name, have), hist in self.histograms.items():
            data = [list(hist.buckets), hist.count, hist.total]
            rows.append(["h", name, [list(pair) for pair in have], data])
        return rows

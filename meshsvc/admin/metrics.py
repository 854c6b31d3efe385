"""Counters as Prometheus text.

Rows of all processes of a node are grouped by series name, as the format demands, and told
apart by the labels that come with them. A name that is a counter here and a gauge there, or
a row of no known kind, is left out and counted rather than breaking the whole scrape.
``prometheus_client`` is imported with the first scrape: 1.2 MiB that an unwatched node saves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from meshsvc.counters import LATENCY_BUCKETS_S

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from meshsvc.admin.view import MetricRows

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_KINDS = {"c": "counter", "g": "gauge", "h": "histogram"}

HELP = {
    "frame_drops_total": "Frames that were dropped, by message and reason.",
    "link_refusals_total": "Links that were refused, by reason and side.",
    "discovery_checks_total": "Questions to the discovery backend, by how they ended.",
    "discovery_returns_total": "Nodes that came back: after a split, or restarted.",
    "discovery_discovery_works": "Whether the last check of discovery succeeded.",
    "discovery_unavailable_nodes": "Nodes that were discovered and cannot be reached.",
    "discovery_joined_nodes": "Nodes with the same tables, replicated by the same nodes.",
    "tables_rows": "Rows of a shard's copy of a table.",
    "tables_tombstones": "Deleted rows that a shard's copy still remembers.",
    "tables_memory_bytes": "About what a shard's copy of a table takes.",
    "tables_joins_total": "Joins of tables with other nodes that this one led, by outcome.",
    "tables_writes_acked_total": "Writes that a member has, once for each member.",
    "tables_writes_lost_total": "Writes whose answer did not come, once for each member.",
    "tables_writes_rejected_total": "Writes of others that were refused, as of a stale epoch.",
    "tables_rows_repaired_total": "Rows that two copies held differently when compared.",
    "tables_rows_disowned_total": "Rows that ended with the life of the node that owned them.",
    "tables_rows_rejected_total": "Rows of another copy that were not taken in.",
    "admin_metrics_skipped": "Rows this scrape left out because they fit no series.",
}
"""What a series counts; one without a line here is described by its name."""


def expose(processes: Iterable[MetricRows]) -> bytes:
    """The text of one scrape."""
    from prometheus_client.exposition import generate_latest  # noqa: PLC0415
    from prometheus_client.registry import CollectorRegistry  # noqa: PLC0415

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Scrape(processes))
    return generate_latest(registry)


class _Scrape:
    """A collector over rows that are there already."""

    def __init__(self, processes: Iterable[MetricRows]) -> None:
        self.processes = processes
        self.families: dict[str, Metric] = {}
        self.skipped = 0

    def describe(self) -> list[Metric]:
        """Nothing: what series there are is known when they are collected."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families of all rows."""
        for extra, rows in self.processes:
            for row in rows:
                self._take(row, extra)
        if self.skipped:
            self._family("admin_metrics_skipped", "gauge").add_sample(
                "admin_metrics_skipped", {}, self.skipped
            )
        yield from self.families.values()

    def _take(self, row: Sequence[Any], extra: dict[str, str]) -> None:
        try:
            kind, name, pairs, data = row
            labels = {str(label): str(value) for label, value in pairs} | extra
            type_ = _KINDS[kind]
            samples = list(_samples(type_, name, labels, data))
        except (KeyError, TypeError, ValueError, IndexError):
            self.skipped += 1
            return
        if not (_NAME.fullmatch(name) and all(map(_NAME.fullmatch, labels))):
            self.skipped += 1
            return
        exposed = name.removesuffix("_total") + "_total" if kind == "c" else name
        family = self._family(exposed, type_)
        if family.type != type_:
            self.skipped += 1
            return
        for sample in samples:
            family.add_sample(*sample)

    def _family(self, name: str, type_: str) -> Metric:
        from prometheus_client.core import Metric  # noqa: PLC0415

        found = self.families.get(name)
        if found is None:
            text = HELP.get(name) or name.replace("_", " ") + "."
            base = name.removesuffix("_total") if type_ == "counter" else name
            found = self.families[name] = Metric(base, text, type_)
        return found


def _samples(
    type_: str, name: str, labels: dict[str, str], data: Any
) -> Iterator[tuple[str, dict[str, str], float]]:
    if type_ == "counter":
        yield name.removesuffix("_total") + "_total", labels, float(data)
        return
    if type_ == "gauge":
        yield name, labels, float(data)
        return
    counts, count, total = data
    below = 0
    for bound, here in zip((*LATENCY_BUCKETS_S, None), counts, strict=True):
        below += here
        le = "+Inf" if bound is None else str(float(bound))
        yield f"{name}_bucket", labels | {"le": le}, float(below)
    yield f"{name}_count", labels, float(count)
    yield f"{name}_sum", labels, float(total)

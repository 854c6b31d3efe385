"""Events in pieces of bounded size: cut between revisions, or anywhere for who allows it."""

from __future__ import annotations

from collections.abc import Sequence

from meshsvc.kv.api import Event, EventBatch

EVENT_COST = 40
"""Bytes that an event takes on the wire beside keys and values, roughly."""


def size_of(event: Event) -> int:
    """Bytes that an event takes on the wire, roughly."""
    prev = event.prev_kv
    before = len(prev.key) + len(prev.value) + EVENT_COST if prev is not None else 0
    return len(event.kv.key) + len(event.kv.value) + EVENT_COST + before


def whole_revisions(events: Sequence[Event], limit: int) -> list[EventBatch]:
    """Batches that end between revisions; one revision that is large is one large batch."""
    return _cut(events, limit, whole=True)


def fragments(batch: EventBatch, limit: int) -> list[EventBatch]:
    """A batch cut between events wherever it gets large."""
    return [batch] if batch.size <= limit else _cut(batch.events, limit, whole=False)


def _cut(events: Sequence[Event], limit: int, *, whole: bool) -> list[EventBatch]:
    found: list[EventBatch] = []
    taken: list[Event] = []
    size = 0
    for event in events:
        more = size_of(event)
        here = not whole or (taken and event.kv.mod_revision != taken[-1].kv.mod_revision)
        if taken and size + more > limit and here:
            found.append(EventBatch(tuple(taken), size))
            taken, size = [], 0
        taken.append(event)
        size += more
    if taken:
        found.append(EventBatch(tuple(taken), size))
    return found

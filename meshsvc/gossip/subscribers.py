"""A bounded queue of events for each subscriber, so that a slow one delays only itself.

An overrun drops what is queued and marks the queue; the next event taken is then a
``Resync`` with the whole view, after which events follow as usual (contract GSP-6).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from meshsvc.gossip.events import AnyEvent, Event, Resync
from meshsvc.gossip.members import Member

MAX_QUEUED = 256
"""A burst as large as every node of a big site changing twice; beyond it a view is cheaper."""


class EventQueue:
    """The events one subscriber has not taken yet, in order."""

    def __init__(self, limit: int = MAX_QUEUED) -> None:
        self._limit = limit
        self._events: deque[Event] = deque()
        self._overrun = False
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._events) + self._overrun

    def put(self, event: Event) -> bool:
        """Queue an event; False when this overran the queue."""
        if self._overrun:
            self.dropped += 1
            return True
        if len(self._events) < self._limit:
            self._events.append(event)
            return True
        self.dropped += len(self._events) + 1
        self._events.clear()
        self._overrun = True
        return False

    def take(self, view: Callable[[], tuple[Member, ...]], now: float) -> AnyEvent | None:
        """The next event, or None; ``view`` answers what a resync shows, at ``now``."""
        if self._overrun:
            self._overrun = False
            return Resync(view(), now)
        return self._events.popleft() if self._events else None

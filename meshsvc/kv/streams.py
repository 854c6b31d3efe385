"""A stream of watches as the front holds it, and a watch as the hub does.

Both only keep state; what happens to them is decided in ``watch``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshsvc.kv.api import WatchCreate
from meshsvc.kv.backend import WatchSink
from meshsvc.kv.interests import Wish

if TYPE_CHECKING:
    from meshsvc.kv.watch import WatchHub


@dataclass(eq=False, slots=True)
class Watch:
    """A watcher.

    ``next_revision`` is where it reads on. Of a ``synced`` one it only counts while it lies
    ahead (a watch that begins in the future) or the watch is ``lagging``: its sink was full
    when something came. ``progress_at`` is when it is to hear of progress, None if it never
    asked for that.
    """

    watch_id: int
    stream: Stream
    wish: Wish
    next_revision: int
    fragment: bool
    synced: bool = False
    lagging: bool = False
    progress_at: float | None = None


class Stream:
    """Watches that share a sink: ``backend.WatchStream``."""

    __slots__ = ("_hub", "_next_id", "backlog", "paused", "sink", "watches")

    def __init__(self, hub: WatchHub, sink: WatchSink) -> None:
        self._hub = hub
        self.sink = sink
        self.watches: dict[int, Watch] = {}
        self._next_id = 0
        self.paused = False
        self.backlog = 0

    def free_id(self) -> int:
        """An id that no watch of this stream has; the first is 0."""
        while self._next_id in self.watches:
            self._next_id += 1
        self._next_id += 1
        return self._next_id - 1

    def create(self, request: WatchCreate) -> int:
        """Begin a watch."""
        return self._hub.create(self, request)

    def cancel(self, watch_id: int) -> None:
        """End a watch."""
        self._hub.cancel(self, watch_id)

    def request_progress(self) -> None:
        """Tell the revision once all watches are up to date."""
        self._hub.request_progress(self)

    def pause(self) -> None:
        """The sink is full."""
        self.paused = True

    def resume(self) -> None:
        """The sink can take more."""
        self._hub.resume(self)

    def close(self) -> None:
        """End all watches without a word."""
        self._hub.close(self)

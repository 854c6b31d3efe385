"""The event stream: what just happened, then what happens, one JSON object a line.

Rules: the last 256 events are kept for those who ask later; a client that reads slower than
events come gets a bounded buffer and is then cut, so that it costs the node nothing more; a
heartbeat line each 15 s tells a quiet node from a lost one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from meshsvc.admin.answers import to_json

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.web.http import Request

    from meshsvc.admin.view import Event

KEPT_EVENTS = 256
"""A few minutes of a restless cluster, in under 100 KiB."""

BUFFER_LINES = 1024
BUFFER_BYTES = 256 * 1024
"""What a client may be behind: a stall of seconds, at the memory of one outbox."""

MAX_STREAMS = 64
"""Streams at once: a quarter of the connections, so that questions are always answered."""

HEARTBEAT_S = 15.0


class EventFeed:
    """Takes events of the node, keeps the last ones and passes them to streams."""

    def __init__(self) -> None:
        self.recent: deque[bytes] = deque(maxlen=KEPT_EVENTS)
        self.streams: set[EventStream] = set()

    def publish(self, event: Event) -> None:
        """Give an event to everyone who listens."""
        line = to_json(event) + b"\n"
        self.recent.append(line)
        for stream in tuple(self.streams):
            stream.send(line)

    def close(self) -> None:
        """End every stream."""
        for stream in tuple(self.streams):
            stream.cut()


@implementer(IPushProducer)
class EventStream:
    """One client: a bounded buffer in front of its connection."""

    def __init__(self, feed: EventFeed, request: Request, reactor: IReactorTime) -> None:
        self.feed = feed
        self.request = request
        self.reactor = reactor
        self.waiting: deque[bytes] = deque()
        self.waiting_bytes = 0
        self.paused = False
        self.stuck = False
        self.beat: IDelayedCall | None = None

    def start(self, cut: Callable[[], None]) -> None:
        """Send what is kept, then follow; ``cut`` drops the connection at once."""
        self._cut = cut
        self.request.notifyFinish().addBoth(lambda _: self.stop())
        self.request.registerProducer(self, True)
        self.feed.streams.add(self)
        for line in (*self.feed.recent, self._heartbeat()):
            self.send(line)
        self._arm()

    def send(self, line: bytes) -> None:
        """Write a line, or keep it while the client does not read."""
        if not self.paused:
            self.request.write(line)
            return
        self.waiting.append(line)
        self.waiting_bytes += len(line)
        if len(self.waiting) > BUFFER_LINES or self.waiting_bytes > BUFFER_BYTES:
            self.cut()

    def cut(self) -> None:
        """Drop the client."""
        self.stop()
        self._cut()

    def stop(self) -> None:
        """Forget the client; safe to call twice."""
        self.feed.streams.discard(self)
        self.waiting.clear()
        if self.beat is not None:
            self.beat.cancel()
            self.beat = None

    def pauseProducing(self) -> None:
        """The connection is full."""
        self.paused = True

    def resumeProducing(self) -> None:
        """The connection takes data again."""
        self.paused = self.stuck = False
        while self.waiting and not self.paused:
            line = self.waiting.popleft()
            self.waiting_bytes -= len(line)
            self.request.write(line)

    def stopProducing(self) -> None:
        """The connection is gone."""
        self.stop()

    def _heartbeat(self) -> bytes:
        return to_json({"type": "heartbeat", "at": round(self.reactor.seconds(), 3)}) + b"\n"

    def _arm(self) -> None:
        self.beat = self.reactor.callLater(HEARTBEAT_S, self._on_heartbeat)

    def _on_heartbeat(self) -> None:
        self.beat = None
        if self.stuck:  # not one byte was taken since the heartbeat before
            self.cut()
            return
        self.stuck = self.paused
        self._arm()
        self.send(self._heartbeat())

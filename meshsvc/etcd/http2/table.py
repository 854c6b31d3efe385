"""The open streams of one connection, and how each of them ends."""

from __future__ import annotations

from collections import deque

from meshsvc.etcd.http2 import frames as fr
from meshsvc.etcd.http2.events import Event, StreamLost
from meshsvc.etcd.http2.frames import ErrorCode
from meshsvc.etcd.http2.headers import RequestHead
from meshsvc.etcd.http2.limits import Limits
from meshsvc.etcd.http2.sending import Sender, Stream
from meshsvc.etcd.http2.upkeep import Upkeep

LATE_STREAMS = 256
"""Streams that this side ended before the peer did: frames on their way then are not held
against the peer. A round trip's worth."""


class StreamTable:
    """Streams by id; a stream leaves when both sides ended it, or either reset it."""

    def __init__(self, limits: Limits, now: float) -> None:
        self.open: dict[int, Stream] = {}
        self.last_id = 0
        self.sender = Sender(self.open, limits.stream_high_bytes)
        self.upkeep = Upkeep(limits, now)
        self.events: list[Event] = []
        self.now = now
        self._window = limits.stream_window
        self._late: deque[int] = deque(maxlen=LATE_STREAMS)

    def add(self, stream_id: int, head: RequestHead) -> Stream:
        """A request began."""
        windows = (self._window, self.sender.initial_window)
        stream = self.open[stream_id] = Stream(stream_id, head, windows, self.now)
        self.upkeep.busy = True
        return stream

    def close_if_done(self, stream: Stream) -> None:
        """Our side of a stream ended: it is over, whatever its peer still had to say.

        A server that has answered needs no more of the request (RFC 9113, 8.1).
        """
        if stream.sent_all:
            if not stream.received_all:
                self.refuse(stream.stream_id, ErrorCode.NO_ERROR)
            self._remove(stream)

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """This side gives a stream up."""
        self.refuse(stream.stream_id, code)
        self._remove(stream)

    def lose(self, stream: Stream, code: ErrorCode, text: str) -> None:
        """This side gives a stream up that the layer above still works for."""
        self.reset(stream, code)
        self.events.append(StreamLost(stream.stream_id, code, text))

    def forget(self, stream: Stream, code: ErrorCode) -> None:
        """The peer gave a stream up."""
        self._remove(stream)
        self.events.append(StreamLost(stream.stream_id, code, "reset by the client"))

    def refuse(self, stream_id: int, code: ErrorCode) -> None:
        """Reset a stream that is not, or not any more, in the table."""
        self.sender.control(fr.pack_u32(fr.RST_STREAM, stream_id, code))
        self._late.append(stream_id)

    def ended_by_us(self, stream_id: int) -> bool:
        """Whether the peer may not know yet that a stream is over."""
        return stream_id in self._late

    def lose_all(self, code: ErrorCode, text: str) -> None:
        """The connection is over."""
        for stream in self.open.values():
            self.sender.drop(stream)
            self.events.append(StreamLost(stream.stream_id, code, text))
        self.open.clear()

    def _remove(self, stream: Stream) -> None:
        self.sender.drop(stream)
        self.open.pop(stream.stream_id, None)
        if not self.open:
            self.upkeep.busy = False
            self.upkeep.idle_since = self.now

"""The server's side of one HTTP/2 connection (RFC 9113), without I/O.

The seam: ``receive`` bytes and ``take_events``; answer with ``respond`` or with ``headers``,
``data`` and ``trailers``; write what ``take_output`` gives; call ``tick`` at ``deadline``.
Nothing above this package knows a frame. It serves requests only: no push, no upgrade from
HTTP/1.1, and priorities are read and ignored.
"""

from __future__ import annotations

from meshsvc.etcd.http2 import frames as fr
from meshsvc.etcd.http2.events import ConnectionEnded, Event, StreamWritable
from meshsvc.etcd.http2.frames import ErrorCode, Setting, Violation
from meshsvc.etcd.http2.limits import Limits
from meshsvc.etcd.http2.receiving import Receiver
from meshsvc.etcd.http2.table import StreamTable
from meshsvc.etcd.http2.upkeep import TEXTS, Due

PING_PAYLOAD = b"meshsvc?"


class Connection:
    """One connection, from the moment it is accepted at ``now`` (seconds, monotonic).

    ``closed`` is true once nothing more is received: after an error of the peer, silence, or
    idleness. The output that is left then says why.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self.closed = False
        self.draining = False
        self._limits = limits
        self._table = StreamTable(limits, now)
        self._sender = self._table.sender
        self._receiver = Receiver(self._table, limits)
        self._greet()

    # receiving

    def receive(self, data: bytes, now: float) -> None:
        """Bytes came; no peer's bytes make this raise."""
        if self.closed:
            return
        self._table.now = now
        self._table.upkeep.heard(now)
        try:
            self._receiver.receive(data)
        except Violation as error:
            self._end(error.code, error.text)

    def take_events(self) -> list[Event]:
        """What happened since the last call, in order."""
        table = self._table
        events, table.events = table.events, []
        return events

    # sending; calls for streams that are gone are ignored, as their loss was reported

    def respond(self, stream_id: int, head: bytes, data: bytes, trailers: bytes) -> None:
        """A whole response: two encoded header blocks around the data."""
        stream = self._table.open.get(stream_id)
        if stream is not None:
            self._sender.respond(stream, head, data, trailers)
            self._bound()
            self._table.close_if_done(stream)

    def headers(self, stream_id: int, block: bytes) -> None:
        """The head of a response that goes on."""
        stream = self._table.open.get(stream_id)
        if stream is not None:
            self._sender.headers(stream, block, False)

    def data(self, stream_id: int, data: bytes) -> bool:
        """A part of a response; false asks to pause until ``StreamWritable``."""
        stream = self._table.open.get(stream_id)
        if stream is None:
            return True
        self._sender.data(stream, data)
        if stream.queued_bytes > self._limits.stream_high_bytes:
            stream.told_to_pause = True
        self._bound()
        return not stream.told_to_pause

    def trailers(self, stream_id: int, block: bytes) -> None:
        """The end of a response, its only header block when nothing was sent before."""
        stream = self._table.open.get(stream_id)
        if stream is not None:
            self._sender.headers(stream, block, True)
            self._table.close_if_done(stream)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """Give a stream up; what it still had to send is dropped."""
        stream = self._table.open.get(stream_id)
        if stream is not None:
            self._table.reset(stream, code)

    def drain(self) -> None:
        """Ask the peer for no more requests; those that still come are served.

        The first GOAWAY names no last stream, so that requests which cross it are not lost;
        ``refuse`` ends that.
        """
        if not self.closed and not self.draining:
            self.draining = True
            self._sender.control(fr.pack_goaway(fr.STREAM_ID_MASK, ErrorCode.NO_ERROR, "drain"))

    def abandon(self, text: str) -> None:
        """The transport is gone: every stream is lost."""
        self.closed = True
        self._table.lose_all(ErrorCode.CANCEL, text)

    def refuse(self) -> None:
        """Take no more requests: the peer repeats elsewhere what comes from now on."""
        if not self.closed and self._receiver.accepting:
            self._receiver.accepting = False
            last = self._table.last_id
            self._sender.control(fr.pack_goaway(last, ErrorCode.NO_ERROR, "drain"))

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._table.open)

    def queued(self, stream_id: int) -> int:
        """Bytes that a stream still has to send beyond what its windows allowed."""
        stream = self._table.open.get(stream_id)
        return stream.queued_bytes if stream is not None else 0

    @property
    def has_output(self) -> bool:
        """Whether it is worth calling ``take_output``."""
        return self._sender.has_output

    def take_output(self, max_bytes: int) -> bytes:
        """What to write next, about ``max_bytes``; call again when the transport has room.

        May add ``StreamWritable`` to the events.
        """
        output, changed = self._sender.take(max_bytes)
        for stream in changed:
            if stream.sent_all:
                self._table.close_if_done(stream)
            elif stream.told_to_pause:
                stream.told_to_pause = False
                self._table.events.append(StreamWritable(stream.stream_id))
        return output

    # time

    def deadline(self) -> float | None:
        """When to call ``tick`` next; None once closed."""
        if self.closed:
            return None
        first = self._table.upkeep.pending()[0][0]
        if self._sender.queued_bytes:
            return min(first, self._table.now + self._limits.stall_s / 4)
        return first

    def tick(self, now: float) -> None:
        """Time passed."""
        if self.closed:
            return
        self._table.now = now
        due = self._table.upkeep.due(now)
        if due is Due.PING:
            self._sender.control(fr.pack(fr.PING, 0, 0, PING_PAYLOAD))
        elif due is not None:
            self._end(ErrorCode.NO_ERROR, TEXTS[due])
        for stream in list(self._table.open.values()):
            if stream.moved or not stream.queue:
                stream.moved = not stream.queue
                stream.stalled_since = now
            elif now - stream.stalled_since >= self._limits.stall_s:
                self._table.lose(stream, ErrorCode.CANCEL, "the client reads nothing")

    def _greet(self) -> None:
        limits = self._limits
        settings = {
            Setting.MAX_CONCURRENT_STREAMS: limits.streams,
            Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
            Setting.MAX_HEADER_LIST_SIZE: limits.header_bytes,
        }
        more = limits.connection_window - fr.DEFAULT_WINDOW
        self._sender.control(fr.pack_settings(settings) + fr.pack_u32(fr.WINDOW_UPDATE, 0, more))

    def _bound(self) -> None:
        """Hold no more for a slow reader than the limit: the streams that wait are lost."""
        if self._sender.queued_bytes > self._limits.queued_bytes:
            for stream in list(self._table.open.values()):
                if stream.queue:
                    self._table.lose(stream, ErrorCode.ENHANCE_YOUR_CALM, "responses are not read")

    def _end(self, code: ErrorCode, text: str) -> None:
        self.closed = True
        self._sender.control(fr.pack_goaway(self._table.last_id, code, text))
        self._table.lose_all(code, text)
        self._table.events.append(ConnectionEnded(code, text))

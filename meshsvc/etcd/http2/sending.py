"""One stream, and the sending half of a connection: windows, queues, turns.

A response that fits its windows goes out at once. What does not waits in its stream, and
streams take turns of one frame each, so a large response does not hold up small ones.
"""

from __future__ import annotations

from collections import deque

from meshsvc.etcd.http2.frames import (
    DATA,
    DEFAULT_FRAME_BYTES,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADER,
    HEADERS,
    MAX_WINDOW,
    ErrorCode,
    StreamViolation,
    Violation,
)
from meshsvc.etcd.http2.headers import RequestHead

DIRECT_BYTES = 1024 * 1024
"""Output that may wait for the transport before responses queue in their streams, where they
count: a few writes of 256 KiB."""


class Stream:
    """Both directions of one request."""

    __slots__ = (
        "head",
        "moved",
        "opened_at",
        "queue",
        "queued_bytes",
        "receive_window",
        "received",
        "received_all",
        "send_window",
        "sent_all",
        "stalled_since",
        "stream_id",
        "told_to_pause",
    )

    def __init__(
        self, stream_id: int, head: RequestHead, windows: tuple[int, int], now: float
    ) -> None:
        self.stream_id = stream_id
        self.head = head
        self.receive_window, self.send_window = windows
        self.opened_at = self.stalled_since = now
        self.moved = True
        """Whether data left since the last look; ``stalled_since`` is that look."""
        self.received = 0
        self.received_all = False
        self.sent_all = False
        self.queue: deque[tuple[bytes | memoryview, int]] = deque()
        """(header block, flags with END_HEADERS) or (data, 0)."""
        self.queued_bytes = 0
        self.told_to_pause = False


class Sender:
    """What leaves: made of frames that the windows allow, in the order of their streams."""

    def __init__(self, streams: dict[int, Stream], high_bytes: int) -> None:
        self._streams = streams
        self._high_bytes = high_bytes
        self.window = DEFAULT_WINDOW
        self.initial_window = DEFAULT_WINDOW
        self.max_frame = DEFAULT_FRAME_BYTES
        self.frames_sent = 0
        """DATA and HEADERS frames: what a peer's PINGs are held against."""
        self.queued_bytes = 0
        self.control_bytes = 0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._waiting: dict[int, Stream] = {}
        """Streams that may have something to send, in the order of their turns."""

    # putting in

    def control(self, frame: bytes) -> None:
        """A frame that no window holds back."""
        self.control_bytes += len(frame)
        self._push(frame)

    def respond(self, stream: Stream, head: bytes, data: bytes, trailers: bytes) -> None:
        """A whole response: header block, data, block of trailers."""
        size, sid = len(data), stream.stream_id
        room = min(stream.send_window, self.window, self.max_frame)
        if stream.queue or size > room or self._out_bytes > DIRECT_BYTES:
            self.headers(stream, head, False)
            self.data(stream, data)
            self.headers(stream, trailers, True)
            return
        stream.send_window -= size
        self.window -= size
        stream.sent_all = True
        self.frames_sent += 3
        pack = HEADER.pack
        self._push(
            b"".join(
                (
                    pack(len(head) >> 8, len(head) & 0xFF, HEADERS, END_HEADERS, sid),
                    head,
                    pack(size >> 8, size & 0xFF, DATA, 0, sid),
                    data,
                    pack(len(trailers) >> 8, len(trailers) & 0xFF, HEADERS, 5, sid),
                    trailers,
                )
            )
        )

    def headers(self, stream: Stream, block: bytes, end: bool) -> None:
        """A header block; with ``end`` the last of the stream.

        Raises:
            ValueError: when it does not fit the smallest frame a peer may demand.
        """
        if len(block) > DEFAULT_FRAME_BYTES:
            raise ValueError(f"a header block of {len(block)} bytes does not fit a frame")
        self._queue(stream, block, END_HEADERS | END_STREAM if end else END_HEADERS)

    def data(self, stream: Stream, data: bytes) -> None:
        """Bytes of the body."""
        if data:  # a view: frames are cut off its front without copying the rest
            self._queue(stream, memoryview(data) if len(data) > self.max_frame else data, 0)

    def drop(self, stream: Stream) -> None:
        """Forget what a stream still had to send."""
        self.queued_bytes -= stream.queued_bytes
        stream.queued_bytes = 0
        stream.queue.clear()
        self._waiting.pop(stream.stream_id, None)

    # windows

    def opened(self, stream: Stream | None, more: int) -> None:
        """The peer takes ``more`` bytes on a stream, or on the connection for None.

        Raises:
            Violation, StreamViolation: when the window would pass 2**31 - 1.
        """
        if stream is None:
            self.window += more
            if self.window > MAX_WINDOW:
                raise Violation(ErrorCode.FLOW_CONTROL_ERROR, "the connection window overflows")
            return
        stream.send_window += more
        if stream.send_window > MAX_WINDOW:
            raise StreamViolation(
                stream.stream_id, ErrorCode.FLOW_CONTROL_ERROR, "the stream window overflows"
            )
        if stream.queue:
            self._waiting[stream.stream_id] = stream

    def set_initial_window(self, size: int) -> None:
        """The peer changed INITIAL_WINDOW_SIZE: open streams move by the difference.

        Raises:
            Violation: when a window would pass 2**31 - 1.
        """
        change = size - self.initial_window
        self.initial_window = size
        for stream in self._streams.values():
            stream.send_window += change
            if stream.send_window > MAX_WINDOW:
                raise Violation(ErrorCode.FLOW_CONTROL_ERROR, "a stream window overflows")
            if stream.queue:
                self._waiting[stream.stream_id] = stream

    # taking out

    @property
    def has_output(self) -> bool:
        """Whether ``take`` would give something, as far as can be told without trying."""
        return bool(self._out) or bool(self._waiting)

    def take(self, max_bytes: int) -> tuple[bytes, list[Stream]]:
        """About ``max_bytes`` of output, and the streams that sent their last or have room."""
        changed: list[Stream] = []
        progress = bool(self._waiting)
        while progress and self._out_bytes < max_bytes:
            progress = False
            for stream in list(self._waiting.values()):
                if self._out_bytes >= max_bytes:
                    break
                progress |= self._turn(stream, changed)
        output = b"".join(self._out)
        self._out.clear()
        self._out_bytes = self.control_bytes = 0
        return output, changed

    def _turn(self, stream: Stream, changed: list[Stream]) -> bool:
        """Send one frame of a stream; false when its or our window is shut."""
        sid = stream.stream_id
        if not stream.queue:
            self._waiting.pop(sid, None)
            return False
        payload, flags = stream.queue[0]
        if not flags:
            room = min(stream.send_window, self.window, self.max_frame)
            if room <= 0:
                if stream.send_window <= 0:
                    del self._waiting[sid]  # its own WINDOW_UPDATE brings it back
                return False
            payload = self._next_data(stream, payload, room)
        else:
            stream.queue.popleft()
        self._emit(stream, payload, flags)
        stream.moved = True
        stream.queued_bytes -= len(payload)
        self.queued_bytes -= len(payload)
        self._waiting.pop(sid)
        if stream.queue:
            self._waiting[sid] = stream
        paused = stream.told_to_pause and stream.queued_bytes <= self._high_bytes // 2
        if stream.sent_all or paused:
            changed.append(stream)
        return True

    def _next_data(
        self, stream: Stream, payload: bytes | memoryview, room: int
    ) -> bytes | memoryview:
        if len(payload) <= room:
            stream.queue.popleft()
        else:
            stream.queue[0] = (payload[room:], 0)
            payload = payload[:room]
        stream.send_window -= len(payload)
        self.window -= len(payload)
        return payload

    def _queue(self, stream: Stream, payload: bytes | memoryview, flags: int) -> None:
        if not stream.queue and flags and self._out_bytes <= DIRECT_BYTES:
            self._emit(stream, payload, flags)
            return
        room = min(stream.send_window, self.window, self.max_frame)
        if not stream.queue and len(payload) <= room and self._out_bytes <= DIRECT_BYTES:
            stream.send_window -= len(payload)
            self.window -= len(payload)
            self._emit(stream, payload, flags)
            return
        stream.queue.append((payload, flags))
        stream.queued_bytes += len(payload)
        self.queued_bytes += len(payload)
        self._waiting.setdefault(stream.stream_id, stream)

    def _emit(self, stream: Stream, payload: bytes | memoryview, flags: int) -> None:
        size = len(payload)
        kind = HEADERS if flags else DATA
        self._push(HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream.stream_id) + payload)
        self.frames_sent += 1
        if flags & END_STREAM:
            stream.sent_all = True

    def _push(self, frame: bytes) -> None:
        self._out.append(frame)
        self._out_bytes += len(frame)

"""The receiving half of a connection: frames in, changes of streams and events out.

The rules it keeps:
- every header block is decoded, even of a stream that is refused, or later ones mean nothing;
- received bytes are credited to both windows at once: the layer above bounds what it holds;
- a peer's error on one stream resets that stream; any other is a ``Violation``;
- what a peer makes us do for nothing is paid from an allowance (``limits``).
"""

from __future__ import annotations

from collections.abc import Callable

from meshsvc.etcd.http2 import frames as fr
from meshsvc.etcd.http2 import limits as costs
from meshsvc.etcd.http2.events import DataReceived, StreamOpened
from meshsvc.etcd.http2.frames import ErrorCode, Setting, StreamViolation, Violation
from meshsvc.etcd.http2.headers import HeaderDecoder, Malformed
from meshsvc.etcd.http2.limits import Allowance, Limits
from meshsvc.etcd.http2.sending import Stream
from meshsvc.etcd.http2.table import StreamTable

QUICK_RESET_S = 1.0
"""A stream reset sooner than this was hardly meant to be answered."""

LARGEST_SENT = 64 * 1024
"""A frame of ours, whatever the peer allows: streams take turns of one frame each."""


class Receiver:
    """Reads what the peer sends; ``accepting`` turns false when no more streams are taken."""

    def __init__(self, table: StreamTable, limits: Limits) -> None:
        self.accepting = True
        self._table = table
        self._limits = limits
        self._decoder = HeaderDecoder(limits.header_bytes)
        self._allowance = Allowance(limits.chores, limits.chores_per_s, table.now)
        self._paid_frames = 0
        self._buffer = b""
        self._preface_seen = False
        self._block: tuple[int, int, bytearray] | None = None
        self._window = limits.connection_window
        self._on: dict[int, Callable[[int, int, bytes], None]] = {
            fr.DATA: self._data,
            fr.HEADERS: self._headers,
            fr.PRIORITY: self._priority,
            fr.RST_STREAM: self._reset,
            fr.SETTINGS: self._settings,
            fr.PUSH_PROMISE: self._push_promise,
            fr.PING: self._ping,
            fr.GOAWAY: self._goaway,
            fr.WINDOW_UPDATE: self._window_update,
            fr.CONTINUATION: self._continuation,
        }

    def receive(self, data: bytes) -> None:
        """Read as many frames as there are.

        Raises:
            Violation: the connection is over.
        """
        if self._buffer:
            data = self._buffer + data
        if not self._preface_seen:
            if not fr.PREFACE.startswith(data[: len(fr.PREFACE)]):
                raise Violation(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")
            if len(data) < len(fr.PREFACE):
                self._buffer = data
                return
            self._preface_seen = True
            data = data[len(fr.PREFACE) :]
        self._buffer = data[self._frames(data) :]

    def _frames(self, data: bytes) -> int:
        """Handle the whole frames in ``data``; the number of bytes they took."""
        at, size, unpack = 0, len(data), fr.HEADER.unpack_from
        while size - at >= fr.HEADER_BYTES:
            high, low, kind, flags, stream_id = unpack(data, at)
            length = high << 8 | low
            if length > fr.DEFAULT_FRAME_BYTES:
                raise Violation(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            start = at + fr.HEADER_BYTES
            if start + length > size:
                break
            at = start + length
            self._frame(kind, flags, stream_id & fr.STREAM_ID_MASK, data[start:at])
        return at

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is not None and (kind != fr.CONTINUATION or stream_id != self._block[0]):
            raise Violation(ErrorCode.PROTOCOL_ERROR, "a frame between HEADERS and CONTINUATION")
        if not self._table.upkeep.greeted and kind != fr.SETTINGS:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        receive = self._on.get(kind)
        if receive is None:
            self._chore(costs.EMPTY_COST)
            return
        try:
            receive(flags, stream_id, payload)
        except StreamViolation as error:
            stream = self._table.open.get(error.stream_id)
            if stream is not None:
                self._table.lose(stream, error.code, error.text)
            else:
                self._table.refuse(error.stream_id, error.code)

    # requests

    def _headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if flags & (fr.PADDED | fr.WITH_PRIORITY):
            payload = fr.unpadded(flags, payload)
            if flags & fr.WITH_PRIORITY:
                if len(payload) < 5:
                    raise Violation(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without its priority")
                payload = payload[5:]
        if flags & fr.END_HEADERS:
            self._block_received(flags, stream_id, payload)
        else:
            self._block = (stream_id, flags, bytearray(payload))
            self._table.upkeep.block_since = self._table.now

    def _continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is None:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        _, first_flags, block = self._block
        self._chore(costs.EMPTY_COST)
        block += payload
        if len(block) > self._limits.header_bytes:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, f"a header block of {len(block)} bytes")
        if flags & fr.END_HEADERS:
            self._block = self._table.upkeep.block_since = None
            self._block_received(first_flags, stream_id, bytes(block))

    def _block_received(self, flags: int, stream_id: int, block: bytes) -> None:
        table, ended = self._table, bool(flags & fr.END_STREAM)
        if stream_id <= table.last_id or not stream_id & 1:
            self._known_stream(stream_id, block, ended)
            return
        table.last_id = stream_id
        try:
            head = self._decoder.recall(block) or self._decoder.decode(block)
        except Malformed as error:
            raise StreamViolation(stream_id, ErrorCode.PROTOCOL_ERROR, str(error)) from error
        if not self.accepting or len(table.open) >= self._limits.streams:
            self._chore(costs.EMPTY_COST)
            table.refuse(stream_id, ErrorCode.REFUSED_STREAM)
            return
        stream = table.add(stream_id, head)
        table.events.append(StreamOpened(stream_id, head, ended))
        if ended:
            self._request_ended(stream)

    def _known_stream(self, stream_id: int, block: bytes, ended: bool) -> None:
        """A header block that opens nothing: trailers, a late one, or a mistake."""
        self._decoder.decode_fields(block)
        stream = self._table.open.get(stream_id)
        if stream is None:
            if not self._table.ended_by_us(stream_id):
                raise Violation(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}")
            self._chore(costs.EMPTY_COST)
        elif stream.received_all:
            raise StreamViolation(stream_id, ErrorCode.STREAM_CLOSED, "HEADERS after the end")
        elif not ended:
            raise StreamViolation(stream_id, ErrorCode.PROTOCOL_ERROR, "trailers without an end")
        else:
            self._request_ended(stream)
            self._table.events.append(DataReceived(stream_id, b"", True))

    def _request_ended(self, stream: Stream) -> None:
        stream.received_all = True
        announced = stream.head.content_length
        if announced not in (-1, stream.received):
            text = f"content-length is {announced}, {stream.received} bytes came"
            raise StreamViolation(stream.stream_id, ErrorCode.PROTOCOL_ERROR, text)

    def _data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        stream = self._table.open.get(stream_id)
        self._credit(size)
        if stream is None:
            if stream_id > self._table.last_id or not stream_id & 1:
                raise Violation(ErrorCode.PROTOCOL_ERROR, f"DATA on idle stream {stream_id}")
            self._chore(costs.EMPTY_COST)
            return
        if stream.received_all:
            raise StreamViolation(stream_id, ErrorCode.STREAM_CLOSED, "DATA after the end")
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise StreamViolation(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "window exceeded")
        data = fr.unpadded(flags, payload) if flags & fr.PADDED else payload
        stream.received += len(data)
        if flags & fr.END_STREAM:
            self._request_ended(stream)
        elif not data:
            self._chore(costs.EMPTY_COST)
        elif stream.receive_window < self._limits.stream_window // 2:
            more = self._limits.stream_window - stream.receive_window
            stream.receive_window += more
            self._table.sender.control(fr.pack_u32(fr.WINDOW_UPDATE, stream_id, more))
        self._table.events.append(DataReceived(stream_id, data, stream.received_all))

    def _credit(self, size: int) -> None:
        self._window -= size
        if self._window < 0:
            raise Violation(ErrorCode.FLOW_CONTROL_ERROR, "the connection window is exceeded")
        if self._window < self._limits.connection_window // 2:
            more = self._limits.connection_window - self._window
            self._window += more
            self._table.sender.control(fr.pack_u32(fr.WINDOW_UPDATE, 0, more))

    # the rest

    def _reset(self, _flags: int, stream_id: int, payload: bytes) -> None:
        _expect(len(payload) == 4, "RST_STREAM is not 4 bytes long")
        stream = self._table.open.get(stream_id)
        if stream is None:
            _expect(0 < stream_id <= self._table.last_id, "idle streams", ErrorCode.PROTOCOL_ERROR)
            self._chore(costs.EMPTY_COST)
            return
        if self._table.now - stream.opened_at < QUICK_RESET_S:
            self._chore(costs.RESET_COST)
        code = int.from_bytes(payload, "big")
        known = ErrorCode(code) if code in ErrorCode.__members__.values() else ErrorCode.CANCEL
        self._table.forget(stream, known)

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        _expect(stream_id == 0, "SETTINGS on a stream", ErrorCode.PROTOCOL_ERROR)
        if flags & fr.ACK:
            _expect(not payload, "an acknowledgement of SETTINGS with a payload")
            self._chore(costs.EMPTY_COST)
            return
        self._chore(costs.SETTINGS_COST)
        sender = self._table.sender
        for key, value in fr.unpack_settings(payload):
            if key == Setting.INITIAL_WINDOW_SIZE:
                sender.set_initial_window(value)
            elif key == Setting.MAX_FRAME_SIZE:
                sender.max_frame = min(value, LARGEST_SENT)
        self._table.upkeep.greeted = True
        self._answer(fr.pack(fr.SETTINGS, fr.ACK, 0))

    def _ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        _expect(stream_id == 0, "PING on a stream", ErrorCode.PROTOCOL_ERROR)
        _expect(len(payload) == 8, "PING is not 8 bytes long")
        self._chore(costs.PING_COST)
        if not flags & fr.ACK:
            self._answer(fr.pack(fr.PING, fr.ACK, 0, payload))

    def _window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        _expect(len(payload) == 4, "WINDOW_UPDATE is not 4 bytes long")
        more = int.from_bytes(payload, "big") & fr.STREAM_ID_MASK
        stream = self._table.open.get(stream_id) if stream_id else None
        if stream_id and stream is None:
            _expect(stream_id <= self._table.last_id, "idle streams", ErrorCode.PROTOCOL_ERROR)
            return
        if not more:
            text = "WINDOW_UPDATE by 0"
            if stream is None:
                raise Violation(ErrorCode.PROTOCOL_ERROR, text)
            raise StreamViolation(stream_id, ErrorCode.PROTOCOL_ERROR, text)
        self._table.sender.opened(stream, more)

    def _priority(self, _flags: int, stream_id: int, payload: bytes) -> None:
        _expect(stream_id != 0, "PRIORITY on the connection", ErrorCode.PROTOCOL_ERROR)
        if len(payload) != 5:
            raise StreamViolation(stream_id, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY: not 5 bytes")
        self._chore(costs.EMPTY_COST)

    def _push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        raise Violation(ErrorCode.PROTOCOL_ERROR, "a client cannot push")

    def _goaway(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """The peer opens no more streams; those it has are served."""
        _expect(stream_id == 0, "GOAWAY on a stream", ErrorCode.PROTOCOL_ERROR)
        _expect(len(payload) >= 8, "GOAWAY is shorter than 8 bytes")
        self._chore(costs.EMPTY_COST)

    def _answer(self, frame: bytes) -> None:
        sender = self._table.sender
        sender.control(frame)
        if sender.control_bytes > self._limits.control_bytes:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "answers are not read")

    def _chore(self, cost: float) -> None:
        """A frame that carries no request: pay for it, or the connection ends."""
        sent = self._table.sender.frames_sent
        self._allowance.earn(sent - self._paid_frames)
        self._paid_frames = sent
        if not self._allowance.spend(cost, self._table.now):
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "too many frames without a request")


def _expect(holds: bool, text: str, code: ErrorCode = ErrorCode.FRAME_SIZE_ERROR) -> None:
    if not holds:
        raise Violation(code, text)

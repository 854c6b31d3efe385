"""HTTP/2 frames as bytes: numbers of RFC 9113, packing, and the errors a frame can cause."""

from __future__ import annotations

import struct
from enum import IntEnum

from meshsvc.errors import RemoteError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first."""

HEADER = struct.Struct(">HBBBI")
"""Length (16 high bits, 8 low bits), type, flags, stream id with a reserved high bit."""

HEADER_BYTES = 9
STREAM_ID_MASK = 0x7FFFFFFF
MAX_WINDOW = 0x7FFFFFFF
DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_BYTES = 16_384
LARGEST_FRAME_BYTES = 0xFFFFFF

DATA = 0
HEADERS = 1
PRIORITY = 2
RST_STREAM = 3
SETTINGS = 4
PUSH_PROMISE = 5
PING = 6
GOAWAY = 7
WINDOW_UPDATE = 8
CONTINUATION = 9

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20


class Setting(IntEnum):
    """Identifiers of SETTINGS; others are ignored, as the RFC demands."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Violation(RemoteError):
    """The peer broke HTTP/2: the connection ends with GOAWAY(``code``), ``text`` in it."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class StreamViolation(RemoteError):
    """The peer broke one stream: it ends with RST_STREAM(``code``), the connection goes on."""

    def __init__(self, stream_id: int, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.stream_id = stream_id
        self.code = code
        self.text = text


def pack(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame; the payload is at most the peer's MAX_FRAME_SIZE, which the caller knows."""
    size = len(payload)
    return HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def pack_settings(values: dict[Setting, int]) -> bytes:
    """A SETTINGS frame."""
    payload = b"".join(struct.pack(">HI", key, value) for key, value in values.items())
    return pack(SETTINGS, 0, 0, payload)


def pack_u32(kind: int, stream_id: int, value: int) -> bytes:
    """A frame whose payload is one 32-bit number: RST_STREAM or WINDOW_UPDATE."""
    return pack(kind, 0, stream_id, value.to_bytes(4, "big"))


def pack_goaway(last_stream_id: int, code: ErrorCode, text: str) -> bytes:
    """A GOAWAY frame with ``text`` as its debug data."""
    return pack(GOAWAY, 0, 0, struct.pack(">II", last_stream_id, code) + text.encode())


def unpack_settings(payload: bytes) -> list[tuple[int, int]]:
    """The (identifier, value) pairs of a SETTINGS frame.

    Raises:
        Violation: when the payload is no whole number of pairs or a value is out of range.
    """
    if len(payload) % 6:
        raise Violation(ErrorCode.FRAME_SIZE_ERROR, "a SETTINGS frame ends inside a setting")
    pairs = list(struct.iter_unpack(">HI", payload))
    for key, value in pairs:
        if key == Setting.INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise Violation(ErrorCode.FLOW_CONTROL_ERROR, f"initial window of {value}")
        if key == Setting.ENABLE_PUSH and value > 1:
            raise Violation(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH is {value}")
        if (
            key == Setting.MAX_FRAME_SIZE
            and not DEFAULT_FRAME_BYTES <= value <= LARGEST_FRAME_BYTES
        ):
            raise Violation(ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE is {value}")
    return pairs


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload of a DATA or HEADERS frame without its padding.

    Raises:
        Violation: when the padding is longer than the frame.
    """
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Violation(ErrorCode.PROTOCOL_ERROR, "the padding is longer than its frame")
    return payload[1 : len(payload) - payload[0]]

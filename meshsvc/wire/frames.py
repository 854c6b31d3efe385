"""Frames: a four-byte big-endian length, then that many bytes of body.

The announced length is judged before a byte of the body is kept, so a peer that announces
a gigabyte costs four bytes.
"""

from __future__ import annotations

from struct import Struct

from meshsvc.errors import FrameTooLarge, WireError

MAX_FRAME_BEFORE_AUTH = 64 * 1024
"""Bytes of one body until the handshake is done: strangers get little memory."""

MAX_FRAME = 1024 * 1024
"""Bytes of one body afterwards; larger payloads are chunked above the link."""

PREFIX_BYTES = 4
_prefix = Struct(">I")
_pack = _prefix.pack
_unpack_from = _prefix.unpack_from


def pack(body: bytes) -> bytes:
    """One frame around a body, which the caller keeps within ``MAX_FRAME``."""
    return _pack(len(body)) + body


class FrameBuffer:
    """Cuts a byte stream into bodies; holds at most one incomplete frame.

    ``limit`` may be raised at any time (it is, when a handshake completes).
    """

    __slots__ = ("_data", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._data = b""

    @property
    def pending(self) -> int:
        """Bytes of the frame that is not complete yet."""
        return len(self._data)

    def feed(self, data: bytes) -> list[bytes]:
        """Add bytes; return the bodies they complete, in order.

        Raises:
            FrameTooLarge: when a length over ``limit`` is announced.
            WireError: when an empty frame is announced.
        """
        size = len(data) - PREFIX_BYTES
        if size > 0 and not self._data and _unpack_from(data)[0] == size <= self.limit:
            return [data[PREFIX_BYTES:]]  # one whole frame, as most reads are
        bodies, rest = self.take(data, len(data) + len(self._data))
        assert not rest
        return bodies

    def take(self, data: bytes, most: int) -> tuple[list[bytes], bytes]:
        """Like ``feed`` for at most ``most`` bodies; also returns the bytes behind them.

        Use this while ``limit`` may change between two frames of one read; what is behind
        must be handed in again.
        """
        if self._data:
            data = self._data + data
            self._data = b""
        bodies: list[bytes] = []
        start, size = 0, len(data)
        while len(bodies) < most and size - start >= PREFIX_BYTES:
            (length,) = _unpack_from(data, start)
            if length > self.limit:
                raise FrameTooLarge(
                    f"a frame of {length} bytes was announced, {self.limit} are allowed"
                )
            if not length:
                raise WireError("an empty frame was announced")
            end = start + PREFIX_BYTES + length
            if end > size:
                break
            bodies.append(data[start + PREFIX_BYTES : end])
            start = end
        rest = data[start:] if start else data
        if len(bodies) == most:
            return bodies, rest
        self._data = rest
        return bodies, b""

"""What is to be written to one stream, bounded in frames and in bytes.

A frame is accepted or refused at once, nothing ever waits (LINK-5): the memory that a peer
which stopped reading can cost is ``max_bytes`` and a few control frames. Those have a place
of their own in front, so that a full outbox can still say why it closes.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from meshsvc.model import Sent

Frame = bytes
"""Length and body, as it goes over the wire."""

MAX_URGENT_FRAMES = 64
"""Control frames are small and answered or replaced; 64 unread ones mean a dead reader."""


def write_now(transport: Any, data: bytes) -> None:
    """Give bytes to the socket of a ``FileDescriptor``, which nearly always takes them all: that
    saves a pass of the reactor, and telling the kernel twice what to watch for. What it does
    not take goes the usual way, by the buffer of the transport.
    """
    if not transport.dataBuffer:
        sent = transport.writeSomeData(data)
        if sent == len(data):
            return
        if type(sent) is int:  # else the connection is lost, as the reactor will find out
            data = data[sent:]
    transport.write(data)
    transport.doWrite()


class Outbox:
    """Frames in the order they leave; ``urgent`` ones first.

    Args:
        max_frames: how many frames ``put`` lets wait.
        max_bytes: how many bytes ``put`` lets wait; at least one largest frame.
    """

    __slots__ = (
        "_bytes",
        "_frames",
        "_sealed",
        "_urgent",
        "_urgent_bytes",
        "max_bytes",
        "max_frames",
    )

    def __init__(self, max_frames: int, max_bytes: int) -> None:
        self.max_frames = max_frames
        self.max_bytes = max_bytes
        self._frames: deque[Frame] = deque()
        self._urgent: deque[Frame] = deque()
        self._bytes = 0
        self._urgent_bytes = 0
        self._sealed = False

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._frames or self._urgent)

    @property
    def frames(self) -> int:
        """Frames that wait."""
        return len(self._frames) + len(self._urgent)

    @property
    def bytes(self) -> int:
        """Bytes that wait."""
        return self._bytes + self._urgent_bytes

    def put(self, frame: Frame) -> Sent:
        """Add a frame behind all others; FULL leaves the outbox as it was."""
        if self._sealed:
            return Sent.DISCONNECTED
        size = self._bytes + len(frame)
        if size > self.max_bytes or len(self._frames) >= self.max_frames:
            return Sent.FULL
        self._frames.append(frame)
        self._bytes = size
        return Sent.ACCEPTED

    def put_urgent(self, frame: Frame) -> Sent:
        """Add a control frame before all but earlier control frames."""
        if self._sealed:
            return Sent.DISCONNECTED
        if len(self._urgent) >= MAX_URGENT_FRAMES:
            return Sent.FULL
        self._urgent.append(frame)
        self._urgent_bytes += len(frame)
        return Sent.ACCEPTED

    def put_last(self, frame: Frame) -> None:
        """Add the farewell: it leaves behind everything else, nothing is accepted after it."""
        if not self._sealed:
            self._frames.append(frame)
            self._bytes += len(frame)
        self._sealed = True

    def seal(self) -> None:
        """Accept nothing more."""
        self._sealed = True

    def clear(self) -> None:
        """Drop what waits."""
        self._frames.clear()
        self._urgent.clear()
        self._bytes = self._urgent_bytes = 0

    def take(self, max_bytes: int, *, urgent_only: bool = False) -> Frame:
        """Remove and join whole frames, up to ``max_bytes`` or one frame that is larger."""
        if self._urgent:
            return self._take_mixed(max_bytes, urgent_only)
        frames = self._frames
        if urgent_only or not frames:
            return b""
        if self._bytes > max_bytes:
            return self._take_part(max_bytes)
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        frames.clear()
        self._bytes = 0
        return data

    def _take_mixed(self, max_bytes: int, urgent_only: bool) -> Frame:
        urgent = b"".join(self._urgent)
        self._urgent.clear()
        self._urgent_bytes = 0
        if urgent_only or len(urgent) >= max_bytes:
            return urgent
        return urgent + self._take_part(max_bytes - len(urgent))

    def _take_part(self, max_bytes: int) -> Frame:
        frames, size = self._frames, 0
        parts: list[Frame] = []
        while frames and (not parts or size + len(frames[0]) <= max_bytes):
            size += len(frames[0])
            parts.append(frames.popleft())
        self._bytes -= size
        return b"".join(parts)

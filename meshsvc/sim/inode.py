"""One file of a simulated disk: its content as seen, as durable, and what lies between."""

from __future__ import annotations

from random import Random

PAGE = 512
"""Bytes that a disk writes in one piece; a torn write ends at such a boundary."""


class Inode:
    """The content of a file; names that lead to it are the disk's affair.

    Writes wait in ``_pending`` from ``write`` to ``sync``. At a crash, each sector of each of
    them reaches the disk or does not.
    """

    def __init__(self, data: bytes) -> None:
        self.seen = bytearray(data)
        self._durable = bytearray(data)
        self._pending: list[tuple[int, bytes | None]] = []

    def replace(self, data: bytes) -> None:
        """New content, durable at once."""
        self.seen, self._durable = bytearray(data), bytearray(data)
        self._pending.clear()

    def write(self, offset: int, data: bytes) -> None:
        """Bytes to a place; what lies between the end and it reads as zeroes."""
        _put(self.seen, offset, data)
        self._pending.append((offset, data))

    def truncate(self, size: int) -> None:
        """Cut it, or fill it up with zeroes."""
        _cut(self.seen, size)
        self._pending.append((size, None))

    def sync(self) -> None:
        """All of it is durable."""
        for offset, data in self._pending:
            if data is None:
                _cut(self._durable, offset)
            else:
                _put(self._durable, offset, data)
        self._pending.clear()

    def forget(self) -> None:
        """A sync failed: as on Linux, what was to be written is read, and never written.

        Sizes are in the file system's own journal, which is not given up so easily.
        """
        self._pending = [each for each in self._pending if each[1] is None]

    def crash(self, rng: Random, torn: float) -> None:
        """Of what was not synced: all, nothing, or with probability ``torn`` some sectors."""
        for offset, data in self._pending:
            if data is None:
                if rng.random() < 0.5:
                    _cut(self._durable, offset)
            elif rng.random() < torn:
                self._tear(rng, offset, data)
            elif rng.random() < 0.5:
                _put(self._durable, offset, data)
        self._pending.clear()
        self.seen = bytearray(self._durable)

    def _tear(self, rng: Random, offset: int, data: bytes) -> None:
        at = offset
        while at < offset + len(data):
            edge = min(offset + len(data), (at // PAGE + 1) * PAGE)
            if rng.random() < 0.5:
                _put(self._durable, at, data[at - offset : edge - offset])
            at = edge


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _cut(content: bytearray, size: int) -> None:
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))

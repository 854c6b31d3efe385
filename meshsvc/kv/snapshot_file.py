"""Snapshots as one stream of bytes, for people to keep: what ``etcdctl snapshot save`` writes.

Magic, then each chunk behind its length (32 bits), then zeroes up to a multiple of 512, then the
SHA-256 of all that. The ending is etcd's: its clients look at the size to tell whether a file
is whole. The content is not etcd's: only meshsvc restores it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256

from meshsvc.kv.snapshot import BadSnapshot

MAGIC = b"MSVCKV\x00\x01"
SECTOR = 512
DIGEST = 32

MAX_CHUNK = 4 * 1024 * 1024
"""Bytes of a chunk: as ``snapshot`` makes them, and as a replica keeps them."""


class Saving:
    """Turns chunks into the bytes of a file: ``begin``, ``chunk`` for each, ``end``."""

    def __init__(self) -> None:
        self._hash = sha256()
        self.written = 0

    def begin(self) -> bytes:
        """The first bytes."""
        return self._take(MAGIC)

    def chunk(self, chunk: bytes) -> bytes:
        """The bytes for a chunk."""
        return self._take(len(chunk).to_bytes(4, "big") + chunk)

    def end(self) -> bytes:
        """The last bytes."""
        padding = self._take(bytes(4 + -(self.written + 4) % SECTOR))
        return padding + self._hash.digest()

    def _take(self, data: bytes) -> bytes:
        self._hash.update(data)
        self.written += len(data)
        return data


def scan(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """The chunks of a file, as it is read: none of them counts before the last one came.

    Args:
        read: gives the next n bytes of the file, fewer only at its end.

    Raises:
        BadSnapshot: it is no snapshot, or not whole, or not what was saved.
    """
    digest = sha256()
    taken = 0

    def take(length: int) -> bytes:
        nonlocal taken
        data = read(length)
        if len(data) < length:
            raise BadSnapshot(f"the snapshot is cut short after {taken + len(data)} bytes")
        digest.update(data)
        taken += length
        return data

    magic = read(len(MAGIC))
    if magic != MAGIC:
        raise BadSnapshot("this is not a snapshot that meshsvc saved")
    digest.update(magic)
    taken = len(MAGIC)
    while length := int.from_bytes(take(4), "big"):
        if length > MAX_CHUNK:
            raise BadSnapshot(f"the snapshot is damaged: a chunk of {length} bytes at {taken}")
        yield take(length)
    take(-taken % SECTOR)
    if read(DIGEST) != digest.digest() or read(1):
        raise BadSnapshot(f"the snapshot is damaged: the checksum of its {taken} bytes is wrong")

"""Snapshots as one stream of bytes, for people to keep: what ``etcdctl snapshot save`` writes.

Magic, then each chunk behind its length (32 bits), then zeroes up to a multiple of 512, then the
SHA-256 of all that. The ending is etcd's: its clients look at the size to tell whether a file
is whole. The content is not etcd's: only meshsvc restores it.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

from meshsvc.kv.snapshot import BadSnapshot

MAGIC = b"MSVCKV\x00\x01"
SECTOR = 512
DIGEST = 32


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


def read(data: bytes) -> Iterator[bytes]:
    """The chunks of a file, after its checksum was compared.

    Raises:
        BadSnapshot: when it is no snapshot, or not whole.
    """
    body, digest = data[:-DIGEST], data[-DIGEST:]
    if not data.startswith(MAGIC):
        raise BadSnapshot("this is not a snapshot that meshsvc saved")
    if len(body) % SECTOR or sha256(body).digest() != digest:
        raise BadSnapshot(
            f"the snapshot of {len(data)} bytes is cut short or damaged: save it again"
        )
    position = len(MAGIC)
    while length := int.from_bytes(body[position : position + 4], "big"):
        yield body[position + 4 : position + 4 + length]
        position += 4 + length

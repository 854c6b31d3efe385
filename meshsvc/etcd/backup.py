"""The file that ``etcdctl snapshot save`` writes of our snapshot stream, and how to read it.

``etcdctl`` concatenates what it is sent, and takes a file as whole when its size is 32 bytes
over a multiple of 512, the 32 being a SHA-256 of what is before them. So: a magic, each
chunk of the store after its length (4 bytes, big-endian), a length of zero, zeroes up to a
multiple of 512, the digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from meshsvc.errors import RemoteError

MAGIC = b"meshsvc-backup-1"
LENGTH_BYTES = 4
PAGE_BYTES = 512
DIGEST_BYTES = hashlib.sha256().digest_size


class BadBackup(RemoteError):
    """A backup file is cut off, changed, or of another program; the text says which."""


class BackupWriter:
    """Makes the bytes of the file, chunk by chunk."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._size = 0

    def chunk(self, blob: bytes) -> bytes:
        """The bytes for one chunk of the store; an empty one adds nothing."""
        if not blob:
            return b""
        start = b"" if self._size else MAGIC
        return self._add(start + len(blob).to_bytes(LENGTH_BYTES, "big") + blob)

    def end(self) -> bytes:
        """The bytes after the last chunk."""
        tail = (b"" if self._size else MAGIC) + bytes(LENGTH_BYTES)
        padding = -(self._size + len(tail)) % PAGE_BYTES
        return self._add(tail + bytes(padding)) + self._digest.digest()

    def _add(self, data: bytes) -> bytes:
        self._digest.update(data)
        self._size += len(data)
        return data


def read_backup(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The chunks in a backup file, given as pieces of any size.

    Chunks come before the digest is known to be right: throw away what was made of them when
    this raises.

    Raises:
        BadBackup: the file is not one, is cut off or was changed.
    """
    digest, held, last = hashlib.sha256(), bytearray(), False
    started = False
    for piece in pieces:
        held += piece
        if not started and len(held) >= len(MAGIC):
            if not held.startswith(MAGIC):
                raise BadBackup("the file is not a backup of this store: its first bytes differ")
            started = True
            _pass(held, len(MAGIC), digest)
        while started and not last and len(held) >= LENGTH_BYTES:
            size = int.from_bytes(held[:LENGTH_BYTES], "big")
            if size and len(held) < LENGTH_BYTES + size:
                break
            last = size == 0
            chunk = _pass(held, LENGTH_BYTES + size, digest)
            if not last:
                yield chunk[LENGTH_BYTES:]
    if not last or len(held) < DIGEST_BYTES:
        raise BadBackup("the backup ends before its end: it was not saved completely")
    _pass(held, len(held) - DIGEST_BYTES, digest)
    if bytes(held) != digest.digest():
        raise BadBackup("the backup's SHA-256 is wrong: the file was changed or damaged")


def _pass(held: bytearray, size: int, digest: hashlib._Hash) -> bytes:
    taken = bytes(held[:size])
    digest.update(taken)
    del held[:size]
    return taken

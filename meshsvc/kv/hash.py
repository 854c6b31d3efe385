"""Hashes that tell whether replicas hold the same, taken in slices while writes go on.

CRC-32, as etcd's: this finds replicas that have drifted apart, not an enemy. The values are
not those of an etcd with the same content.
"""

from __future__ import annotations

from collections.abc import Generator
from zlib import crc32

from meshsvc.kv.index import Version
from meshsvc.kv.mvcc import Mvcc, retained
from meshsvc.wire.codec import encode

SLICE_KEYS = 2_000
"""Keys hashed between two yields: about 5 ms."""


def hash_keys(mvcc: Mvcc, revision: int) -> Generator[None, None, tuple[int, int]]:
    """Hash all keys and their history as of a revision (0: now), keeping the store pinned.

    Returns:
        the hash and the compact revision it belongs to.

    Raises:
        FutureRevision, Compacted: as a read at that revision would.
    """
    at = mvcc.readable(revision)
    compact_revision = mvcc.compact_revision
    value, cursor = 0, b""
    mvcc.pin()
    try:
        while True:
            batch: list[Version] = []
            for looked, key in enumerate(mvcc.index.keys((cursor, None)), 1):
                batch.extend(retained(mvcc, key, at, compact_revision))
                if looked >= SLICE_KEYS:
                    break
            else:
                return _add(value, batch), compact_revision
            value = _add(value, batch)
            cursor = key + b"\x00"
            yield
    finally:
        mvcc.unpin()


def combine(value: int, fields: object) -> int:
    """Add plain values to a hash."""
    return crc32(encode(fields), value)


def _add(value: int, batch: list[Version]) -> int:
    # Record by record: how they fall into slices must not show in the hash.
    for version in batch:
        value = crc32(encode(version), value)
    return value

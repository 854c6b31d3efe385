"""Fingerprints of one copy, in buckets, so that two copies find out where they differ.

A bucket is chosen by the key alone; its fingerprint is the XOR of the hashes of the versions
in it, tombstones included. A version stands for the value: no two writes share one.

Writes do not pay for it: they only note the row that was there when the fingerprints were last
brought up to date. ``settle`` works that off, in slices, before two copies are compared; a key
that was written a hundred times in between costs what one write costs.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from hashlib import blake2b
from struct import Struct
from typing import Any
from zlib import crc32

from meshsvc.errors import WireError
from meshsvc.tables.rows import Origin, Row, key_bytes

COUNT = 1024
"""8 KiB of fingerprints; a difference in a table of a million rows costs a thousand keys."""

_WIRE = Struct(f">{COUNT}Q")
_VERSION = Struct(">QQQ?").pack


def bucket_of(rid: Any) -> int:
    """The bucket of a row, the same everywhere: of its key alone."""
    key = rid[0] if type(rid) is tuple else rid
    return crc32(key_bytes(key)) % COUNT


def _rid_bytes(rid: Any) -> bytes:
    if type(rid) is tuple:
        return key_bytes(rid[0]) + b"\0" + bytes(rid[1])
    return key_bytes(rid)


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


class Digest:
    """The fingerprints of one copy; ``pending`` maps rows to what the sums still hold of them."""

    def __init__(self) -> None:
        self.pending: dict[Hashable, Row | None] = {}
        self._sums = [0] * COUNT
        self._origins: dict[Origin, int] = {}

    def settle(self, rows: dict[Any, Row], most: int) -> bool:
        """Work off up to ``most`` pending rows; True when none are left."""
        pending, sums = self.pending, self._sums
        for _ in range(min(most, len(pending))):
            rid, old = pending.popitem()
            new = rows.get(rid)
            if new is old:
                continue
            data = _rid_bytes(rid)
            change = (
                self._print(data, new)
                if old is None
                else (self._print(data, old) ^ self._print(data, new))
            )
            sums[crc32(data) % COUNT if type(rid) is not tuple else bucket_of(rid)] ^= change
        return not pending

    def _print(self, data: bytes, row: Row | None) -> int:
        if row is None:
            return 0
        origin = self._origins.get(row.origin)
        if origin is None:
            if len(self._origins) >= MAX_ORIGINS:
                self._origins.clear()
            node, *lives = row.origin
            text = f"{node} {lives[0]} {lives[1]} {lives[2]}"
            origin = self._origins[row.origin] = _hash(text.encode())
        return _hash(_VERSION(row.stamp, origin, len(data), row.dead) + data)

    def packed(self) -> bytes:
        """All fingerprints, 8 bytes each; ``settle`` first."""
        return _WIRE.pack(*self._sums)

    def differing(self, theirs: bytes) -> list[int]:
        """The buckets in which the sender of ``theirs`` has something else.

        Raises:
            WireError: when these are not as many fingerprints.
        """
        if type(theirs) is not bytes or len(theirs) != _WIRE.size:
            raise WireError(f"fingerprints of a table are {_WIRE.size} bytes")
        pairs = zip(self._sums, _WIRE.unpack(theirs), strict=True)
        return [bucket for bucket, (mine, other) in enumerate(pairs) if mine != other]


MAX_ORIGINS = 4096
"""Hashes of origins that are remembered: one for each life of a shard whose rows are here."""


def in_buckets(rids: Iterable[Any], buckets: frozenset[int]) -> list[Any]:
    """Those of some rows that fall into some buckets."""
    return [rid for rid in rids if bucket_of(rid) in buckets]

"""Fingerprints of one copy, in buckets, so that two copies find out where they differ.

A bucket is chosen by the key alone; its fingerprint is the XOR of the hashes of the versions
in it, tombstones included. A version stands for the value: no two writes share one.

Writes do not pay for it. Of rows that are written by the batch only the batch is noted, of a
single one the row that was there when the fingerprints were last brought up to date. ``settle``
works that off, in slices, before two copies are compared; a key that was written alone a hundred
times in between costs what one write costs. The order does not matter, as XOR knows none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import repeat
from struct import Struct
from typing import Any
from zlib import crc32

from meshsvc.errors import WireError
from meshsvc.tables.rows import Origin, Row, key_bytes

COUNT = 1024
"""8 KiB of fingerprints; a difference in a table of a million rows costs a thousand keys."""

_WIRE = Struct(f">{COUNT}Q")


def bucket_of(rid: Any) -> int:
    """The bucket of a row, the same everywhere: of its key alone."""
    key = rid[0] if type(rid) is tuple else rid
    return crc32(key_bytes(key)) % COUNT


def words(keys: Sequence[Any]) -> Iterable[int]:
    """The word that stands for each key, whose remainder by ``COUNT`` is its bucket.

    Most keys are texts, and those take no step of Python each.
    """
    if set(map(type, keys)) == {str}:
        return map(crc32, map(str.encode, keys), repeat(_TEXT))
    return [crc32(key_bytes(key)) for key in keys]


_TEXT = crc32(key_bytes(""))
"""Where the CRC of a text begins: behind the byte that tells it from bytes and integers."""


def _place(rid: Any) -> tuple[int, int]:
    """The word that stands for a row's key (in a bag, for its value too), and its bucket."""
    if type(rid) is tuple:
        return crc32(rid[1], crc32(key_bytes(rid[0]))), bucket_of(rid)
    key = crc32(key_bytes(rid))
    return key, key % COUNT


def _print(word: int, version: int) -> int:
    """A fingerprint of a row. Not a plain XOR of the two: two rows that have each other's version
    must not add up to what they were before. Two factors that both depend on both see to that,
    and are quicker than hashing; the version is scattered already.
    """
    return (word ^ version) * (word + version) & _PRINT


def _mix(word: int) -> int:
    """64 bits of a word, scattered."""
    word = word * _ODD & _WORD
    return (word ^ word >> 29) * _ODD & _WORD


_WORD = 2**64 - 1
_PRINT = 2**60 - 1
"""Fingerprints have 60 bits: two digits of CPython's integers, and quicker than three."""

_ODD = 0x9E3779B97F4A7C15


MAX_NOTED = 1_000_000
"""Rows of batches that wait to be entered, 8 MB of references; then each pays for an older one."""


class Digest:
    """The fingerprints of one copy; ``pending`` maps rows to what the sums still hold of them.

    ``noted`` is how many rows were ever written by the batch.
    """

    def __init__(self) -> None:
        self.pending: dict[Any, Row | None] = {}
        self.noted = self._waiting = 0
        self._batches: deque[tuple[Sequence[Any], Row]] = deque()
        self._sums = [0] * COUNT
        self._origins: dict[Origin, int] = {}
        self._last: tuple[Row | None, int] = (None, 0)
        self._packed = self._root = b""

    def settle(self, rows: dict[Any, Row], most: int) -> bool:
        """Work off up to ``most`` rows that were noted; True when none are left."""
        pending, sums, version = self.pending, self._sums, self._version
        if pending or self._batches:
            self._packed = self._root = b""
        while self._batches and most > 0:
            most -= self._enter(most)
        for _ in range(min(most, len(pending))):
            rid, old = pending.popitem()
            new = rows.get(rid)
            if new is old:
                continue
            word, bucket = _place(rid)
            if old is not None:
                sums[bucket] ^= _print(word, version(old))
            if new is not None:
                sums[bucket] ^= _print(word, version(new))
        return not pending and not self._batches

    def _enter(self, most: int) -> int:
        """Enter up to ``most`` rows of the oldest batch; returns how many that were."""
        keys, row = self._batches.popleft()
        if len(keys) > most:
            self._batches.appendleft((keys[most:], row))
            keys = keys[:most]
        self._waiting -= len(keys)
        sums, version, bits = self._sums, self._version(row), _PRINT
        for key in words(keys):
            sums[key % COUNT] ^= (key ^ version) * (key + version) & bits  # ``_print``
        return len(keys)

    def settled(self, keys: Sequence[Any]) -> bool:
        """Whether none of these is pending."""
        return not self.pending or self.pending.keys().isdisjoint(keys)

    def add(self, keys: Sequence[Any], row: Row) -> None:
        """Rows of one version, none of which is in the sums or pending; no key twice."""
        self._batches.append((tuple(keys), row))  # the caller may go on with its list
        self.noted += len(keys)
        self._waiting += len(keys)
        while self._waiting > MAX_NOTED:
            self._enter(len(keys))

    def add_rows(self, keys: Sequence[Any], rows: Sequence[Row]) -> None:
        """Enter rows that have a version each, at once; those that were entered are taken out."""
        sums, bits = self._sums, _PRINT
        version = {id(row): self._version(row) for row in {id(r): r for r in rows}.values()}
        self._packed = self._root = b""
        for key, mine in zip(words(keys), map(version.__getitem__, map(id, rows)), strict=True):
            sums[key % COUNT] ^= (key ^ mine) * (key + mine) & bits

    def _version(self, row: Row) -> int:
        """60 bits of a version; rows of one batch share it, so the last one is remembered."""
        last, word = self._last
        if row is last:
            return word
        origin = self._origins.get(row.origin)
        if origin is None:
            if len(self._origins) >= MAX_ORIGINS:
                self._origins.clear()
            node, *lives = row.origin
            text = f"{node} {lives[0]} {lives[1]} {lives[2]}".encode()
            origin = int.from_bytes(blake2b(text, digest_size=8).digest(), "big")
            self._origins[row.origin] = origin
        word = (_mix(_mix(row.stamp) ^ origin) ^ row.dead) & _PRINT
        self._last = (row, word)
        return word

    def packed(self) -> bytes:
        """All fingerprints, 8 bytes each; ``settle`` first."""
        if not self._packed:
            self._packed = _WIRE.pack(*self._sums)
        return self._packed

    def root(self) -> bytes:
        """16 bytes that stand for all of them; ``settle`` first. Made once after a change."""
        if not self._root:
            self._root = blake2b(self.packed(), digest_size=16).digest()
        return self._root

    def differing(self, theirs: bytes) -> list[int]:
        """The buckets in which the sender of ``theirs`` has something else.

        Raises:
            WireError: when these are not as many fingerprints.
        """
        if type(theirs) is not bytes or len(theirs) != _WIRE.size:
            raise WireError(f"fingerprints of a table are {_WIRE.size} bytes")
        if theirs == self.packed():
            return []
        pairs = zip(self._sums, _WIRE.unpack(theirs), strict=True)
        return [bucket for bucket, (mine, other) in enumerate(pairs) if mine != other]


MAX_ORIGINS = 4096
"""Hashes of origins that are remembered: one for each life of a shard whose rows are here."""

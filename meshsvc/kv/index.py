"""Keys in order, each with the versions that are kept of it.

Why the shapes are odd: a store of a million keys must cost neither the collector nor the
reader more than it has to. A version is a plain tuple of plain values, which the collector
stops looking at after its first pass. A key with one version holds just that; a few versions
are a tuple of them, which is as cheap; only a key with a long history has a list, because to
copy a long tuple on every write would not do.

Deleted keys stay, with a tombstone as their newest version, until compaction takes them. They
are listed apart as well, so that counting a range is two look-ups and no walk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sortedcontainers import SortedList

Version = tuple[bytes, int, int, int, bytes, int]
"""(key, create_revision, mod_revision, version, value, lease); version 0 is a tombstone."""

History = Version | tuple[Version, ...] | list[Version]

CREATED: Final = 1
MOD: Final = 2
NUMBER: Final = 3
VALUE: Final = 4
LEASE: Final = 5

MAX_TUPLE = 16
"""Versions up to which a history is copied on a write, which takes less than a microsecond."""

Bounds = tuple[bytes, bytes | None]
"""First key and the end, which is left out; None is no end."""


def tombstone(key: bytes, revision: int) -> Version:
    """The version that says a key is gone."""
    return (key, 0, revision, 0, b"", 0)


def bounds(key: bytes, range_end: bytes) -> Bounds:
    """A request's key and end as an interval; one key is the interval up to its successor."""
    if not range_end:
        return key, key + b"\x00"
    return key, None if range_end == b"\x00" else range_end


def versions(history: History) -> tuple[Version, ...] | list[Version]:
    """All versions of a history, oldest first."""
    if isinstance(history[0], bytes):
        return (history,)
    return history


class KeyIndex:
    """Every key with its history; deleted keys until ``prune`` has taken them."""

    __slots__ = ("_dead", "_histories", "_keys")

    def __init__(self) -> None:
        self._histories: dict[bytes, History] = {}
        self._keys: SortedList[bytes] = SortedList()
        self._dead: SortedList[bytes] = SortedList()

    def __len__(self) -> int:
        """How many keys live."""
        return len(self._keys) - len(self._dead)

    def latest(self, key: bytes) -> Version | None:
        """The newest version of a key, None when it does not exist now."""
        history = self._histories.get(key)
        if history is None:
            return None
        newest = history if isinstance(history[0], bytes) else history[-1]
        return newest if newest[NUMBER] else None

    def at(self, key: bytes, revision: int) -> Version | None:
        """The version of a key that was in force at a revision, None when there was none."""
        history = self._histories.get(key)
        if history is None:
            return None
        if isinstance(history[0], bytes):
            return history if history[MOD] <= revision and history[NUMBER] else None
        position = _after(history, revision)
        found = history[position - 1] if position else None
        return found if found is not None and found[NUMBER] else None

    def history(self, key: bytes) -> tuple[Version, ...] | list[Version]:
        """All versions that are kept of a key, oldest first."""
        history = self._histories.get(key)
        return () if history is None else versions(history)

    def append(self, version: Version) -> None:
        """Add the newest version of a key."""
        key = version[0]
        histories = self._histories
        history = histories.get(key)
        if history is None:
            histories[key] = version
            self._keys.add(key)
            if not version[NUMBER]:
                self._dead.add(key)
            return
        if isinstance(history[0], bytes):
            newest = history
            histories[key] = (newest, version)
        elif isinstance(history, list):
            newest = history[-1]
            history.append(version)
        else:
            newest = history[-1]
            grown = (*history, version)
            histories[key] = grown if len(grown) <= MAX_TUPLE else list(grown)
        if not newest[NUMBER]:
            if version[NUMBER]:
                self._dead.remove(key)
        elif not version[NUMBER]:
            self._dead.add(key)

    def prune(self, key: bytes, revision: int) -> list[Version]:
        """Forget the versions of a key that no read at ``revision`` or later can see.

        Returns:
            what was forgotten.
        """
        history = self._histories.get(key)
        if history is None:
            return []
        many = versions(history)
        keep = max(0, _after(many, revision) - 1)
        if not many[keep][NUMBER] and many[keep][MOD] <= revision:
            keep += 1
        if not keep:
            return []
        left = many[keep:]
        if not left:
            del self._histories[key]
            self._keys.remove(key)
            self._dead.discard(key)
        elif len(left) == 1:
            self._histories[key] = left[0]
        else:
            self._histories[key] = tuple(left) if len(left) <= MAX_TUPLE else list(left)
        return list(many[:keep])

    def keys(self, interval: Bounds) -> Iterator[bytes]:
        """Keys of an interval in order, deleted ones too. Must not be mixed with changes."""
        first, end = interval
        if end is not None and end <= first:
            return iter(())
        return self._keys.irange(first, end, inclusive=(True, False))

    def count(self, interval: Bounds) -> int:
        """How many keys of an interval exist now."""
        return _width(self._keys, interval) - (_width(self._dead, interval) if self._dead else 0)

    def width(self, interval: Bounds) -> int:
        """How many keys of an interval ``keys`` would give."""
        return _width(self._keys, interval)


def _width(keys: SortedList[bytes], interval: Bounds) -> int:
    first, end = interval
    if end is not None and end <= first:
        return 0
    stop = len(keys) if end is None else keys.bisect_left(end)
    return stop - keys.bisect_left(first)


def _after(many: tuple[Version, ...] | list[Version], revision: int) -> int:
    """Position of the first version that is newer than a revision."""
    low, high = 0, len(many)
    while low < high:
        middle = (low + high) // 2
        if many[middle][MOD] <= revision:
            low = middle + 1
        else:
            high = middle
    return low

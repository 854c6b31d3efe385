"""Who wants to hear of a key: found without asking every watcher.

Watchers of the same keys with the same wishes form one ``Interest``, which is matched once and
whose events are put together once. Interests in single keys are found by the key, those in
prefixes by the key's own beginnings, one look-up for each length of prefix that is watched.
Only other ranges, of which there are few, are gone through one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from meshsvc.kv.api import Event, Filter, WatchCreate
from meshsvc.kv.index import Bounds, bounds

if TYPE_CHECKING:
    from meshsvc.kv.streams import Watch


class Wish(NamedTuple):
    """What a watcher asked for, as far as it decides which events it gets and how they look."""

    interval: Bounds
    puts: bool
    deletes: bool
    prev_kv: bool


def wish(request: WatchCreate) -> Wish:
    """The wish in a request; an empty key stands for the smallest, as in etcd."""
    return Wish(
        bounds(request.key or b"\x00", request.range_end),
        Filter.NO_PUT not in request.filters,
        Filter.NO_DELETE not in request.filters,
        request.prev_kv,
    )


@dataclass(slots=True)
class Interest:
    """One wish and those who have it; ``events`` are collected while changes are gone through."""

    wish: Wish
    watches: dict[Watch, None] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)


class Interests:
    """All interests, by what they are in."""

    __slots__ = ("_by_prefix", "_by_wish", "_lengths", "_others", "_single")

    def __init__(self) -> None:
        self._by_wish: dict[Wish, Interest] = {}
        self._single: dict[bytes, list[Interest]] = {}
        self._by_prefix: dict[bytes, list[Interest]] = {}
        self._lengths: dict[int, int] = {}
        self._others: list[Interest] = []

    def __len__(self) -> int:
        """How many different wishes there are."""
        return len(self._by_wish)

    def __iter__(self) -> Iterator[Interest]:
        return iter(self._by_wish.values())

    def add(self, watch: Watch) -> None:
        """Add a watcher to those of its wish."""
        interest = self._by_wish.get(watch.wish)
        if interest is None:
            interest = self._by_wish[watch.wish] = Interest(watch.wish)
            self._place(interest).append(interest)
            if (prefix := _prefix(watch.wish.interval)) is not None:
                self._lengths[len(prefix)] = self._lengths.get(len(prefix), 0) + 1
        interest.watches[watch] = None

    def remove(self, watch: Watch) -> None:
        """Remove a watcher that was added."""
        interest = self._by_wish[watch.wish]
        del interest.watches[watch]
        if interest.watches:
            return
        del self._by_wish[watch.wish]
        place = self._place(interest)
        place.remove(interest)
        first, end = watch.wish.interval
        prefix = _prefix(watch.wish.interval)
        if prefix is not None:
            self._lengths[len(prefix)] -= 1
            if not self._lengths[len(prefix)]:
                del self._lengths[len(prefix)]
            if not place:
                del self._by_prefix[prefix]
        elif not place and end == first + b"\x00":
            del self._single[first]

    def of(self, key: bytes) -> list[Interest]:
        """The interests that a key falls into."""
        found: list[Interest] = []
        if self._single:
            found += self._single.get(key, ())
        for length in self._lengths:
            found += self._by_prefix.get(key[:length], ()) if length <= len(key) else ()
        for interest in self._others:
            first, end = interest.wish.interval
            if first <= key and (end is None or key < end):
                found.append(interest)
        return found

    def _place(self, interest: Interest) -> list[Interest]:
        first, end = interest.wish.interval
        if end == first + b"\x00":
            return self._single.setdefault(first, [])
        prefix = _prefix(interest.wish.interval)
        return self._others if prefix is None else self._by_prefix.setdefault(prefix, [])


def _prefix(interval: Bounds) -> bytes | None:
    """The prefix that an interval is all keys of, None when it is another kind of interval."""
    first, end = interval
    if end is None or not first or first[-1] == 0xFF:
        return None
    return first if end == first[:-1] + bytes([first[-1] + 1]) else None

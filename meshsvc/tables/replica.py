"""One copy of one table: the values that are read, and the rows that decide.

Two dicts stand side by side. ``values`` is what readers see, one dict look-up away; ``rows``
holds the version of each row and the tombstones. In a bag a row is one value of a key, so
rows go by (key, encoded value), and ``values`` holds a tuple of a key's values, in the order
of their versions, which is the same on every copy.

Rules it keeps: the greater version wins, whatever the order of arrival. A row whose owner
is gone is not taken in and leaves without a tombstone: everybody knows by itself, from the
membership, that it is gone, and should the owner turn out to live its rows come back from
its own copy. Tombstones live ``tombstone_s`` by their stamps, so that all copies forget one
at about the same time, and an older one is not taken back in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, repeat
from typing import Any, NamedTuple

from sortedcontainers import SortedList

from meshsvc.tables.clock import COUNTER_BITS
from meshsvc.tables.columns import MANY, Rows
from meshsvc.tables.digest import Digest
from meshsvc.tables.rows import Key, Kind, Owner, Row, Schema, beats, element

FRESH = 512
"""New keys of an ordered table that wait to be sorted in: half a millisecond of work."""

MAX_TOMBSTONES = 100_000
"""Tombstones of one table, about 20 MB; beyond it the oldest go before their time."""

LARGE = 50_000
"""Rows from which on it is felt, by a millisecond, when a dict grows."""

AHEAD = 4000
"""Rows by which one dict grows before the other: more than are merged in one turn."""

TOMBSTONE_S = 3600.0
"""Longer than any split that is to heal without deleted rows coming back."""


class Change(NamedTuple):
    """What became of a key: its value now, or that it is gone. In a bag, all its values."""

    key: Key
    value: object
    gone: bool


class Replica:
    """One copy; ``gone`` tells whether the owner of a row has ended.

    ``edits`` rises with every change, for who has something to do after one.
    """

    def __init__(
        self,
        schema: Schema,
        gone: Callable[[Owner], bool],
        tombstone_s: float = TOMBSTONE_S,
        most_tombstones: int = MAX_TOMBSTONES,
    ) -> None:
        self.schema = schema
        self.values: dict[Key, Any] = {}
        self.rows: dict[Any, Row] = {}
        self.digest = Digest()
        self.watched = False
        self.expired = self.refused = self.edits = 0
        self._gone = gone
        self._life = int(tombstone_s * 1000) << COUNTER_BITS
        self._most_tombstones = most_tombstones
        self._tombstones: dict[Any, None] = {}
        self._size = 0
        self._bag = schema.kind is Kind.BAG
        self._elements: dict[Key, dict[bytes, Any]] = {}
        self._order: dict[Any, Any] = {kind: SortedList() for kind in (bytes, int, str)}
        self._ordered = schema.kind is Kind.ORDERED
        self._fresh: list[Key] = []
        self._changed: dict[Key, None] = {}

    def __len__(self) -> int:
        return len(self.values)

    @property
    def tombstones(self) -> int:
        """How many rows are remembered as deleted."""
        return len(self._tombstones)

    # --- merging -------------------------------------------------------------------------

    def put(self, row: Row, keys: Sequence[Key], values: Sequence[Any], now: int) -> int:
        """Merge rows that share one version; ``values`` may be empty for a tombstone.

        Returns:
            how many of them won.
        """
        if not self._welcome(row, now):
            return 0
        if self._bag:
            rids: Iterable[Any] = [(k, element(v)) for k, v in zip(keys, values, strict=True)]
            return sum(map(self._put_one, rids, repeat(row), values))
        if not row.dead and len(keys) >= MANY and self._put_many(row, keys, values):
            return len(keys)
        if row.dead or self._tombstones or self._special:
            given: Iterable[Any] = repeat(None) if row.dead else values
            return sum(map(self._put_one, keys, repeat(row), given))
        return self._put_plain(row, keys, values)

    def _put_many(self, row: Row, keys: Sequence[Key], values: Sequence[Any]) -> bool:
        """Merge rows of a set if all of them win, over nothing or over rows that are alive: this
        is what a large insert costs each copy. False when nothing was done.
        """
        rows, mine, digest = self.rows, self.values, self.digest
        if not digest.settled(keys):
            return False
        olds = list(map(rows.get, keys))
        there: Sequence[Key] = ()
        if olds.count(None) < len(olds):
            for old in {id(old): old for old in olds}.values():
                if old is not None and (old.dead or not beats(row, old)):
                    return False
            there = [key for key, old in zip(keys, olds, strict=True) if old is not None]
        for key, value in zip(keys, values, strict=True):
            rows[key] = row
            mine[key] = value
        digest.add(keys, row)
        if there:
            digest.add_rows(there, [old for old in olds if old is not None])  # takes them out
        self._shown(keys, there)
        return True

    def _shown(self, keys: Sequence[Key], there: Sequence[Key] = ()) -> None:
        """Readers see other values of some keys, of which some were there."""
        self.edits += 1
        if self._ordered:
            known = set(there)
            self._fresh += [key for key in keys if key not in known] if known else keys
            if len(self._fresh) >= FRESH:
                self._sort_in()
        if self.watched:
            self._changed.update(dict.fromkeys(keys))

    def _put_plain(self, row: Row, keys: Sequence[Key], values: Sequence[Any]) -> int:
        """Few rows, or some that lose, without what the common case does not need."""
        rows, mine, pending, won = self.rows, self.values, self.digest.pending, 0
        for key, value in zip(keys, values, strict=True):
            old = rows.get(key)
            if old is not None and not beats(row, old):
                continue
            if key not in pending:
                pending[key] = old
            rows[key] = row
            mine[key] = value
            won += 1
        self.edits += won
        return won

    def merge(self, copied: Rows | Iterable[tuple[Any, Row, Any]], now: int) -> int:
        """Merge rows of another copy; returns how many won."""
        won = 0
        if isinstance(copied, Rows) and len(copied) >= MANY and not self._bag:
            new, copied = self._split(copied)
            won = self._merge_new(new)
            if not won:
                copied.extend(new)
        welcome, last, known = self._welcome, None, False
        for rid, row, value in copied:
            if row is not last:
                last, known = row, welcome(row, now)
            if known:
                won += self._put_one(rid, row, value)
        return won

    def _split(self, copied: Rows) -> tuple[Rows, Rows]:
        """Rows of which nothing is here, and the others."""
        here = self.rows.keys()
        if here.isdisjoint(copied.rids):
            return copied, Rows()
        parts = Rows(), Rows()
        for rid, row, value in copied:
            parts[rid in here].append(rid, row, value)
        return parts

    def _merge_new(self, new: Rows) -> int:
        """Take in rows that are all new: what a join brings. 0 when some want a closer look."""
        rids, rows = new.rids, new.rows
        if len(set(rids)) < len(rids) or not self.digest.settled(rids):
            return 0
        for row in {id(row): row for row in rows}.values():
            if row.dead or (row.owner is not None and self._gone(row.owner)):
                return 0
        have, mine = self.rows, self.values
        for rid, row, value in new:
            have[rid] = row
            mine[rid] = value
        self._keep_ahead()
        self.digest.add_rows(rids, rows)
        self._shown(rids)
        return len(rids)

    def _keep_ahead(self) -> None:
        """Have ``rows`` grow some thousand rows before ``values`` does.

        Now and then a dict moves to a larger table, a million rows in 25 ms. Two of the same
        length do it in the same slice. A key that comes and goes uses up a place until then: with
        some of those, one of the two is early. It works for one growth, so it is done after each.
        """
        if len(self.rows) < LARGE:
            return
        rows: dict[Any, Any] = self.rows
        size = rows.__sizeof__()
        if size != self._size:
            self._size = size
            nobody = [f"\ud800{n}" for n in range(AHEAD)]  # half a character: no key
            rows.update(dict.fromkeys(nobody))
            for key in nobody:
                del rows[key]

    @property
    def _special(self) -> bool:
        """Whether a row that wins is more than two entries in two dicts."""
        return self._bag or self._ordered or self.watched

    def _welcome(self, row: Row, now: int) -> bool:
        if row.owner is not None and self._gone(row.owner):
            self.refused += 1
            return False
        return not (row.dead and row.stamp < now - self._life)

    def _put_one(self, rid: Any, row: Row, value: object) -> bool:
        old = self.rows.get(rid)
        if old is not None and not beats(row, old):
            return False
        self.digest.pending.setdefault(rid, old)
        self.edits += 1
        self.rows[rid] = row
        if row.dead:
            self._tombstones[rid] = None
            if old is not None and not old.dead:
                self._take_away(rid)
            return True
        if old is None or old.dead:
            self._tombstones.pop(rid, None)
        self._show(rid, value)
        return True

    # --- what readers see ----------------------------------------------------------------

    def _show(self, rid: Any, value: object) -> None:
        if self._bag:
            key, data = rid
            self._elements.setdefault(key, {})[data] = value
            self._show_bag(key)
        else:
            key = rid
            if self._ordered and key not in self.values:
                self._fresh.append(key)
                if len(self._fresh) >= FRESH:
                    self._sort_in()
            self.values[key] = value
        if self.watched:
            self._changed[key] = None

    def _take_away(self, rid: Any) -> None:
        if self._bag:
            key, data = rid
            self._elements.get(key, {}).pop(data, None)
            self._show_bag(key)
        else:
            key = rid
            del self.values[key]
            if self._ordered:
                self._sort_in()
                self._order[type(key)].discard(key)
        if self.watched:
            self._changed[key] = None

    def _show_bag(self, key: Key) -> None:
        elements = self._elements.get(key)
        if not elements:
            self._elements.pop(key, None)
            self.values.pop(key, None)
            return
        order = sorted(elements, key=lambda data: (*self.rows[key, data][:2], data))
        self.values[key] = tuple(elements[data] for data in order)

    def _sort_in(self) -> None:
        fresh, self._fresh = self._fresh, []
        for key in fresh:
            self._order[type(key)].add(key)

    def scan(self, start: Any, stop: Any, reverse: bool = False) -> Iterator[Key]:
        """Keys of an ordered table from ``start`` up to, not with, ``stop``.

        Either may be None. Bytes come before integers, these before texts; a scan with a
        bound is over the keys of its type. The table may change while the scan is read.
        """
        self._sort_in()
        bound = start if start is not None else stop
        kinds: list[Any] = [bytes, int, str] if bound is None else [type(bound)]
        for kind in reversed(kinds) if reverse else kinds:
            order = self._order.get(kind)
            if order is not None:
                yield from list(order.irange(start, stop, (True, False), reverse=reverse))

    def elements(self, key: Key) -> dict[bytes, Any]:
        """The values of one key of a bag, by what tells them apart."""
        return self._elements.get(key, {})

    def value_of(self, rid: Any) -> object:
        """The value of a row; that of a tombstone of a bag is the value that is gone."""
        if not self._bag:
            return self.values.get(rid)
        key, data = rid
        return self._elements.get(key, {}).get(data)

    # --- leaving -------------------------------------------------------------------------

    def rids(self) -> list[Any]:
        """Every row's, tombstones included."""
        return list(self.rows)

    def disown(self, rids: Iterable[Any]) -> int:
        """Drop those of some rows whose owner is gone; returns how many."""
        dropped = 0
        for rid in rids:
            row = self.rows.get(rid)
            if row is not None and row.owner is not None and self._gone(row.owner):
                self._drop(rid, row)
                dropped += 1
        return dropped

    def _drop(self, rid: Any, row: Row) -> None:
        self.digest.pending.setdefault(rid, row)
        self.edits += 1
        del self.rows[rid]
        self._tombstones.pop(rid, None)
        if not row.dead:
            self._take_away(rid)

    def expire(self, now: int, most: int) -> int:
        """Forget up to ``most`` tombstones that are too old, or too many; returns how many."""
        doomed: list[Any] = []
        for rid in islice(self._tombstones, most):
            old = self.rows[rid].stamp < now - self._life
            if not old and len(self._tombstones) - len(doomed) <= self._most_tombstones:
                break
            doomed.append(rid)
        for rid in doomed:
            self._drop(rid, self.rows[rid])
        self.expired += len(doomed)
        return len(doomed)

    # --- telling -------------------------------------------------------------------------

    def take_changes(self) -> list[Change]:
        """What changed since the last call, for watchers; the last state of each key."""
        changed, self._changed = self._changed, {}
        values = self.values
        return [Change(key, values.get(key), key not in values) for key in changed]

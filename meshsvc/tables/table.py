"""A table as an application holds it, in one shard: read like a dict, written with results.

Reads touch this shard's own copy only: they never wait, and may be done from any code on the
reactor's thread. What they return is the stored object: do not change it, insert another.
Writes are there for readers of this shard when the call returns, and for everybody when its
``Deferred`` fires with a result that is ``ok``.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from meshsvc.errors import BadTable
from meshsvc.tables.replica import Change, Replica
from meshsvc.tables.rows import MAX_KEY_BYTES, Key, Kind, check_key, element, own_copy

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from meshsvc.tables.writes import WriteResult

_ANY = object()

SAMPLE = 64
"""Values looked at to estimate the memory of all."""

ROW_BYTES = 180
"""A row's entries in two dicts, its key, and its share of versions; see ``bench/tables.py``."""


class Store(Protocol):
    """What a table needs of the shard it lives in."""

    max_row: int

    @property
    def put(self) -> Callable[..., Deferred[WriteResult]]:
        """(replica, keys, values, dead, timeout_s, bytes): write here, and send to all."""

    @property
    def nothing(self) -> Callable[[], Deferred[WriteResult]]:
        """The result of a write that had nothing to write."""

    @property
    def lead(self) -> Callable[..., Deferred[Any]]:
        """(replica, verb, key, value, timeout_s): have the leader decide."""

    def watch(
        self, replica: Replica, callback: Callable[[list[Change]], object]
    ) -> Callable[[], None]:
        """Call back with changes; returns what ends that."""

    @property
    def status(self) -> Callable[[str], dict[str, object]]:
        """(name): how the table is joined."""

    @property
    def wait_joined(self) -> Callable[[str, float], Deferred[None]]:
        """(name, timeout_s): fires when it is joined with everybody who can be reached."""


class Table:
    """One replicated table; see the module's docstring.

    Attributes:
        name, kind: as it was opened.
        view: all of it, as a read-only mapping.
    """

    __slots__ = ("_most", "_replica", "_store", "_values", "get", "kind", "name", "view")

    def __init__(self, store: Store, replica: Replica) -> None:
        self._store = store
        self._replica = replica
        self._values = replica.values
        self._most = store.max_row
        self.get = replica.values.get
        self.name = replica.schema.name
        self.kind = replica.schema.kind
        self.view: Mapping[Key, Any] = MappingProxyType(replica.values)

    def __repr__(self) -> str:
        return f"<{self.kind.value} table {self.name} of {len(self._values)} keys>"

    # --- reading -------------------------------------------------------------------------

    def __getitem__(self, key: Key) -> Any:
        return self._values[key]

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._values)

    def keys(self) -> KeysView[Key]:
        """All keys; the table must not change while they are walked: see ``dump``."""
        return self._values.keys()

    def items(self) -> ItemsView[Key, Any]:
        """All keys with their values; as ``keys``."""
        return self._values.items()

    def range(
        self, start: Key | None = None, stop: Key | None = None, reverse: bool = False
    ) -> Iterator[tuple[Key, Any]]:
        """Keys from ``start`` up to, not with, ``stop``, in order, with their values.

        The table may change meanwhile: keys that are gone by then are left out.

        Raises:
            BadTable: when it is not an ordered table.
        """
        if self.kind is not Kind.ORDERED:
            raise BadTable(f"{self.name} is a {self.kind.value} table: open it as 'ordered'")
        return self._range(start, stop, reverse)

    def _range(self, start: Any, stop: Any, reverse: bool) -> Iterator[tuple[Key, Any]]:
        values = self._values
        for key in self._replica.scan(start, stop, reverse):
            value = values.get(key, _ANY)
            if value is not _ANY:
                yield key, value

    def dump(self) -> list[tuple[Key, Any]]:
        """All keys with their values at this moment."""
        return list(self._values.items())

    def version(self, key: Key) -> int:
        """The version of a key's row (of its latest in a bag), 0 when it is not there."""
        rids = [key]
        if self.kind is Kind.BAG:
            rids = [(key, data) for data in self._replica.elements(key)]  # type: ignore[misc]
        rows = [self._replica.rows[rid] for rid in rids if rid in self._replica.rows]
        return max((row.stamp for row in rows if not row.dead), default=0)

    @property
    def memory(self) -> int:
        """About how many bytes this copy takes."""
        values = self._values
        sample = [value for value, _ in zip(values.values(), range(SAMPLE), strict=False)]
        one = sum(len(element(value)) for value in sample) / max(1, len(sample))
        return int((ROW_BYTES + one) * len(self._replica.rows))

    # --- writing -------------------------------------------------------------------------

    def insert(self, key: Key, value: Any, timeout_s: float | None = None) -> Deferred[WriteResult]:
        """Put a row in, over one that is there; in a bag, beside those that are.

        Raises:
            BadKey, NotEncodable, TooLarge: before anything is done.
        """
        check_key(key)
        value, size = own_copy(key, value, self._most)
        return self._store.put(self._replica, (key,), (value,), False, timeout_s, size)

    def insert_many(
        self,
        rows: Mapping[Key, Any] | Iterable[tuple[Key, Any]],
        timeout_s: float | None = None,
    ) -> Deferred[WriteResult]:
        """Put rows in, all under one version and in one message; of a key given twice, the last.

        Raises:
            BadKey, NotEncodable, TooLarge: naming the first bad row, before anything is done.
        """
        keys, values, size = self._checked(rows.items() if isinstance(rows, Mapping) else rows)
        if self.kind is not Kind.BAG and len(set(keys)) < len(keys):
            last = dict(zip(keys, values, strict=True))
            keys, values = list(last), list(last.values())
        if not keys:
            return self._store.nothing()
        return self._store.put(self._replica, keys, values, False, timeout_s, size)

    def _checked(self, pairs: Iterable[tuple[Key, Any]]) -> tuple[list[Key], list[Any], int]:
        """Keys, values and about their bytes; this loop is half of what a large insert costs."""
        keys: list[Key] = []
        values: list[Any] = []
        most, total = self._most, 0
        for key, value in pairs:
            if type(key) is not str or len(key) > MAX_KEY_BYTES or not key.isascii():
                check_key(key)
            if type(value) is str and len(value) <= most and value.isascii():
                size = len(value)
                values.append(value)
            else:
                stored, size = own_copy(key, value, most)
                values.append(stored)
            keys.append(key)
            total += size
        return keys, values, total

    def delete(
        self,
        key: Key,
        if_value: Any = _ANY,
        if_version: int | None = None,
        timeout_s: float | None = None,
    ) -> Deferred[WriteResult]:
        """Take a key away, in a bag all its rows.

        With ``if_value`` only a row that holds that value goes (in a bag, that one row), with
        ``if_version`` only one of that version. ``changed`` of the result says whether one did.
        A row that somebody wrote meanwhile has a greater version and stays.
        """
        check_key(key)
        keys, values = self._doomed(key, if_value, if_version)
        if not keys:
            return self._store.nothing()
        return self._store.put(self._replica, keys, values, True, timeout_s)

    def delete_many(
        self, keys: Iterable[Key], timeout_s: float | None = None
    ) -> Deferred[WriteResult]:
        """Take keys away, in one message."""
        doomed: list[Key] = []
        values: list[Any] = []
        for key in dict.fromkeys(map(check_key, keys)):
            mine, theirs = self._doomed(key, _ANY, None)
            doomed += mine
            values += theirs
        if not doomed:
            return self._store.nothing()
        return self._store.put(self._replica, doomed, values, True, timeout_s)

    def _doomed(
        self, key: Key, if_value: Any, if_version: int | None
    ) -> tuple[list[Key], list[Any]]:
        """What is to be deleted: keys, and in a bag as many values."""
        replica = self._replica
        if self.kind is not Kind.BAG:
            there = key in self._values
            if there and if_value is not _ANY:
                there = element(self._values[key]) == element(if_value)
            if there and if_version is not None:
                there = replica.rows[key].stamp == if_version
            return ([key], []) if there else ([], [])
        elements = replica.elements(key)
        if if_value is not _ANY:
            data = element(if_value)
            elements = {data: elements[data]} if data in elements else {}
        values = [
            value
            for data, value in elements.items()
            if if_version is None or replica.rows[key, data].stamp == if_version
        ]
        return [key] * len(values), values

    # --- decided by the leader -----------------------------------------------------------

    def insert_new(self, key: Key, value: Any, timeout_s: float | None = None) -> Deferred[bool]:
        """Put a row in unless the key has one: True for exactly one caller in the cluster.

        The Deferred fails with ``Fenced`` when it was not done (this node does not see a
        majority of the members, or the leader is not ready), and with ``Indeterminate`` when
        nobody can tell: look the key up, or ask again with ``insert_new_or_lookup``.
        """
        decided = self._lead("insert_new", key, value, timeout_s)
        return decided.addCallback(lambda answer: bool(answer[0]))

    def insert_new_or_lookup(
        self, key: Key, value: Any, timeout_s: float | None = None
    ) -> Deferred[tuple[bool, Any]]:
        """``insert_new`` that answers the row as well: (True, yours) or (False, theirs)."""
        decided = self._lead("insert_new", key, value, timeout_s)
        return decided.addCallback(lambda answer: (bool(answer[0]), answer[1]))

    def insert_serial(self, key: Key, value: Any, timeout_s: float | None = None) -> Deferred[None]:
        """Put a row in, over one that is there, in one order for the whole cluster."""
        decided = self._lead("insert_serial", key, value, timeout_s)
        return decided.addCallback(lambda answer: None)

    def _lead(self, verb: str, key: Key, value: Any, timeout_s: float | None) -> Deferred[Any]:
        if self.kind is Kind.BAG:
            raise BadTable(f"{self.name} is a bag, whose keys may have many rows: none is new")
        check_key(key)
        value, _ = own_copy(key, value, self._most)
        return self._store.lead(self._replica, verb, key, value, timeout_s)

    # --- following -----------------------------------------------------------------------

    def subscribe(self, callback: Callable[[list[Change]], object]) -> Callable[[], None]:
        """Call ``callback`` with the changes of this copy, whoever made them, a turn's at once.

        Of a key that changed twice in a turn only the last state is told. Returns what ends
        it. A callback that raises is logged, and called again at the next change.
        """
        return self._store.watch(self._replica, callback)

    def status(self) -> dict[str, object]:
        """With whom it is joined, and why not with whom it is not."""
        return self._store.status(self.name)

    def wait_joined(self, timeout_s: float) -> Deferred[None]:
        """Fires when it is joined with every member that has it; fails with ``TimedOut``."""
        return self._store.wait_joined(self.name, timeout_s)

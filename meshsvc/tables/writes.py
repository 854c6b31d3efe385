"""From a write to its result: what is sent in one reactor turn, and who has answered.

All writes of a turn go to the same members in one message, encoded once. A write is over when
each of those has answered or was lost; its result then names them. Members that are only
being joined get every write as well, but nobody waits for them.

On the wire a batch is ``[term, attempt, origin, entries]``; an entry is ``[schema, stamp,
owner or None, dead, decided, keys, values]``, rows that share one version. ``decided`` says
that the leader of the epoch decided it, which who has sealed a later epoch refuses. Keys and
values are columns (``meshsvc.tables.columns``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from meshsvc.errors import BadTable, WireError
from meshsvc.messaging.items import join
from meshsvc.model import Epoch, Incarnation, NodeId, ShardId
from meshsvc.tables.columns import column, read_column
from meshsvc.tables.rows import KEY_TYPES, Key, Kind, Origin, Owner, Row, Schema
from meshsvc.wire.codec import decode, encode

STALE = "stale-epoch"
CLOCK = "clock-ahead"
OTHER_SCHEMA = "other-schema"
OWNER_GONE = "owner-gone"
"""Why a write is refused; the counters' labels."""


@dataclass(frozen=True, slots=True)
class WriteResult:
    """Who has a write; names are those of nodes, or ``node/shard`` for one shard of this node.

    ``version`` is the stamp it was written under; for a delete that found nothing, 0.
    ``changed`` says how many rows it changed here, at once.
    """

    acked: tuple[str, ...] = ()
    lost: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    version: int = 0
    changed: int = 0

    @property
    def ok(self) -> bool:
        """Whether every joined member has it."""
        return not self.lost and not self.rejected


class Write:
    """One call that has not got its result; ``done`` is called with it, once.

    With ``enough`` it is over as soon as so many members have it. ``changed`` is set when its
    rows are merged here.
    """

    __slots__ = (
        *("_acked", "_done", "_enough", "_lost", "_over", "_rejected", "_waiting"),
        *("changed", "version"),
    )

    def __init__(
        self,
        done: Callable[[WriteResult], object],
        version: int,
        enough: int | None = None,
    ) -> None:
        self._done, self._enough, self._over = done, enough, False
        self._waiting = 1
        self._acked: list[str] = []
        self._lost: dict[str, str] = {}
        self._rejected: dict[str, str] = {}
        self.version = version
        self.changed = 0

    def expect(self, members: int) -> None:
        """So many members are to answer."""
        self._waiting += members

    def acked(self, member: str) -> None:
        """A member has it, in all its shards."""
        self._acked.append(member)
        self.answered()

    def lost(self, member: str, why: str) -> None:
        """A member may or may not have it; anti-entropy brings it there."""
        self._lost[member] = why
        self.answered()

    def rejected(self, member: str, why: str) -> None:
        """A member refused it."""
        self._rejected[member] = why
        self.answered()

    def answered(self) -> None:
        """One less to wait for; also called once when all that are expected are known."""
        self._waiting -= 1
        enough = self._enough is not None and len(self._acked) >= self._enough
        if (enough or not self._waiting) and not self._over:
            self._over = True
            self._done(
                WriteResult(
                    tuple(self._acked), self._lost, self._rejected, self.version, self.changed
                )
            )


class Entry(NamedTuple):
    """Rows that share one version."""

    schema: Schema
    row: Row
    decided: bool
    keys: list[Key]
    values: list[Any]

    def encoded(self) -> bytes:
        """As it travels; the origin is that of the batch. All of it was checked before."""
        row = self.row
        fixed = (self.schema.wire(), row.stamp, row.owner, row.dead, self.decided)
        return encode((*fixed, column(self.keys), column(self.values)))


ENTRY_ROWS = 1000
"""Rows of single writes that share an entry: what one side merges in two milliseconds."""


ROW_BYTES = 64
"""About what a row takes besides its value."""


class Turn:
    """What is written to one table in one turn with one time-out.

    Writes that follow each other share an entry, and so a version, as long as nothing came in
    between: a thousand inserts of one turn cost about what one of a thousand rows costs. A key
    that is written again begins the next entry, as a row must beat the one before it.
    """

    __slots__ = ("_keys", "_open", "entries", "size", "writes")

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.writes: list[tuple[Write, int]] = []
        self.size = 0
        self._open: Entry | None = None
        self._keys: set[Key] = set()

    def share(self, key: Key, last: int) -> Entry | None:
        """The open entry, when a row of this key may join it; ``last`` is the clock's stamp."""
        entry = self._open
        if entry is None or entry.row.stamp != last or entry.row.dead:
            return None
        return None if key in self._keys or len(entry.keys) >= ENTRY_ROWS else entry

    def begin(self, entry: Entry) -> None:
        """Another entry, which further rows may join one by one."""
        self.close()
        self._open = entry
        self._keys = set(entry.keys) if len(entry.keys) < ENTRY_ROWS else set()

    def join(self, key: Key, value: Any) -> None:
        """A row for the open entry."""
        assert self._open is not None
        self._open.keys.append(key)
        self._open.values.append(value)
        self._keys.add(key)

    def wait(self, write: Write, size: int) -> None:
        """A call waits for the entry that is open; its rows take so many bytes."""
        self.writes.append((write, len(self.entries)))
        self.size += size + ROW_BYTES

    def close(self) -> None:
        """Nothing joins the open entry any more."""
        if self._open is not None:
            self.entries.append(self._open.encoded())
            self._open = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What came in one message."""

    epoch: Epoch
    entries: list[Entry]


def encode_batch(epoch: Epoch, origin: Origin, entries: list[bytes]) -> bytes:
    """The bytes of a batch of encoded entries."""
    return b"\x84" + encode((epoch.term, epoch.attempt, origin))[1:] + join(entries)


class BatchReader:
    """Reads batches; what is the same in all of a writer's batches is made once."""

    MOST = 4096
    """Origins, schemas and versions remembered: one for each life of a shard, each table, and
    each of the calls whose rows are being copied.
    """

    def __init__(self) -> None:
        self._origins: dict[tuple[Any, ...], Origin] = {}
        self._owners: dict[tuple[Any, ...], Owner] = {}
        self._schemas: dict[tuple[Any, ...], Schema] = {}
        self._rows: dict[Row, Row] = {}

    def read(self, data: object) -> Batch:
        """Read a batch.

        Raises:
            WireError: when it is malformed; nothing of it is to be used.
        """
        if type(data) is not bytes:
            raise WireError("a batch of writes is bytes")
        try:
            fields: Any = decode(data)
            term, attempt, origin, entries = fields
            whose = self.origin(origin)
            return Batch(Epoch(int(term), int(attempt)), [self._entry(e, whose) for e in entries])
        except (ValueError, TypeError, BadTable) as error:
            raise WireError(f"a batch of writes is malformed: {error}") from error

    def origin(self, fields: Any) -> Origin:
        """An origin, the same object each time."""
        key = tuple(fields)
        found = self._origins.get(key)
        if found is None:
            node, incarnation, shard, life = key
            found = Origin(
                NodeId(_text(node)),
                Incarnation(_whole(incarnation)),
                ShardId(_whole(shard)),
                Incarnation(_whole(life)),
            )
            self._keep(self._origins, key, found)
        return found

    def owner(self, fields: Any) -> Owner | None:
        """An owner or None, the same object each time."""
        if fields is None:
            return None
        key = tuple(fields)
        found = self._owners.get(key)
        if found is None:
            node, incarnation = key
            found = Owner(NodeId(_text(node)), Incarnation(_whole(incarnation)))
            self._keep(self._owners, key, found)
        return found

    def schema(self, fields: Any) -> Schema:
        """A schema, the same object each time."""
        key = tuple(fields)
        found = self._schemas.get(key)
        if found is None:
            found = Schema.read(key)
            self._keep(self._schemas, key, found)
        return found

    def shared(self, row: Row) -> Row:
        """A version that many rows have, the same object each time: rows of one call come in
        many messages when they are copied.
        """
        found = self._rows.get(row)
        if found is None:
            self._keep(self._rows, row, row)
            return row
        return found

    def _keep(self, where: dict[Any, Any], key: Any, value: object) -> None:
        if len(where) >= self.MOST:
            where.clear()
        where[key] = value

    def _entry(self, fields: Any, origin: Origin) -> Entry:
        schema, stamp, owner, dead, decided, *columns = fields
        keys, values = map(read_column, columns)
        check_keys(keys)
        if len(values) != len(keys) and (values or not dead):
            raise ValueError(f"{len(keys)} keys and {len(values)} values")
        table = self.schema(schema)
        if table.kind is not Kind.BAG and len(set(keys)) < len(keys):
            raise ValueError("a key is there twice, and one version stands for one value")
        row = Row(_whole(stamp), origin, bool(dead), self.owner(owner))
        return Entry(table, row, bool(decided), keys, values)


def check_keys(keys: list[Any]) -> None:
    """Raise ValueError when not all of them are keys by their type."""
    for kind in set(map(type, keys)) - KEY_TYPES:
        raise ValueError(f"a {kind.__name__} is no key")


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r:.40} is no whole number")
    return value


def _text(value: object) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r:.40} is no text")
    return value

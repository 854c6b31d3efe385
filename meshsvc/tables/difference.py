"""What two copies do not share, and how rows travel between them.

One side sends what it has in some buckets, as (row, version); the other answers with the rows
that the first lacks or has otherwise, and names those that it wants itself. Rows travel as
columns, with each origin and owner once: ``[origins, owners, keys, values, stamps, whose,
owned, dead]``. In a bag a value is encoded by itself, because it is part of what a row is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from meshsvc.errors import BadTable, WireError
from meshsvc.tables.digest import COUNT, words
from meshsvc.tables.replica import Replica, Rows
from meshsvc.tables.rows import Kind, Origin, Owner, Row, beats, element
from meshsvc.tables.writes import BatchReader, check_keys
from meshsvc.wire.codec import decode

MAX_BYTES = 512 * 1024
"""Encoded values in one message: some milliseconds of work for either side."""

ROWS_A_CHUNK = 4000
"""Rows compared in one message; a few milliseconds as well."""


class Missing(NamedTuple):
    """What the other side lacks (``give``), and what this one does (``want``)."""

    give: list[Any]
    want: list[Any]


def chunks(buckets: Sequence[int], rows: int) -> list[list[int]]:
    """Buckets in groups that hold about ``ROWS_A_CHUNK`` rows, of a table of ``rows``."""
    size = max(1, ROWS_A_CHUNK * COUNT // max(rows, 1))
    return [list(buckets[at : at + size]) for at in range(0, len(buckets), size)]


def index(rids: Sequence[Any], into: dict[int, list[Any]]) -> None:
    """Enter those of some rows that are in the buckets that ``into`` has as keys."""
    keys = [rid[0] if type(rid) is tuple else rid for rid in rids]
    get = into.get
    for rid, word in zip(rids, words(keys), strict=True):
        found = get(word % COUNT)
        if found is not None:
            found.append(rid)


def missing(replica: Replica, mine: Iterable[Any], theirs: dict[Any, Row], both: bool) -> Missing:
    """Compare what is here in some buckets with what is there.

    With ``both``, a row that both have in different versions is given even when theirs wins:
    they ask for the two values, to resolve the conflict.
    """
    give, want = [], []
    rows = replica.rows
    seen = 0
    for rid in mine:
        row = rows.get(rid)
        if row is None:
            continue
        other = theirs.get(rid)
        if other is None:
            give.append(rid)
            continue
        seen += 1
        if row[:3] == other[:3]:
            continue
        if both or beats(row, other):
            give.append(rid)
        else:
            want.append(rid)
    if seen < len(theirs):
        want += [rid for rid in theirs if rid not in rows]
    return Missing(give, want)


def pack(replica: Replica, rids: Sequence[Any], most: int = MAX_BYTES) -> tuple[list[Any], int]:
    """As many of some rows as fit ``most`` bytes, as columns, and how many that were."""
    origins: dict[Origin, int] = {}
    owners: dict[Owner, int] = {}
    columns: list[list[Any]] = [[] for _ in range(6)]
    keys, values, stamps, whose, owned, dead = columns
    bag, size, used = replica.schema.kind is Kind.BAG, 0, 0
    rows, value_of = replica.rows, replica.values.get
    for rid in rids:
        if size >= most:
            break
        used += 1
        row = rows.get(rid)
        if row is None:
            continue
        key, value = rid if bag else (rid, value_of(rid))
        size += 32 + _size(value)
        stamp, origin, gone, owner = row
        keys.append(key)
        values.append(value)
        stamps.append(stamp)
        whose.append(origins.setdefault(origin, len(origins)))
        owned.append(-1 if owner is None else owners.setdefault(owner, len(owners)))
        dead.append(gone)
    return [list(origins), list(owners), *columns], used


def _size(value: Any) -> int:
    """About how many bytes a value takes, encoded."""
    kind = type(value)
    if kind is str or kind is bytes:
        return len(value)
    return 9 if value is None or kind in (int, float, bool) else len(element(value))


def unpack(reader: BatchReader, kind: Kind, columns: Any) -> Rows:
    """The rows in some columns.

    Raises:
        WireError: when they are malformed; none of them is to be used.
    """
    try:
        origins, owners, keys, values, *versions = columns
        from_ = [reader.origin(fields) for fields in origins]
        of = [*(reader.owner(fields) for fields in owners), None]
        check_keys(keys)
        made: dict[tuple[Any, ...], Row] = {}
        rows = []
        for version in zip(*versions, strict=True):
            row = made.get(version)
            if row is None:
                stamp, origin, owner, gone = version
                row = made[version] = Row(_whole(stamp), from_[origin], gone is True, of[owner])
            rows.append(row)
        if kind is Kind.BAG:
            rids: list[Any] = list(zip(keys, values, strict=True))
            values = [decode(data) for data in values]
        else:
            rids = keys
        if not len(rids) == len(rows) == len(values):
            raise ValueError(f"{len(keys)} keys, {len(rows)} versions, {len(values)} values")
        return Rows(rids, rows, values)
    except (ValueError, TypeError, IndexError, BadTable) as error:
        raise WireError(f"rows of a table are malformed: {error}") from error


def _whole(stamp: Any) -> int:
    if type(stamp) is not int or stamp < 0:
        raise ValueError(f"{stamp!r:.40} is no stamp")
    return stamp


def summarize(replica: Replica, rids: Iterable[Any]) -> list[Any]:
    """The versions of some rows, as columns."""
    origins: dict[Origin, int] = {}
    columns: list[list[Any]] = [[] for _ in range(5)]
    keys, elements, stamps, whose, dead = columns
    bag = replica.schema.kind is Kind.BAG
    for rid in rids:
        row = replica.rows.get(rid)
        if row is not None:
            key, data = rid if bag else (rid, None)
            keys.append(key)
            elements.append(data)
            stamps.append(row.stamp)
            whose.append(origins.setdefault(row.origin, len(origins)))
            dead.append(row.dead)
    return [list(origins), *columns]


def read_summary(reader: BatchReader, kind: Kind, columns: Any) -> dict[Any, Row]:
    """The versions in some columns, by row.

    Raises:
        WireError: when they are malformed.
    """
    try:
        origins, keys, elements, stamps, whose, dead = columns
        from_ = [reader.origin(fields) for fields in origins]
        check_keys(keys)
        rids = zip(keys, elements, strict=True) if kind is Kind.BAG else keys
        return {
            rid: Row(stamp, from_[origin], gone is True, None)
            for rid, stamp, origin, gone in zip(rids, stamps, whose, dead, strict=True)
        }
    except (ValueError, TypeError, IndexError, BadTable) as error:
        raise WireError(f"a summary of a table is malformed: {error}") from error

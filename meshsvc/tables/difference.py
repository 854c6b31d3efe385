"""What two copies do not share, and how rows travel between them.

One side sends what it has in some buckets, as (row, version); the other answers with the rows
that the first lacks or has otherwise, and names those that it wants itself. Rows travel as
columns, encoded: ``[keys, values, *versions]``. The versions are ``[origins, owners, stamps,
whose, owned, dead, which]``, each origin, owner and version once, and ``which`` has the number
of each row's version, or is None when no two rows share one. In a bag a value is encoded by
itself, because it is part of what a row is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from meshsvc.errors import BadTable, WireError
from meshsvc.tables.columns import Rows, column, read_column
from meshsvc.tables.digest import COUNT, words
from meshsvc.tables.replica import Replica
from meshsvc.tables.rows import Kind, Origin, Owner, Row, beats, element
from meshsvc.tables.writes import BatchReader, check_keys
from meshsvc.wire.codec import decode, encode

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


class Gathered:
    """What a leading side learned: rows that come, and rows that the other side wants.

    Both in the parts they came in: the garbage collector looks at every item of a list that is
    new, and at a million of them for as long as a slice may take.
    """

    def __init__(self) -> None:
        self.rows: list[Rows] = []
        self.wanted: list[Sequence[Any]] = []
        self.buckets = 0


def parts(rids: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Rows in slices."""
    for at in range(0, len(rids), size):
        yield rids[at : at + size]


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
    if not theirs:
        return Missing(list(mine), [])
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


def pack(replica: Replica, rids: Sequence[Any], most: int = MAX_BYTES) -> tuple[bytes, int]:
    """As many of some rows as fit ``most`` bytes, encoded, and how many that were."""
    keys, values = _columns(replica, rids)
    ends = list(accumulate(_sizes(values)))
    used = len(rids)
    if used and ends[-1] + ROW_BYTES * used >= most:
        used = next(n for n, end in enumerate(ends, 1) if end + ROW_BYTES * n >= most)
        keys, values = keys[:used], values[:used]
    rows: list[Any] = list(map(replica.rows.get, rids[:used]))
    if None in rows:
        here = [n for n, row in enumerate(rows) if row is not None]
        keys, values, rows = ([part[n] for n in here] for part in (keys, values, rows))
    return encode([column(keys), column(values), *_versions(rows)]), used


ROW_BYTES = 32
"""About what a row takes besides its value."""


def _columns(replica: Replica, rids: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Keys, and values as they travel."""
    if replica.schema.kind is Kind.BAG:
        return [rid[0] for rid in rids], [rid[1] for rid in rids]
    return list(rids), list(map(replica.values.get, rids))


def _sizes(values: list[Any]) -> Iterable[int]:
    return map(len if set(map(type, values)) <= {str, bytes} else _size, values)


def _size(value: Any) -> int:
    """About how many bytes a value takes, encoded."""
    kind = type(value)
    if kind is str or kind is bytes:
        return len(value)
    return 9 if value is None or kind in (int, float, bool) else len(element(value))


def _versions(rows: Sequence[Row]) -> list[Any]:
    """As the module's docstring says."""
    origins: dict[Origin, int] = {}
    owners: dict[Owner, int] = {}
    once = {id(row): row for row in rows}
    columns: list[list[Any]] = [[], [], [], []]
    stamps, whose, owned, dead = columns
    for stamp, origin, gone, owner in once.values():
        stamps.append(stamp)
        whose.append(origins.setdefault(origin, len(origins)))
        owned.append(-1 if owner is None else owners.setdefault(owner, len(owners)))
        dead.append(gone)
    which = None
    if len(once) < len(rows):
        number = dict(zip(once, range(len(once)), strict=True))
        which = list(map(number.__getitem__, map(id, rows)))
    return [list(origins), list(owners), *columns, which]


def _read_versions(reader: BatchReader, fields: Sequence[Any]) -> list[Row]:
    """The version of each row; raises ValueError, TypeError or IndexError."""
    origins, owners, stamps, whose, owned, dead, which = fields
    from_ = [reader.origin(fields) for fields in origins]
    of = [reader.owner(fields) for fields in owners]
    _numbers(stamps, 0)
    _numbers(whose, 0)
    _numbers(owned, -1)
    if not set(map(type, dead)) <= {bool}:
        raise ValueError("whether a row is dead is true or false")
    rows = [
        Row(stamp, from_[origin], gone, None if owner < 0 else of[owner])
        for stamp, origin, owner, gone in zip(stamps, whose, owned, dead, strict=True)
    ]
    if which is None:
        return rows
    _numbers(which, 0)
    return list(map(list(map(reader.shared, rows)).__getitem__, which))


def _numbers(column: Any, least: int) -> None:
    """Raise ValueError when it is no list of integers, or one of them is too small."""
    if type(column) is not list or not set(map(type, column)) <= {int}:
        raise ValueError("a column of numbers is a list of integers")
    if column and min(column) < least:
        raise ValueError(f"{min(column)} is below {least}")


def unpack(reader: BatchReader, kind: Kind, data: object) -> Rows:
    """The rows that ``pack`` encoded.

    Raises:
        WireError: when they are malformed; none of them is to be used.
    """
    try:
        keys, values, *versions = _decoded(data)
        keys, values = read_column(keys), read_column(values)
        check_keys(keys)
        rows = _read_versions(reader, versions)
        rids = keys
        if kind is Kind.BAG:
            rids = list(zip(keys, values, strict=True))
            values = [decode(data) for data in values]
        if not len(rids) == len(rows) == len(values):
            raise ValueError(f"{len(keys)} keys, {len(rows)} versions, {len(values)} values")
        return Rows(rids, rows, values)
    except (ValueError, TypeError, IndexError, BadTable) as error:
        raise WireError(f"rows of a table are malformed: {error}") from error


def _decoded(data: object) -> Any:
    if type(data) is not bytes:
        raise WireError("rows of a table travel encoded")
    return decode(data)


def summarize(replica: Replica, rids: Iterable[Any]) -> bytes:
    """The versions of some rows, encoded: ``[keys, elements, *versions]``; elements of a bag."""
    here = [rid for rid in rids if rid in replica.rows]
    keys, elements = _columns(replica, here)
    bag = replica.schema.kind is Kind.BAG
    rows = list(map(replica.rows.__getitem__, here))
    return encode([column(keys), elements if bag else None, *_versions(rows)])


def read_summary(reader: BatchReader, kind: Kind, data: object) -> dict[Any, Row]:
    """The versions that ``summarize`` encoded, by row.

    Raises:
        WireError: when they are malformed.
    """
    try:
        keys, elements, *versions = _decoded(data)
        keys = read_column(keys)
        check_keys(keys)
        rids = zip(keys, elements, strict=True) if kind is Kind.BAG else keys
        return dict(zip(rids, _read_versions(reader, versions), strict=True))
    except (ValueError, TypeError, IndexError, BadTable) as error:
        raise WireError(f"a summary of a table is malformed: {error}") from error


def read_rids(kind: Kind, rids: object) -> list[Any]:
    """Rows as they were named on the wire.

    Raises:
        WireError: when that is no column of keys, in a bag of pairs.
    """
    try:
        named = read_column(rids)
        return list(map(tuple, named)) if kind is Kind.BAG else named
    except (ValueError, TypeError) as error:
        raise WireError(f"rows are not named as they should be: {error}") from error

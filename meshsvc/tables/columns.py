"""Rows side by side: as they are merged, and a column of them as it travels.

A column is a list, or texts as one text. A list costs both sides some work for each of its items.
Many texts are quicker as one, with U+0000 between them: joining and splitting them is a tenth of
the work. A column with a text that holds U+0000 itself, or with anything that is no text, is a
list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from meshsvc.tables.rows import Row

SEPARATOR = "\0"

MANY = 16
"""Rows from which on a look at all of them first is repaid."""


class Rows:
    """Rows as they travel, in three lists side by side: a million of them are three objects to
    the garbage collector, and not a million.
    """

    __slots__ = ("rids", "rows", "values")

    def __init__(
        self, rids: list[Any] | None = None, rows: Any = None, values: list[Any] | None = None
    ) -> None:
        self.rids: list[Any] = [] if rids is None else rids
        self.rows: list[Row] = [] if rows is None else rows
        self.values: list[Any] = [] if values is None else values

    def __len__(self) -> int:
        return len(self.rids)

    def __iter__(self) -> Iterator[tuple[Any, Row, Any]]:
        return zip(self.rids, self.rows, self.values, strict=True)

    def append(self, rid: Any, row: Row, value: Any) -> None:
        """One more."""
        self.rids.append(rid)
        self.rows.append(row)
        self.values.append(value)

    def extend(self, other: Rows) -> None:
        """Those of another, behind these."""
        self.rids += other.rids
        self.rows += other.rows
        self.values += other.values

    def part(self, start: int, size: int) -> Rows:
        """Some of them."""
        stop = start + size
        return Rows(self.rids[start:stop], self.rows[start:stop], self.values[start:stop])


def column(items: Sequence[Any]) -> object:
    """A column for the wire."""
    if len(items) >= MANY and set(map(type, items)) == {str}:
        joined = SEPARATOR.join(items)
        if joined.count(SEPARATOR) == len(items) - 1:
            return joined
    return items


def read_column(travelled: object) -> list[Any]:
    """The items of a column.

    Raises:
        ValueError: when it is none.
    """
    if type(travelled) is str:
        return travelled.split(SEPARATOR)
    if type(travelled) is not list:
        raise ValueError(f"a column is a list or a text, not a {type(travelled).__name__}")
    return travelled

"""Rows that two nodes hold in different versions when they join, and what becomes of them.

The default, *last writer*, compares versions, which needs no resolver. Any other resolver is
asked once for each such key, on one of the two nodes, and what it answers is written under a
version above both, so that it wins on every copy and nobody asks again.
"""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from meshsvc.interfaces import IConflictResolver
from meshsvc.tables.replica import Copied, Replica
from meshsvc.tables.rows import Kind, Origin, Row, beats, own_copy

LAST_WRITER = "last-writer"


@implementer(IConflictResolver)
class LastWriter:
    """The row that was written last stays."""

    name = LAST_WRITER

    def resolve(self, key: Any, older: Any, newer: Any) -> Any:
        """The newer one."""
        return newer


@implementer(IConflictResolver)
class KeepBoth:
    """Both values stay, as one list, older first; a value that is a list already counts as
    the values in it, so that a second join makes the list longer and not deeper.
    """

    name = "keep-both"

    def resolve(self, key: Any, older: Any, newer: Any) -> Any:
        """A list of both, without repeats."""
        both: list[Any] = []
        for value in (older, newer):
            for each in value if isinstance(value, list) else [value]:
                if each not in both:
                    both.append(each)
        return both


SHIPPED = {resolver.name: resolver for resolver in (LastWriter(), KeepBoth())}


def conflict(replica: Replica, theirs: Copied) -> bool:
    """Whether both sides hold the key alive, in different versions."""
    mine = replica.rows.get(theirs.rid)
    alive = mine is not None and not mine.dead and not theirs.row.dead
    return alive and mine[:3] != theirs.row[:3]  # type: ignore[index]


def resolved(
    resolver: Any, replica: Replica, theirs: Copied, origin: Origin, most: int
) -> Copied | None:
    """What a conflict ends in; None when the row here was deleted meanwhile.

    Raises:
        Exception: whatever the resolver does, or what ``own_copy`` has against its answer.
    """
    mine = replica.rows.get(theirs.rid)
    if mine is None or mine.dead:
        return None
    here = replica.values[theirs.rid]
    pair = (here, theirs.value) if beats(theirs.row, mine) else (theirs.value, here)
    value = own_copy(theirs.rid, resolver.resolve(theirs.rid, *pair), most)
    last = theirs.row if beats(theirs.row, mine) else mine
    row = Row(max(mine.stamp, theirs.row.stamp) + 1, origin, False, last.owner)
    return Copied(theirs.rid, row, value)


def needs_resolver(replica: Replica) -> bool:
    """Whether versions alone do not decide; the rows of a bag are never in conflict."""
    return replica.schema.resolver != LAST_WRITER and replica.schema.kind is not Kind.BAG

"""Rows that two nodes hold in different versions when they join, and what becomes of them.

The default, *last writer*, compares versions, which needs no resolver. Any other resolver is
asked once for each such key, on one of the two nodes, and what it answers is written under a
version above both, so that it wins on every copy and nobody asks again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from zope.interface import implementer

from meshsvc.interfaces import IConflictResolver
from meshsvc.tables.columns import Rows
from meshsvc.tables.replica import Replica
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


def conflict(mine: Row | None, theirs: Row) -> bool:
    """Whether both sides hold a key alive, in different versions."""
    alive = mine is not None and not mine.dead and not theirs.dead
    return alive and mine[:3] != theirs[:3]  # type: ignore[index]


class Conflict(NamedTuple):
    """A key that both sides hold: each side's row and value."""

    key: Any
    mine: Row
    theirs: Row
    here: Any
    there: Any


def resolved(resolver: Any, found: Conflict, origin: Origin, most: int) -> tuple[Row, Any]:
    """What a conflict ends in: a version above both, and the value.

    Raises:
        Exception: whatever the resolver does, or what ``own_copy`` has against its answer.
    """
    key, mine, theirs, here, there = found
    newer = beats(theirs, mine)
    answer = resolver.resolve(key, *((here, there) if newer else (there, here)))
    value, _ = own_copy(key, answer, most)
    owner = theirs.owner if newer else mine.owner
    return Row(max(mine.stamp, theirs.stamp) + 1, origin, False, owner), value


def needs_resolver(replica: Replica) -> bool:
    """Whether versions alone do not decide; the rows of a bag are never in conflict."""
    return replica.schema.resolver != LAST_WRITER and replica.schema.kind is not Kind.BAG


def weigh(
    replica: Replica, copied: Rows, resolver: Any, origin: Origin, most: int
) -> tuple[Rows, Rows, list[Any]]:
    """What of some rows is to be merged here, what the other side is to merge because it was
    resolved, and the rows of ours that it lacks.

    Raises:
        Exception: as ``resolved``.
    """
    ask = needs_resolver(replica)
    incoming, made, wanted = Rows(), Rows(), []
    for rid, row, value in copied:
        mine = replica.rows.get(rid)
        if mine is None or (beats(row, mine) and not (ask and conflict(mine, row))):
            incoming.append(rid, row, value)
        elif ask and conflict(mine, row):
            found = Conflict(rid, mine, row, replica.values[rid], value)
            answer = resolved(resolver, found, origin, most)
            for each in (incoming, made):
                each.append(rid, *answer)
        else:
            wanted.append(rid)
    return incoming, made, wanted

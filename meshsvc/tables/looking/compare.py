"""Which copies of a table differ, and in which keys.

Copies are compared while they are written to, so two looks at one moment do not exist. A
difference counts only when a second look, a moment later, still finds the same copy behind
with the same old row: what was merely on its way has arrived by then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meshsvc.errors import WireError
from meshsvc.tables.digest import COUNT, bucket_of
from meshsvc.tables.rows import Row, beats

WIDTH = 8
"""Bytes of one fingerprint."""


@dataclass(frozen=True, slots=True)
class Copy:
    """What one shard said of its copy; ``error`` says why it did not, or has none."""

    node: str
    shard: int
    rows: int = 0
    tombstones: int = 0
    prints: bytes = b""
    error: str = ""

    @property
    def name(self) -> str:
        """For people: node/shard."""
        return f"{self.node}/{self.shard}"

    @classmethod
    def read(cls, node: str, shard: int, answer: Any) -> Copy:
        """Read an answer of ``tables.look``.

        Raises:
            WireError: when it is something else.
        """
        if answer is None:
            return cls(node, shard, error="it does not hold the table")
        try:
            prints, rows, tombstones = answer
            if type(prints) is not bytes or len(prints) != COUNT * WIDTH:
                raise ValueError(f"fingerprints are {COUNT * WIDTH} bytes")
            return cls(node, shard, int(rows), int(tombstones), prints)
        except (ValueError, TypeError) as error:
            raise WireError(f"{node}/{shard} described its copy in another way: {error}") from error


@dataclass(frozen=True, slots=True)
class Differing:
    """One row that differs: by copy, its version there, or None where it is missing."""

    rid: Any
    versions: dict[str, Row | None]

    @property
    def behind(self) -> dict[str, Row | None]:
        """The copies that do not have the version that wins."""
        best: Row | None = None
        for row in self.versions.values():
            if row is not None and (best is None or beats(row, best)):
                best = row
        return {name: row for name, row in self.versions.items() if _other(row, best)}


@dataclass(slots=True)
class Report:
    """The outcome: every copy, the keys found to differ, and whether all of them were looked for.

    ``open_buckets`` is how many groups of keys differed at the last look.
    """

    copies: list[Copy]
    differing: list[Differing] = field(default_factory=list)
    open_buckets: int = 0
    complete: bool = True


def _other(row: Row | None, best: Row | None) -> bool:
    return row is None or best is None or row[:3] != best[:3]


def groups(copies: Sequence[Copy]) -> list[list[Copy]]:
    """Copies that are equal, together; those that did not answer are in none."""
    alike: dict[bytes, list[Copy]] = {}
    for copy in copies:
        if not copy.error:
            alike.setdefault(copy.prints, []).append(copy)
    return list(alike.values())


def open_buckets(copies: Sequence[Copy]) -> list[int]:
    """The buckets in which not all copies that answered hold the same."""
    prints = [group[0].prints for group in groups(copies)]
    if len(prints) < 2:
        return []
    return [
        bucket
        for bucket in range(COUNT)
        if len({each[bucket * WIDTH : (bucket + 1) * WIDTH] for each in prints}) > 1
    ]


def differing(versions: Mapping[str, Mapping[Any, Row]]) -> list[Differing]:
    """The rows that not all copies hold in one version, given those of the same buckets."""
    rids: dict[Any, None] = {}
    for rows in versions.values():
        rids.update(dict.fromkeys(rows))
    found = []
    for rid in rids:
        mine = {name: rows.get(rid) for name, rows in versions.items()}
        kinds = {None if row is None else row[:3] for row in mine.values()}
        if len(kinds) > 1:
            found.append(Differing(rid, mine))
    return sorted(found, key=lambda each: (bucket_of(each.rid), repr(each.rid)))


def confirmed(before: Sequence[Differing], after: Sequence[Differing]) -> list[Differing]:
    """Those of the second look in which some copy is as far behind as it was at the first."""
    earlier = {each.rid: each for each in before}
    kept = []
    for each in after:
        first = earlier.get(each.rid)
        if first is None:
            continue
        if any(name in first.behind and first.behind[name] == row
               for name, row in each.behind.items()):  # fmt: skip
            kept.append(each)
    return kept

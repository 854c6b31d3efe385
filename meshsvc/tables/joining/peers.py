"""What a seat knows of the other nodes' tables, and with whom its own are joined."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from meshsvc.errors import WireError
from meshsvc.model import NodeId, NodeInfo, ShardAddress, ShardId
from meshsvc.tables.join import Join, Phase
from meshsvc.tables.rows import Schema

ABSENT = "absent"
"""It does not hold the table."""

UNREACHABLE = "unreachable"

LOCK_S = 90.0
"""Longer than a join of millions of rows; a holder that is out of reach loses it at once."""


class Greeting(NamedTuple):
    """What seats tell each other every few seconds."""

    life: tuple[int, int]
    schemas: dict[str, Schema]
    joined: list[str]

    def wire(self) -> list[Any]:
        """As it travels."""
        return [list(self.life), [s.wire() for s in self.schemas.values()], self.joined]

    @classmethod
    def read(cls, fields: Any) -> Greeting:
        """Read what ``wire`` made.

        Raises:
            WireError: when it is something else.
        """
        try:
            (incarnation, seat), rows, joined = fields
            schemas = {schema.name: schema for schema in map(Schema.read, rows)}
            return cls((int(incarnation), int(seat)), schemas, [str(name) for name in joined])
        except (ValueError, TypeError) as error:
            raise WireError(f"a greeting of a seat is malformed: {error}") from error


@dataclass(slots=True, eq=False)
class Peer:
    """Another member. ``joins`` has what this node leads, ``follows`` what that one does."""

    info: NodeInfo
    life: tuple[int, int] = (0, 0)
    greeted: bool = False
    reachable: bool = False
    schemas: dict[str, Schema] = field(default_factory=dict)
    joins: dict[str, Join] = field(default_factory=dict)
    follows: dict[str, bool] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)

    @property
    def seat(self) -> ShardAddress:
        """The shard that speaks for it."""
        return ShardAddress(self.info.node_id, ShardId(self.info.shards - 1))

    def joined(self, name: str) -> bool:
        """Whether a table is joined with it."""
        join = self.joins.get(name)
        return self.follows.get(name, False) or (join is not None and join.phase is Phase.JOINED)

    def gets_writes(self, name: str) -> bool:
        """Whether it is joined, or being joined."""
        join = self.joins.get(name)
        leading = join is not None and join.phase not in (Phase.APART, Phase.WAITING)
        return leading or name in self.follows

    def row(self, name: str) -> list[Any]:
        """How far a table is with it: [node id, name, phase, why, tries]."""
        join, why = self.joins.get(name), self.refusals.get(name, "")
        phase: str = Phase.APART.value
        if not self.reachable:
            phase, why = UNREACHABLE, f"{self.info.name} cannot be reached"
        elif self.greeted and name not in self.schemas:
            phase = ABSENT
        elif self.joined(name):
            phase, why = Phase.JOINED.value, ""
        elif join is not None:
            phase, why = join.phase.value, join.why or why
        tries = join.tries if join is not None else 0
        return [self.info.node_id, self.info.name, phase, why, tries]

    def progress(self, name: str) -> tuple[int, int]:
        """Rows that a join in progress has looked at or moved, and of how many; (0, 0) if none."""
        join = self.joins.get(name)
        if join is None or join.phase not in (Phase.STAGING, Phase.COMMITTING):
            return 0, 0
        return join.moved, join.of


class Lock:
    """The lock that one join at a time holds; kept by the first member of the roster."""

    def __init__(self) -> None:
        self.holder: NodeId | None = None
        self.until = 0.0

    def take(self, who: NodeId, now: float) -> bool:
        """Whether it is theirs now, for ``LOCK_S`` from now."""
        if self.holder not in (None, who) and now < self.until:
            return False
        self.holder, self.until = who, now + LOCK_S
        return True

    def give_back(self, who: NodeId) -> None:
        """They need it no longer, or are gone."""
        if self.holder == who:
            self.holder = None


def views(names: Iterable[str], peers: Iterable[Peer]) -> dict[str, Any]:
    """What the siblings are told of each table: who gets writes, and a row for each member."""
    everyone = list(peers)
    return {
        name: [
            {p.info.node_id: p.joined(name) for p in everyone if p.gets_writes(name)},
            [p.row(name) for p in everyone],
        ]
        for name in names
    }

"""The membership as others see it: one row a node, and an index that counts the changes.

Shards other than 0 hold a copy: a row carries all of a node, and ``View.since`` answers the
rows that changed after an index, so that a copy is brought up to date in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from meshsvc.gossip.states import EndpointState
from meshsvc.model import Address, Incarnation, NodeId, NodeInfo

MAX_MISSED = 1024
"""Changes a copy may be behind and still get rows; beyond it gets the whole view."""


class Status(Enum):
    """What a node is to this one."""

    JOINING = "joining"
    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Member:
    """One node as this one sees it.

    ``generation`` is its life (unix seconds at least), ``version`` what it said last,
    ``values`` the keys it gossips, ``rtt_ms`` this node's own measured round trip to it,
    None while there is none.
    """

    node_id: NodeId
    name: str
    status: Status
    generation: int
    version: int
    address: Address
    shards: int
    values: Mapping[str, Any]
    rtt_ms: float | None = None

    @property
    def incarnation(self) -> Incarnation:
        """The generation, as what addresses a life of a node elsewhere."""
        return Incarnation(self.generation)

    @property
    def alive(self) -> bool:
        """Whether it may be counted on: a suspect is, until its suspicion ran out."""
        return self.status is Status.ALIVE or self.status is Status.SUSPECT

    @property
    def tags(self) -> Mapping[str, Any]:
        """The free-form labels of the node."""
        tags = self.values.get("tags")
        return tags if isinstance(tags, dict) else {}

    @property
    def info(self) -> NodeInfo:
        """Its identity."""
        return NodeInfo(self.node_id, self.name, self.incarnation, self.address, self.shards)

    def row(self) -> list[object]:
        """The encodable row, in the order of the fields."""
        return [
            *(self.node_id, self.name, self.status.value, self.generation, self.version),
            *(str(self.address), self.shards, dict(self.values), self.rtt_ms),
        ]

    @classmethod
    def from_row(cls, row: list[Any]) -> Member:
        """Read a row that a sibling shard wrote."""
        node_id, name, status, generation, version, address, shards, values, rtt_ms = row[:9]
        return cls(
            *(NodeId(node_id), name, Status(status), generation, version),
            *(Address.parse(address), shards, values, rtt_ms),
        )


def member_of(state: EndpointState, status: Status) -> Member:
    """The row of an endpoint state."""
    info = state.info
    return Member(
        *(state.node_id, info.name, status, state.generation, state.version),
        *(info.address, info.shards, state.public),
    )


class View:
    """All members with the index at which each changed last; rows are never taken out.

    A fresh round trip is no change: it is filled in when rows are read.
    """

    def __init__(self, rtt_ms: Callable[[NodeId], float | None]) -> None:
        """``rtt_ms`` answers the round trip to a node, if one was measured."""
        self._rtt_ms = rtt_ms
        self.index = 0
        self._members: dict[NodeId, Member] = {}
        self._changed_at: dict[NodeId, int] = {}

    def put(self, member: Member) -> None:
        """Replace the row of a node."""
        self.index += 1
        self._members[member.node_id] = member
        self._changed_at.pop(member.node_id, None)
        self._changed_at[member.node_id] = self.index

    def restate(self, node_id: NodeId, status: Status) -> Member | None:
        """Change the status of a node; answers its row."""
        member = self._members.get(node_id)
        if member is not None:
            member = replace(self._fresh(member), status=status)
            self.put(member)
        return member

    def get(self, node_id: NodeId) -> Member | None:
        """The row of a node."""
        member = self._members.get(node_id)
        return None if member is None else self._fresh(member)

    def all(self) -> tuple[Member, ...]:
        """Every row, by name."""
        found = [self._fresh(member) for member in list(self._members.values())]
        return tuple(sorted(found, key=lambda m: (m.name, m.node_id)))

    def since(self, index: int) -> tuple[int, bool, list[list[object]]]:
        """(index, whether the rows are the whole view, rows changed after ``index``)."""
        behind = self.index - index
        if index <= 0 or not 0 <= behind <= MAX_MISSED:
            return self.index, True, [member.row() for member in self.all()]
        rows = [member.row() for node in self._newer(index) if (member := self.get(node))]
        return self.index, False, rows

    def _fresh(self, member: Member) -> Member:
        """A row with the round trip of now; kept, as most readers come between two measures."""
        rtt_ms = self._rtt_ms(member.node_id)
        if rtt_ms != member.rtt_ms:
            member = self._members[member.node_id] = replace(member, rtt_ms=rtt_ms)
        return member

    def _newer(self, index: int) -> Iterable[NodeId]:
        # Insertion order is the order of change, so the newest are found from the end.
        found = []
        for node in reversed(self._changed_at):
            if self._changed_at[node] <= index:
                break
            found.append(node)
        return reversed(found)

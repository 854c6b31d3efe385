"""Where things are: names to nodes, and keys to the shards that own them.

The owner of a key is looked for among the members of the epoch's roster that are alive.
Both ends of a data link hold the same epoch, hence the same roster; what differs for the
seconds that a death needs to be known everywhere is only which of them still count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.logger import Logger

from meshsvc.model import NodeId, Roster, ShardAddress
from meshsvc.node.members import Members
from meshsvc.shards.placement import Candidate, Rendezvous


class NodeDirectory:
    """Resolves the targets of one shard."""

    log = Logger()

    def __init__(self, me: NodeId, shards: int, members: Members) -> None:
        self._me = me
        self._shards = shards
        self._members = members
        self._placement = Rendezvous()
        self._roster: Roster | None = None
        self._candidates: tuple[Candidate, ...] = ()
        self._callbacks: list[Callable[[], object]] = []
        self.version = 0
        members.on_change(lambda _: self._refresh())

    def node_named(self, name: str) -> tuple[NodeId, int] | None:
        """The id and number of shards of a member, by name or id."""
        member = self._members.get(name)
        return (member.node_id, member.shards) if member is not None else None

    def owner(self, key: str | bytes) -> ShardAddress | None:
        """The shard that owns a key now; None while the mesh has not formed."""
        return self._placement.owner(key, self._candidates)

    def everyone(self) -> Sequence[tuple[str, NodeId, int]]:
        """Name, id and number of shards of every node alive."""
        return [(m.name, m.node_id, m.shards) for m in self._members.alive]

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The nodes that own keys now, with their numbers of shards."""
        return self._candidates

    def set_roster(self, roster: Roster | None) -> None:
        """Another epoch is in force."""
        self._roster = roster
        self._refresh()

    def on_placement_change(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call ``callback`` each time keys may have moved; returns what ends that."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def _refresh(self) -> None:
        self.version += 1
        candidates = tuple(sorted(self._eligible()))
        if candidates == self._candidates:
            return
        self._candidates = candidates
        for callback in list(self._callbacks):
            try:
                callback()
            except Exception:
                self.log.failure("a callback on placement failed")

    def _eligible(self) -> Sequence[Candidate]:
        if self._roster is None or self._roster.index(self._me) is None:
            return []
        return [
            (node.node_id, node.shards)
            for node in self._roster.members
            if node.node_id == self._me or self._counts(node.node_id)
        ]

    def _counts(self, node: NodeId) -> bool:
        member = self._members.get(node)
        return member is not None and member.alive

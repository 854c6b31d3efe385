"""Which lives of nodes have ended, as far as this node knows from the membership."""

from __future__ import annotations

from meshsvc.gossip.members import Member, Status
from meshsvc.model import Incarnation, NodeId
from meshsvc.tables.rows import Owner

OVER = frozenset((Status.DEAD, Status.LEFT, Status.REMOVED))


class Lives:
    """The latest known life of each node, and whether it is over; this node's own never is."""

    def __init__(self, me: NodeId, incarnation: Incarnation) -> None:
        self._me = me
        self._departed: dict[NodeId, None] = {}
        self._names: dict[NodeId, str] = {}
        self._known: dict[NodeId, tuple[int, bool]] = {me: (incarnation, False)}

    def learn(self, member: Member) -> bool:
        """Take a row of the membership; True when rows may have lost their owner by it."""
        if member.node_id == self._me:
            return False
        self._names[member.node_id] = member.name
        self._departed.pop(member.node_id, None)
        if member.status in (Status.LEFT, Status.REMOVED):
            self._departed[member.node_id] = None
        before = self._known.get(member.node_id, (0, False))
        now = (member.generation, member.status in OVER)
        if now == before or now[0] < before[0]:
            return False
        self._known[member.node_id] = now
        return now[1] or now[0] > before[0]

    def name(self, node: NodeId) -> str:
        """What people call a node, also one that is on no roster any more."""
        return self._names.get(node, node[:8])

    def departed(self, node: NodeId) -> bool:
        """Whether a node said that it leaves, or an operator that it is removed."""
        return node in self._departed

    def gone(self, owner: Owner) -> bool:
        """Whether a life has ended: a later one began, or it is dead, left or removed."""
        known = self._known.get(owner.node)
        if known is None:
            return False
        return owner.incarnation < known[0] or (known[1] and owner.incarnation == known[0])

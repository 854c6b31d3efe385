"""What became of each address that was found: this node, a peer, or nobody who answers.

Pure judgement from what links and membership know at the time of asking, never kept. So a
dial that fails late, after the node came up another way, cannot call it unavailable, and
what is unavailable is by construction a part of what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from meshsvc.gossip.members import Member, Status
from meshsvc.link.targets import Dialed
from meshsvc.model import Address, NodeId, NodeInfo

SELF_DIAL = "self-dial"
"""The reason links give when this node answered its own dial."""

GONE = (Status.DEAD, Status.LEFT, Status.REMOVED)

Whereabouts = Callable[[Address], Dialed | None]
"""What the links know of an address that is kept in contact; None for one that is not."""


class Standing(Enum):
    """What an address is to this node."""

    HERE = "this node"
    AVAILABLE = "available"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "not known yet"


@dataclass(frozen=True, slots=True)
class Place:
    """One address; ``name`` is the node's when it is known, else the address as text."""

    address: Address
    standing: Standing
    name: str
    reason: str = ""


class Neighbourhood:
    """Judges addresses by one snapshot of the membership."""

    def __init__(self, me: NodeInfo, members: Sequence[Member], dialed: Whereabouts) -> None:
        self._me = me
        self._dialed = dialed
        self._by_id = {member.node_id: member for member in members}
        # Two ids at one address: the one that lives, else the later life.
        ranked = sorted(members, key=lambda m: (m.alive, m.generation, m.node_id))
        self._by_address = {member.address: member for member in ranked}

    def places(self, addresses: Iterable[Address]) -> tuple[Place, ...]:
        """The standing of each address, in the order given."""
        return tuple(map(self._place, addresses))

    def name(self, node: NodeId) -> str:
        """The name of a node, its id when nobody knows it."""
        member = self._by_id.get(node)
        return member.name if member is not None else str(node)

    def _place(self, address: Address) -> Place:
        dialed = self._dialed(address) or Dialed(None, "")
        mine = dialed.node == self._me.node_id or dialed.reason == SELF_DIAL
        if mine or address == self._me.address:
            return Place(address, Standing.HERE, self._me.name)
        member = self._by_id.get(dialed.node) if dialed.node is not None else None
        member = member or self._by_address.get(address)
        if member is not None and member.alive:
            return Place(address, Standing.AVAILABLE, member.name)
        if member is not None and member.status in GONE:
            return Place(address, Standing.UNAVAILABLE, member.name, f"it is {member.status.value}")
        name = member.name if member is not None else str(address)
        if dialed.reason:
            return Place(address, Standing.UNAVAILABLE, name, dialed.trouble)
        return Place(address, Standing.UNKNOWN, name)

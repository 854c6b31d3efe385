"""Which addresses this node keeps dialing, and whom it expects there.

Every known node that was not removed is dialed, dead or not, and so is every seed: for ever,
because that is what heals a partition and lets a cluster that lost every process find itself
again. Of two nodes that learn of each other at once the one with the smaller id dials first,
so that they seldom end up with two connections of which one must be closed.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshsvc.gossip.effects import Forget, Keep
from meshsvc.model import Address, NodeId, NodeInfo

YIELD_S = 0.3
"""How long the node with the greater id leaves it to the other: a dial takes milliseconds."""


class DialPlan:
    """Compares what should be dialed with what was asked for so far."""

    def __init__(self, me: NodeInfo, contacts: Iterable[Address], *, awaited: bool = False) -> None:
        """``contacts`` are seeds and the addresses of nodes remembered from an earlier life.

        ``awaited`` when more of them are being looked for: ``find`` will tell.
        """
        self._me = me
        self._awaited = awaited
        self._fixed = self._contacts = tuple(a for a in contacts if a != me.address)
        self._known: dict[NodeId, NodeInfo] = {}
        self._not_before: dict[NodeId, float] = {}
        self._kept: dict[Address, NodeId | None] = {}
        self._stale = True

    def find(self, addresses: Iterable[Address]) -> None:
        """These were found: they are contacts, besides those from the start, until others are."""
        self._awaited = False
        found = dict.fromkeys((*self._fixed, *addresses))
        found.pop(self._me.address, None)
        if self._contacts != tuple(found):
            self._contacts, self._stale = tuple(found), True

    def know(self, info: NodeInfo, now: float) -> None:
        """A node can be dialed at ``info.address``."""
        if self._known.get(info.node_id) == info:
            return
        self._stale = True
        if info.node_id not in self._known and info.node_id < self._me.node_id:
            self._not_before[info.node_id] = now + YIELD_S
        self._known[info.node_id] = info

    def drop(self, node: NodeId) -> None:
        """A node is dialed no more."""
        self._stale = True
        self._known.pop(node, None)
        self._not_before.pop(node, None)

    def update(self, now: float) -> list[Keep | Forget]:
        """The changes since the last call."""
        due = self.deadline()
        if not self._stale and (due is None or due > now):
            return []
        self._stale = False
        wanted = self._wanted(now)
        out: list[Keep | Forget] = [Forget(a) for a in self._kept if a not in wanted]
        for address, node in wanted.items():
            if address not in self._kept or self._kept[address] != node:
                out.append(Keep(address, node))
        self._kept = wanted
        return out

    def deadline(self) -> float | None:
        """When a node that was left to dial first is dialed after all."""
        return min(self._not_before.values(), default=None)

    @property
    def hopeless(self) -> bool:
        """Whether there is nobody to contact, and nobody is being looked for."""
        return not (self._contacts or self._awaited)

    @property
    def contacts(self) -> tuple[Address, ...]:
        """Where the cluster is looked for before anybody is known."""
        return self._contacts

    def _wanted(self, now: float) -> dict[Address, NodeId | None]:
        self._not_before = {n: at for n, at in self._not_before.items() if at > now}
        wanted: dict[Address, NodeId | None] = {}
        # Two ids at one address: the later life is the one that is there.
        for info in sorted(self._known.values(), key=lambda i: (i.incarnation, i.node_id)):
            if info.node_id not in self._not_before:
                wanted[info.address] = info.node_id
        # Whoever answers at a contact's address is welcome, also one that replaced it.
        wanted.update(dict.fromkeys(self._contacts))
        wanted.pop(self._me.address, None)
        return wanted

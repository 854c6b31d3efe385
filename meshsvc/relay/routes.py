"""Which neighbour leads to a node that this one has no control link to.

Pure: told of this node's links, of the members and of what each claims of its own links, it
answers next hops. They are deterministic: the shortest known way, of several the one over
nodes that lack the fewest links, then over the smallest ids. What members claim may be old;
a neighbour that knew no way on is not asked again for a moment (``refused``).

Members are those that count as alive here, and those that say themselves that they have no
link to this node: such a one was never echoed, and looks dead from here only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from meshsvc.gossip.members import Member, Status
from meshsvc.model import NodeId
from meshsvc.relay.claims import KEY, SILENT, Claim, joined, parse, spell

SETTLE_S = 4.0
"""A link that is missing for less is not worth telling: a killed process is dead to all
within 3 s, and a thousand nodes that tell of its links would be told by a million messages."""

CLAIM_S = 1.0
"""Between two claims of this node, so that links which come and go cost little."""

REFUSED_S = 3.0
"""How long a neighbour that knew no way is passed over: what it claims is out by then."""

MAX_REFUSED = 1024
"""Nodes for which refusals are remembered; a lost one costs a message that comes back."""

_COUNTED = (Status.ALIVE, Status.SUSPECT, Status.JOINING)


@dataclass(frozen=True, slots=True)
class Known:
    """A node as routing sees it; ``usable`` when it may be on a way, or at its end."""

    life: int
    status: Status
    claim: Claim
    usable: bool


@dataclass(slots=True)
class Routes:
    """The ways from one node."""

    me: NodeId
    linked: set[NodeId] = field(default_factory=set)
    nodes: dict[NodeId, Known] = field(default_factory=dict)
    _refused: dict[NodeId, dict[NodeId, float]] = field(default_factory=dict)
    _unlinked_since: dict[NodeId, float] = field(default_factory=dict)
    _ways: dict[NodeId, NodeId] | None = None
    _near: dict[NodeId, frozenset[NodeId]] = field(default_factory=dict)
    _claimed: str | None = None
    _claim_at: float = 0.0
    _looked_at: float = 0.0

    # --- facts ---------------------------------------------------------------------------

    def link_up(self, node: NodeId) -> None:
        """This node has a control link to another."""
        self.linked.add(node)
        self._unlinked_since.pop(node, None)
        self._forget_ways()

    def link_down(self, node: NodeId, now: float) -> None:
        """It has none any more."""
        self.linked.discard(node)
        self._changed(now)

    def members(self, members: Iterable[Member], now: float) -> None:
        """All that is known of nodes, this one included or not."""
        self.nodes = {m.node_id: self._known(m) for m in members if m.node_id != self.me}
        self._changed(now)

    def refused(self, via: NodeId, target: NodeId, now: float) -> None:
        """A neighbour knew no way to a node."""
        if len(self._refused) >= MAX_REFUSED:
            del self._refused[next(iter(self._refused))]
        self._refused.setdefault(target, {})[via] = now + REFUSED_S

    # --- answers -------------------------------------------------------------------------

    def life(self, node: NodeId) -> int:
        """The newest known incarnation of a node, 0 when it is not known."""
        known = self.nodes.get(node)
        return known.life if known is not None else 0

    def next_hop(self, target: NodeId, avoid: Collection[NodeId] = ()) -> NodeId | None:
        """The neighbour on the way to a node that has not been to ``avoid``, if there is one."""
        if target in self.linked:
            return target
        passed_over = {*avoid, *self._refused.get(target, ())}
        way = self._way(target, self._all_ways())
        if passed_over.intersection(way):
            way = self._way(target, self._search(passed_over))
        return way[-1] if way else None

    def reached(self) -> dict[NodeId, int]:
        """The nodes with no link to this one that a way leads to, with their incarnations."""
        found = (node for node in self.apart() if self.next_hop(node) is not None)
        return {node: self.nodes[node].life for node in found}

    def apart(self) -> list[NodeId]:
        """The nodes that may be reached, if at all, over others only."""
        return sorted(n for n, k in self.nodes.items() if k.usable and n not in self.linked)

    def neighbours(self, node: NodeId) -> frozenset[NodeId]:
        """The nodes that another has links to, as far as they all say."""
        near = self._near.get(node)
        if near is None:
            its = (node, self._claim_of(node))
            able = ((n, known.claim) for n, known in self.nodes.items() if known.usable)
            said = {one[0] for one in able if joined(one, its)}
            mine = {self.me} if node in self.linked else set()
            near = self._near[node] = frozenset((said | mine) - {node})
        return near

    def claim(self, now: float) -> tuple[str | None] | None:
        """What to gossip of this node's links, as a 1-tuple; None while that has not changed."""
        if now < self._claim_at:
            return None
        self._looked_at = now
        missing = self._unlinked_since.items()
        told = spell([n for n, since in missing if now - since >= SETTLE_S], self._by_use())
        if told == self._claimed:
            return None
        self._claimed, self._claim_at = told, now + CLAIM_S
        return (told,)

    def deadline(self) -> float | None:
        """When ``tick`` and ``claim`` are next wanted, if no fact comes before."""
        settled = (since + SETTLE_S for since in self._unlinked_since.values())
        due = [max(at, self._claim_at) for at in settled if at > self._looked_at]
        due += (until for vias in self._refused.values() for until in vias.values())
        return min(due, default=None)

    def tick(self, now: float) -> None:
        """Forget what is over."""
        for target, vias in list(self._refused.items()):
            left = {via: until for via, until in vias.items() if until > now}
            if left:
                self._refused[target] = left
            else:
                del self._refused[target]

    # --- steps ---------------------------------------------------------------------------

    def _known(self, member: Member) -> Known:
        claim = parse(member.values.get(KEY))
        gone = member.status in (Status.LEFT, Status.REMOVED)
        # It says that it has no link to us, so nobody here can have asked it whether it lives.
        apart = not gone and not claim.says(self.me)
        return Known(member.generation, member.status, claim, member.alive or apart)

    def _forget_ways(self) -> None:
        self._ways = None
        self._near = {}

    def _changed(self, now: float) -> None:
        self._forget_ways()
        since = self._unlinked_since
        self._unlinked_since = {node: since.get(node, now) for node in self._missing()}

    def _missing(self) -> list[NodeId]:
        """The nodes that this one should have a link to, and has not."""
        return [
            node
            for node, known in self.nodes.items()
            if node not in self.linked and (known.usable or known.status is Status.JOINING)
        ]

    def _by_use(self) -> list[NodeId]:
        return sorted(self.linked, key=self._use)

    def _use(self, node: NodeId) -> tuple[bool, int, NodeId]:
        """Sorts nodes: those that lack the fewest links first."""
        claim = self._claim_of(node)
        count = len(claim.listed)
        return claim.have, -count if claim.have else count, node

    def _all_ways(self) -> dict[NodeId, NodeId]:
        if self._ways is None:
            self._ways = self._search(())
        return self._ways

    def _search(self, avoid: Collection[NodeId]) -> dict[NodeId, NodeId]:
        """Breadth first from this node: each node that is found, with the one before it.

        The work is the number of nodes, and some looks at neighbours that say they lack a
        link; the first of a ring that is asked lacks the fewest, and mostly has it.
        """
        left = {n for n, known in self.nodes.items() if known.usable}
        left = (left | self.linked) - set(avoid) - {self.me}
        near = self.linked & left
        before = dict.fromkeys(near, self.me)
        while near:
            left -= near
            ring = sorted(near, key=self._use)
            near = set()
            for other in left:
                node = self._first_joined(ring, other)
                if node is not None:
                    before[other] = node
                    near.add(other)
        return before

    def _first_joined(self, ring: list[NodeId], other: NodeId) -> NodeId | None:
        its = (other, self._claim_of(other))
        return next((n for n in ring if joined((n, self._claim_of(n)), its)), None)

    def _claim_of(self, node: NodeId) -> Claim:
        known = self.nodes.get(node)
        return known.claim if known is not None else SILENT

    def _way(self, target: NodeId, before: Mapping[NodeId, NodeId]) -> list[NodeId]:
        """The nodes from the target back to the neighbour that the way to it begins with."""
        way: list[NodeId] = []
        while target in before and target != self.me:
            way.append(target)
            target = before[target]
        return way

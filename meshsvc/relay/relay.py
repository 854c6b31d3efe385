"""Relaying: a control envelope travels over neighbours that have links where we have none.

Rules it keeps:

* There is one copy of a message, and it carries the nodes it has been to; so it cannot loop
  or multiply, and nobody has to remember its id. A node that knows no way on gives it back
  to the one before, which tries another, as in a search through a maze: whatever members
  claim of their links, a message finds its way where there is one, or comes home.
* It visits ``MAX_VISITED`` nodes at most.
* One that comes home ends its asks at once (``bounce``). When a link breaks over which
  messages went on, those before it on the way are told (``RelayLost``), back to the source,
  whose asks end as they do when a link of its own breaks.
* A message for another life of its target than the one in force is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from meshsvc.counters import Counters
from meshsvc.errors import RemoteError, WireError
from meshsvc.messaging.post import LinkLike
from meshsvc.model import LinkClass, NodeId, Sent
from meshsvc.relay.routes import Routes
from meshsvc.wire.messages import Envelope, Relayed, RelayLost
from meshsvc.wire.registry import Role, decode_message

MAX_VISITED = 64
"""Nodes one message may go through; with 34 bytes each, the head stays small."""

MAX_TRAILS = 4096
"""(target, neighbour) pairs for which it is remembered who sent messages that way. One that
is forgotten costs its senders the notice: their asks end at their deadlines."""

_CONTROL = LinkClass.CONTROL


class Links(Protocol):
    """What relaying needs of the links of shard 0."""

    def link(self, node_id: NodeId, link_class: LinkClass) -> LinkLike | None:
        """The live link to a node."""


class Ends(Protocol):
    """What becomes of messages and ways on this node."""

    def arrived(self, envelope: Envelope, source_life: int) -> None:
        """A relayed envelope is for this node."""

    def came_home(self, envelope: Envelope, why: str) -> None:
        """An envelope of this node found no way."""

    def lost(self, target: NodeId) -> None:
        """What this node sent to another over others may be lost."""

    def shard_lost(self, target: NodeId, shard: int, incarnation: int) -> None:
        """A life of a shard of a node that is reached over others ended."""


class Relay:
    """Sends, passes on and takes relayed envelopes; pure but for the links it is given."""

    def __init__(
        self,
        me: NodeId,
        life: int,
        routes: Routes,
        links: Links,
        ends: Ends,
        counters: Counters,
        seconds: Callable[[], float],
    ) -> None:
        self._me = me
        self._life = life
        self._routes = routes
        self._links = links
        self._ends = ends
        self._counters = counters
        self._seconds = seconds
        self._trails: dict[tuple[NodeId, NodeId], set[NodeId]] = {}
        self._ended: dict[tuple[NodeId, int, int], int] = {}

    # --- out -----------------------------------------------------------------------------

    def send(self, target: NodeId, envelope: bytes) -> Sent:
        """Send an encoded envelope of this node to one it has no link to."""
        hop = self._routes.next_hop(target)
        if hop is None:
            return Sent.DISCONNECTED
        life = self._routes.life(target)
        sent = self._hand(hop, Relayed((self._me,), (), self._life, target, life, envelope))
        if sent is Sent.ACCEPTED:
            self._remember(target, hop, self._me)
            self._count("sent")
        return sent

    def _hand(self, hop: NodeId, message: object) -> Sent:
        link = self._links.link(hop, _CONTROL)
        return Sent.DISCONNECTED if link is None else link.send(message)

    # --- in ------------------------------------------------------------------------------

    def received(self, peer: NodeId, message: Relayed) -> None:
        """A neighbour handed a message on, or back."""
        path, tried = _ids(message.path), _ids(message.tried)
        target = NodeId(message.target)
        if not path or len(path) + len(tried) > MAX_VISITED:
            self._count("malformed")
        elif path[-1] == self._me and peer in tried:
            self._routes.refused(peer, target, self._seconds())
            self._go_on(message, path[:-1], tried)
        elif path[-1] != peer or self._me in path or self._me in tried:
            self._count("loop")
        elif target == self._me:
            self._take(message)
        else:
            self._go_on(message, path, tried)

    def _take(self, message: Relayed) -> None:
        source = NodeId(str(message.path[0]))
        ours = message.target_life in (0, self._life)
        if not ours or message.source_life < self._routes.life(source):
            self._count("stale")
        elif (envelope := self._open(message)) is not None:
            self._count("arrived")
            self._ends.arrived(envelope, message.source_life)

    def _open(self, message: Relayed) -> Envelope | None:
        """The envelope inside, if it is what it is said to be."""
        try:
            envelope = decode_message(message.body, Role.PEER)
        except (RemoteError, WireError):
            envelope = None
        if (
            type(envelope) is Envelope
            and envelope.source == message.path[0]
            and envelope.target == message.target
            and envelope.link_class == _CONTROL
        ):
            return envelope
        self._count("malformed")
        return None

    def _go_on(self, message: Relayed, path: list[NodeId], tried: list[NodeId]) -> None:
        """Hand a message to the next node that may know a way, or back to the one before."""
        target = NodeId(message.target)
        visited = [*path, *tried, self._me]
        while len(visited) <= MAX_VISITED:
            hop = self._routes.next_hop(target, visited)
            if hop is None or hop in visited:
                break
            if self._hand(hop, _moved(message, [*path, self._me], tried)) is Sent.ACCEPTED:
                self._remember(target, hop, path[-1] if path else self._me)
                self._count("passed")
                return
            visited.append(hop)
        if path:
            self._give_back(message, path, [*tried, self._me])
        elif (envelope := self._open(_moved(message, [self._me], []))) is not None:
            self._count("home")
            self._ends.came_home(envelope, "no other node knows a way to it")

    def _give_back(self, message: Relayed, path: list[NodeId], tried: list[NodeId]) -> None:
        returned = self._hand(path[-1], _moved(message, path, tried))
        self._count("returned" if returned is Sent.ACCEPTED else "lost")

    # --- ways that break -----------------------------------------------------------------

    def link_down(self, node: NodeId) -> None:
        """The link to a neighbour ended: what went over it may be lost."""
        for target, hop in [key for key in self._trails if key[1] == node]:
            self._lost(target, hop)

    def shard_gone(self, node: NodeId, shard: int, incarnation: int) -> None:
        """A neighbour said that a shard of it ended: those who asked it over us are told."""
        self._shard_gone(RelayLost(node, False, shard, incarnation))

    def received_lost(self, peer: NodeId, message: RelayLost) -> None:
        """A neighbour lost what went over it."""
        target = NodeId(message.node_id)
        if message.whole:
            self._lost(target, peer)
        else:
            self._shard_gone(message)

    def _lost(self, target: NodeId, hop: NodeId) -> None:
        # The trail goes with the notice, so that one which comes back finds none.
        befores = self._trails.pop((target, hop), set())
        self._pass_on(target, befores, RelayLost(target, True, 0, 0))

    def _shard_gone(self, message: RelayLost) -> None:
        """Tell all who sent to a node, whichever way, that a shard of it ended; each once.

        Ways change, and trails stay: without a memory a notice could follow them in a ring.
        """
        target = NodeId(message.node_id)
        shard = (target, self._routes.life(target), message.shard)
        if self._ended.get(shard, 0) >= message.incarnation:
            return
        self._ended.pop(shard, None)
        self._ended[shard] = message.incarnation
        if len(self._ended) > MAX_TRAILS:
            del self._ended[next(iter(self._ended))]
        befores: set[NodeId] = set()
        for (node, _), senders in self._trails.items():
            if node == target:
                befores |= senders
        self._pass_on(target, befores, message)

    def _pass_on(self, target: NodeId, befores: set[NodeId], message: RelayLost) -> None:
        for before in sorted(befores):
            if before != self._me:
                self._hand(before, message)
            elif message.whole:
                self._ends.lost(target)
            else:
                self._ends.shard_lost(target, message.shard, message.incarnation)

    def _remember(self, target: NodeId, hop: NodeId, before: NodeId) -> None:
        trail = self._trails.pop((target, hop), None) or set()
        trail.add(before)
        self._trails[target, hop] = trail
        if len(self._trails) > MAX_TRAILS:
            del self._trails[next(iter(self._trails))]

    def _count(self, what: str) -> None:
        self._counters.add("relay_messages_total", what=what)


def _ids(nodes: Any) -> list[NodeId]:
    return [NodeId(str(node)) for node in nodes]


def _moved(message: Relayed, path: list[NodeId], tried: list[NodeId]) -> Relayed:
    return Relayed(
        *(tuple(path), tuple(tried), message.source_life),
        *(message.target, message.target_life, message.body),
    )

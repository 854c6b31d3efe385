"""Drives ``Routes`` and ``Relay`` on shard 0: links, members and claims in, ways out.

A thin layer. It tells this shard's post, and those of its siblings, which nodes are reached
over others; the post then treats such a node like one with a link (``Post.set_detours``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from meshsvc.counters import Counters
from meshsvc.gossip.members import Member
from meshsvc.messaging.post import Detour
from meshsvc.model import Incarnation, LinkClass, NodeId, NodeInfo, Sent, ShardId
from meshsvc.relay.claims import KEY
from meshsvc.relay.protocol import Broadcasts
from meshsvc.relay.relay import Links, Relay
from meshsvc.relay.routes import Routes
from meshsvc.wire.messages import Detours, Envelope, Relayed, RelayLost, RemoteShardGone, ShardGone

SOON_S = 0.02
"""Changes of the view within this time are looked at together: a round brings many. It grows
by as much with every hundred nodes, as a look does: a thousand nodes take milliseconds."""

Token = tuple[int, int]
"""(incarnation of the node, how often a way to it broke)."""


class Gossip(Protocol):
    """What is needed of the membership."""

    def members(self) -> tuple[Member, ...]:
        """Every known node."""

    def set_values(self, values: Mapping[str, Any]) -> None:
        """Gossip values of this node."""

    def observe_view(self, observer: Callable[[int], object]) -> None:
        """Call after each change of the view."""


class AllLinks(Links, Protocol):
    """The link service."""

    def links(self) -> tuple[Any, ...]:
        """Every live link."""

    def add_observer(self, observer: Any) -> None:
        """Report links that come and go, and their messages."""


class Post(Protocol):
    """What the ways are told to."""

    detour: Detour | None

    def set_detours(self, detours: Mapping[NodeId, object]) -> None:
        """The nodes reached over others."""


class Traffic(Protocol):
    """Where relayed messages go."""

    def arrived(self, envelope: Envelope) -> None:
        """An envelope is for a shard of this node."""

    def control_arrived(self, envelope: Envelope, source_life: int) -> None:
        """A control envelope came from another node."""

    def came_home(self, envelope: Envelope, why: str) -> None:
        """A control envelope of this node found no way."""

    def remote_shard_gone(self, gone: RemoteShardGone) -> None:
        """A shard of another node ended."""


class Bus(Protocol):
    """The way to the siblings."""

    def send(self, shard: int, message: object) -> Sent:
        """Send to one."""

    def siblings(self) -> Iterable[tuple[ShardId, Incarnation]]:
        """Those that are up."""

    def add_observer(self, observer: Any) -> None:
        """Report siblings that come and go."""


class RelayService(Service):
    """The ways of this node over others, kept up to date (contract VERB-6)."""

    name = "relay"
    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        me: NodeInfo,
        links: AllLinks,
        gossip: Gossip,
        inside: tuple[Post, Traffic, Bus, Incarnation],
        counters: Counters,
    ) -> None:
        """``inside`` are the post, the traffic, the bus and the incarnation of shard 0."""
        self.routes = Routes(me.node_id)
        self._reactor = reactor
        self._links = links
        self._gossip = gossip
        self._post, self._traffic, self._bus, incarnation = inside
        self._counters = counters
        self.relay = Relay(
            *(me.node_id, int(me.incarnation), self.routes, links, self, counters),
            reactor.seconds,
        )
        self.broadcasts = Broadcasts(
            *(reactor, me, incarnation, links, self.routes),
            *((self._traffic.arrived, self._bus.siblings), counters),
        )
        self._tokens: dict[NodeId, Token] = {}
        self._turns: dict[NodeId, int] = {}
        self._owed: set[ShardId] = set()
        self._timer: IDelayedCall | None = None
        self._leaving = False
        links.add_observer(_LinkEar(self))
        gossip.observe_view(lambda _: self._look(SOON_S * (1 + len(self.routes.nodes) / 100)))
        self._bus.add_observer(_BusEar(self))

    # --- life ----------------------------------------------------------------------------

    def startService(self) -> None:
        """Take up the links and members that are there."""
        super().startService()  # type: ignore[no-untyped-call]
        self._post.detour = self.relay
        for link in self._links.links():
            self.link_changed(link)
        self._update()

    def leave(self) -> None:
        """This node says goodbye: it claims nothing any more."""
        self._leaving = True

    def stopService(self) -> None:
        """Use no detours any more."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self.broadcasts.stop()
        self._post.detour = None
        self._post.set_detours({})

    def every_second(self) -> None:
        """Tell siblings what they could not be told before, their outboxes being full."""
        for shard in sorted(self._owed):
            self.tell_sibling(shard)

    # --- facts ---------------------------------------------------------------------------

    def link_changed(self, link: Any) -> None:
        """A link came up or ended."""
        if link.link_class is not LinkClass.CONTROL:
            return
        node = link.peer.node_id
        if self._links.link(node, LinkClass.CONTROL) is not None:
            self.routes.link_up(node)
        else:
            self.routes.link_down(node, self._reactor.seconds())

    def link_lost(self, link: Any) -> None:
        """A link ended, and what was to go on over it may be lost."""
        self.link_changed(link)
        if link.link_class is LinkClass.CONTROL:
            self.relay.link_down(link.peer.node_id)
            self._update()

    def link_found(self, link: Any) -> None:
        """A link came up."""
        self.link_changed(link)
        self._update()
        if link.link_class is LinkClass.CONTROL:
            self.broadcasts.link_up(link.peer.node_id)

    def received(self, link: Any, message: object) -> None:
        """A message of a link; those of other parts of the node are passed over."""
        peer = link.peer.node_id
        if type(message) is Relayed:
            self.relay.received(peer, message)
        elif type(message) is RelayLost:
            self.relay.received_lost(peer, message)
        elif type(message) is ShardGone:
            self.relay.shard_gone(peer, message.shard, message.incarnation)
        elif link.link_class is LinkClass.CONTROL:
            self.broadcasts.received(peer, message)

    # --- what the relay reports ----------------------------------------------------------

    def arrived(self, envelope: Envelope, source_life: int) -> None:
        """A relayed envelope is for this node."""
        self._traffic.control_arrived(envelope, source_life)

    def came_home(self, envelope: Envelope, why: str) -> None:
        """An envelope of this node found no way: close what was believed to be one."""
        self._update()
        self._traffic.came_home(envelope, why)

    def lost(self, target: NodeId) -> None:
        """What went to a node over others may be lost."""
        self._turns[target] = self._turns.get(target, 0) + 1
        self._update()

    def shard_lost(self, target: NodeId, shard: int, incarnation: int) -> None:
        """A shard of a node that is reached over others ended."""
        self._traffic.remote_shard_gone(RemoteShardGone(target, shard, incarnation))

    # --- ways out ------------------------------------------------------------------------

    def tell_sibling(self, shard: ShardId) -> None:
        """Tell a sibling all detours."""
        rows = tuple([node, *token] for node, token in self._tokens.items())
        if self._bus.send(shard, Detours(rows)) is Sent.ACCEPTED:
            self._owed.discard(shard)
        else:
            self._owed.add(shard)

    def forget_sibling(self, shard: ShardId) -> None:
        """A sibling is gone."""
        self._owed.discard(shard)

    def _update(self) -> None:
        """Work out what follows from the facts, and pass it on where it changed."""
        if not self.running:
            return
        now = self._reactor.seconds()
        self.routes.tick(now)
        reached = self.routes.reached()
        tokens = {node: (life, self._turns.get(node, 0)) for node, life in reached.items()}
        if tokens != self._tokens:
            self._tokens = tokens
            self._turns = {n: turn for n, turn in self._turns.items() if n in tokens}
            self._post.set_detours(tokens)
            for shard, _ in self._bus.siblings():
                self.tell_sibling(shard)
        self._counters.gauge("relay_detours", len(tokens))
        claimed = self.routes.claim(now)
        if claimed is not None and not self._leaving:
            self._gossip.set_values({KEY: claimed[0]})
        due = self.routes.deadline()
        if due is not None:
            self._look(max(0.0, due - now))

    def _look(self, delay_s: float) -> None:
        """Look again within this time."""
        if not self.running:
            return
        if self._timer is None or not self._timer.active():
            self._timer = self._reactor.callLater(delay_s, self._looked)
        elif self._timer.getTime() > self._reactor.seconds() + delay_s:
            self._timer.reset(delay_s)

    def _looked(self) -> None:
        self._timer = None
        self.routes.members(self._gossip.members(), self._reactor.seconds())
        self._update()


class _LinkEar:
    """What the link service tells."""

    def __init__(self, service: RelayService) -> None:
        self.link_up = service.link_found
        self.received = service.received
        self._lost = service.link_lost

    def link_down(self, link: Any, reason: str, text: str) -> None:
        self._lost(link)

    def link_epoch(self, link: Any) -> None:
        pass

    def dropped(self, link: Any, envelope: Any, reason: str) -> None:
        pass

    def refused(self, peer: str, reason: str, text: str) -> None:
        pass

    def epoch_seen(self, epoch: Any) -> None:
        pass


class _BusEar:
    """What the bus tells."""

    def __init__(self, service: RelayService) -> None:
        self._tell, self._forget = service.tell_sibling, service.forget_sibling
        self._give = service.broadcasts.sibling_up

    def shard_up(self, shard: ShardId, incarnation: Incarnation) -> None:
        self._tell(shard)
        self._give(shard)

    def shard_down(self, shard: ShardId, incarnation: Incarnation) -> None:
        self._forget(shard)

    def received(self, shard: ShardId, incarnation: Incarnation, message: object) -> None:
        pass

"""Envelopes between links, bus and messaging; and which ways are open for them.

One object per shard listens to both the links this shard owns and the bus, so that there is
one place where an envelope is either delivered here or passed one hop on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from meshsvc.counters import Counters
from meshsvc.link.service import LinkService
from meshsvc.link.table import Link
from meshsvc.mesh.formation import ended
from meshsvc.messaging.post import Post
from meshsvc.messaging.service import Messaging
from meshsvc.model import Epoch, Incarnation, LinkClass, NodeId, ShardAddress, ShardId
from meshsvc.relay.order import Order
from meshsvc.shards.service import BusService
from meshsvc.wire.messages import Detours, Envelope, LinkState, RemoteShardGone, ShardGone

BusHearer = Callable[[ShardId, Any], None]


class Traffic:
    """Hands what arrives to messaging, and tells it which ways are open."""

    log = Logger()

    def __init__(
        self,
        links: LinkService,
        bus: BusService,
        post: Post,
        messaging: Messaging,
        counters: Counters,
        clock: IReactorTime,
    ) -> None:
        self._links = links
        self._bus = bus
        self._post = post
        self._messaging = messaging
        self._counters = counters
        self._order = Order()
        self.last_refusal: tuple[float, str] | None = None
        self._clock = clock
        self._hearers: dict[type, BusHearer] = {
            Envelope: lambda _, envelope: self.arrived(envelope),
            LinkState: self._link_state,
            RemoteShardGone: lambda _, gone: self._remote_gone(gone),
            Detours: self._detours,
        }
        self._loss_hearers: list[Callable[[Link], object]] = []
        links.add_observer(self)
        bus.add_observer(self)

    def hear(self, kind: type, hearer: BusHearer) -> None:
        """Call ``hearer(shard, message)`` with the messages of a class from siblings."""
        self._hearers[kind] = hearer

    def hear_losses(self, hearer: Callable[[Link], object]) -> None:
        """Call ``hearer(link)`` when a link of this shard has ended."""
        self._loss_hearers.append(hearer)

    # --- links ---------------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        """A link of this shard carries traffic."""
        self._post.link_open(link.peer.node_id, link.link_class)

    def link_down(self, link: Link, reason: str, text: str) -> None:
        """A link of this shard ended."""
        why = f"the {link.link_class.name.lower()} link to {link.peer.name} ended: {text or reason}"
        self._post.link_closed(link.peer.node_id, link.link_class, why)
        for hearer in self._loss_hearers:
            hearer(link)
        for shard in range(link.peer.shards):
            self._messaging.source_gone(ShardAddress(link.peer.node_id, ShardId(shard)))

    def link_epoch(self, link: Link) -> None:
        """Frames wait while the ends agree; nothing to open or close."""

    def epoch_seen(self, epoch: Epoch) -> None:
        """The mesh's affair."""

    def refused(self, peer: str, reason: str, text: str) -> None:
        """Counted and logged where it happened; kept for who asks why this node waits."""
        self.last_refusal = (self._clock.seconds(), f"{peer}: {text} ({reason})")

    def dropped(self, link: Link, envelope: Envelope, reason: str) -> None:
        """A link got, and counted, an envelope of another epoch than the agreed one."""
        self._messaging.undelivered(envelope, "its epoch is not the one in force")

    def received(self, source: Any, *message: Any) -> None:
        """From a link: (link, message); from the bus: (shard, incarnation, message)."""
        if len(message) == 1:
            self._from_link(source, message[0])
        else:
            hearer = self._hearers.get(type(message[1]))
            if hearer is not None:
                hearer(source, message[1])

    def _from_link(self, link: Link, message: object) -> None:
        if type(message) is Envelope:
            me = self._post.me
            if message.source != link.peer.node_id or message.target != me.node:
                self._counters.drop("verb", "misrouted")
                return
            if message.link_class != link.link_class:
                self._counters.drop("verb", "misrouted")
            elif message.link_class == LinkClass.CONTROL:
                self.control_arrived(message, link.peer.incarnation)
            else:
                self.arrived(message)
        elif isinstance(message, ShardGone):
            node = NodeId(link.peer.node_id)
            self.remote_shard_gone(RemoteShardGone(node, message.shard, message.incarnation))

    def control_arrived(self, envelope: Envelope, source_life: int) -> None:
        """A control envelope came from another node, directly or over others."""
        if self._order.admits(envelope, source_life):
            self.arrived(envelope)
        else:
            self._counters.drop("verb", "overtaken")
            self._messaging.undelivered(envelope, "what was sent later came before it")

    def came_home(self, envelope: Envelope, why: str) -> None:
        """A control envelope of this node found no way over others."""
        self._messaging.bounce(envelope, "disconnected", why)

    def remote_shard_gone(self, gone: RemoteShardGone) -> None:
        """A shard of another node ended: every shard of this one is told."""
        self._remote_gone(gone)
        self._bus.broadcast(gone)

    def arrived(self, envelope: Envelope) -> None:
        """An envelope is for this shard, or to be passed one hop on."""
        me = self._post.me
        if envelope.target == me.node and envelope.target_shard == me.shard:
            self._messaging.deliver(envelope)
        else:
            self._messaging.relay(envelope)

    # --- bus -----------------------------------------------------------------------------

    def shard_up(self, shard: ShardId, incarnation: Incarnation) -> None:
        """A sibling can be sent to."""
        self._post.sibling_up(shard)

    def shard_down(self, shard: ShardId, incarnation: Incarnation) -> None:
        """A sibling ended: its callers here and on other nodes are told."""
        self._post.sibling_down(shard)
        self._messaging.source_gone(ShardAddress(self._post.me.node, shard))
        gone = ShardGone(shard, incarnation)
        for link in self._links.links():
            link.send(gone)

    def _link_state(self, shard: ShardId, state: LinkState) -> None:
        node, link_class = NodeId(state.node_id), LinkClass(state.link_class)
        if state.up:
            self._post.link_open(node, link_class)
        elif ended(state):
            self._post.link_closed(node, link_class, "the link to the node ended")

    def _detours(self, shard: ShardId, message: Detours) -> None:
        if shard == 0:
            rows: tuple[Any, ...] = message.rows
            self._post.set_detours({NodeId(node): token for node, *token in rows})

    def _remote_gone(self, gone: RemoteShardGone) -> None:
        target = ShardAddress(NodeId(gone.node_id), ShardId(gone.shard))
        self._post.shard_gone(target, gone.incarnation)
        self._messaging.source_gone(target)

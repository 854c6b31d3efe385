"""The post office of a shard: lanes out, and which way each goes.

A lane goes to this shard itself, over the bus to a sibling, over a link this shard owns, or
over the bus to the sibling that owns the link. A control lane to a node without a link takes
a detour over other nodes, if one was told of. Which ways are open is told from outside;
``flush`` empties the lanes that were written to since the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from meshsvc.counters import Counter, Counters
from meshsvc.messaging.items import envelope_head, seal
from meshsvc.messaging.lanes import Lane
from meshsvc.model import (
    NO_EPOCH,
    Epoch,
    Incarnation,
    LinkClass,
    NodeId,
    Sent,
    ShardAddress,
    ShardId,
)
from meshsvc.shards.routing import Local, Router, ViaBus
from meshsvc.wire.messages import Envelope
from meshsvc.wire.registry import code_of, encode_message

MAX_REPLY_LANES = 65536
"""Lanes back to shards that asked; one a life of a remote shard, forgotten when it ends."""

BODIES_A_TURN = 4
"""Envelopes (half a mebibyte each at most) that one lane sends in one turn: a bulk transfer
takes many turns, and what is urgent gets in between."""

MAIN_LANE, REPLY_LANE = 0, 1

ENVELOPE = code_of(Envelope)


class Bus(Protocol):
    """What the post needs of the bus."""

    def offer_body(self, shard: ShardId, body: bytes, lane: int) -> Sent:
        """Send an encoded message to a sibling; one that finds no room is kept here."""


class LinkLike(Protocol):
    """What the post needs of a link."""

    @property
    def agreed(self) -> bool:
        """Whether both ends are at one epoch; while they are not, frames wait."""

    def send(self, message: object) -> Sent:
        """Send a message to the peer."""

    def send_body(self, body: bytes) -> Sent:
        """Send an encoded envelope to the peer."""

    def flush_now(self) -> None:
        """Write what was sent in this turn."""


class Links(Protocol):
    """What the post needs of the links this shard owns."""

    def link(self, node_id: NodeId, link_class: LinkClass) -> LinkLike | None:
        """The live link to a node."""


class Detour(Protocol):
    """How control envelopes reach nodes without a link; present where the links are."""

    def send(self, target: NodeId, envelope: bytes) -> Sent:
        """Send an encoded envelope to a node, over another one."""


@dataclass(frozen=True, slots=True)
class Self:
    """Who this shard is."""

    node: NodeId
    shard: ShardId
    incarnation: Incarnation


class Post:
    """Lanes by target and class, and the ways they take."""

    def __init__(
        self, me: Self, router: Router, bus: Bus, links: Links, counters: Counters
    ) -> None:
        self.me = me
        self.epoch: Epoch = NO_EPOCH
        self.deliver: Callable[[Envelope], None]
        self.on_closed: Callable[[list[Lane], str], None]
        self.detour: Detour | None = None
        self._router = router
        self._bus = bus
        self._links = links
        self._counters = counters
        self._lanes: dict[tuple[ShardAddress, int, int], Lane] = {}
        self._dirty: list[Lane] = []
        self._siblings: set[ShardId] = {me.shard}
        self._reachable: set[tuple[NodeId, LinkClass]] = set()
        self._detours: Mapping[NodeId, object] = {}
        self._seq = 0
        self._used: dict[int, LinkLike] = {}
        self._losses: dict[tuple[NodeId, int], Counter] = {}

    # --- lanes ---------------------------------------------------------------------------

    def lane(self, target: ShardAddress, link_class: LinkClass, incarnation: int = 0) -> Lane:
        """The lane to a shard; made when it is first asked for."""
        key = (target, link_class, incarnation)
        lane = self._lanes.get(key)
        if lane is None:
            route = self._router.route(target.node, target.shard, link_class)
            lane = self._lanes[key] = Lane(target, link_class, route, incarnation)
            lane.open = self._is_open(lane)
            if incarnation and len(self._lanes) > MAX_REPLY_LANES:
                self._forget_idle_replies()
        return lane

    def written(self, lane: Lane) -> bool:
        """Note that a lane holds something; True when nothing else did yet."""
        lane.dirty = True
        self._dirty.append(lane)
        return len(self._dirty) == 1

    def _forget_idle_replies(self) -> None:
        idle = [key for key, lane in self._lanes.items() if key[2] and not lane.items]
        for key in idle:
            del self._lanes[key]

    def _is_open(self, lane: Lane) -> bool:
        if lane.target.node == self.me.node:
            return lane.target.shard in self._siblings
        return self.reachable(lane.target.node, lane.link_class)

    # --- ways ----------------------------------------------------------------------------

    def sibling_up(self, shard: ShardId) -> None:
        """The bus reached a sibling."""
        self._siblings.add(shard)
        self._reopen()

    def sibling_down(self, shard: ShardId) -> None:
        """A sibling's process, and every link it owned, is gone."""
        self._siblings.discard(shard)
        if shard == 0:
            self.set_detours({})
        lost = {way for way in self._reachable if self._goes_via(way, shard)}
        self._reachable -= lost
        for way in lost:
            self._count_loss(*way)
        self._close(
            [
                lane
                for lane in self._lanes.values()
                if lane.target == (self.me.node, shard)
                or (lane.target.node, lane.link_class) in lost
            ],
            f"shard {shard} of this node ended",
        )

    def _goes_via(self, way: tuple[NodeId, LinkClass], shard: ShardId) -> bool:
        route = self._router.route(way[0], ShardId(0), way[1])
        return isinstance(route, ViaBus) and route.shard == shard

    def link_open(self, node: NodeId, link_class: LinkClass) -> None:
        """The link to a node carries traffic."""
        self._reachable.add((node, link_class))
        self._reopen()

    def link_closed(self, node: NodeId, link_class: LinkClass, why: str) -> None:
        """The link to a node does not carry traffic any more."""
        self._reachable.discard((node, link_class))
        self._count_loss(node, link_class)
        self._close(self._lanes_to({node}, link_class), why)
        self._reopen()

    def set_detours(self, detours: Mapping[NodeId, object]) -> None:
        """The nodes that control messages reach over others, each with a token of its way.

        A token that changed means another way, or another life of the node: what was under
        way is lost.
        """
        before, self._detours = self._detours, detours
        lost = {
            node
            for node, token in before.items()
            if (node, LinkClass.CONTROL) not in self._reachable and detours.get(node) != token
        }
        for node in lost:
            self._count_loss(node, LinkClass.CONTROL)
        self._close(self._lanes_to(lost, LinkClass.CONTROL), "the way over other nodes is gone")
        self._reopen()

    def _lanes_to(self, nodes: set[NodeId], link_class: LinkClass) -> list[Lane]:
        return [
            lane
            for lane in self._lanes.values()
            if lane.link_class == link_class and lane.target.node in nodes
        ]

    def losses(self, node: NodeId, link_class: LinkClass) -> Counter:
        """How often the way to a node was lost: what came before that is not to be answered."""
        losses = self._losses.get((node, link_class))
        if losses is None:
            losses = self._losses[(node, link_class)] = Counter()
        return losses

    def _count_loss(self, node: NodeId, link_class: LinkClass) -> None:
        self.losses(node, link_class).value += 1

    def shard_gone(self, target: ShardAddress, incarnation: int) -> None:
        """A remote shard's process ended; its next life may be addressed at once."""
        lanes = [
            lane
            for lane in self._lanes.values()
            if lane.target == target and lane.incarnation in (0, incarnation)
        ]
        self._close(lanes, f"shard {target} ended")
        self._reopen()

    def reachable(self, node: NodeId, link_class: LinkClass) -> bool:
        """Whether frames to a node have a way now."""
        if node == self.me.node or (node, link_class) in self._reachable:
            return True
        return link_class == LinkClass.CONTROL and node in self._detours

    def _reopen(self) -> None:
        for lane in self._lanes.values():
            lane.open = self._is_open(lane)

    def _close(self, lanes: list[Lane], why: str) -> None:
        for lane in lanes:
            lane.open = False
            lost = lane.drain()
            if lost:
                self._counters.drop("verb", "disconnected", len(lost))
            if lane.incarnation:
                self._lanes.pop((lane.target, lane.link_class, lane.incarnation), None)
        if lanes:
            self.on_closed(lanes, why)

    # --- out -----------------------------------------------------------------------------

    def flush(self) -> bool:
        """Send what the lanes hold; True when something had to stay because of a full outbox."""
        dirty, self._dirty = self._dirty, []
        stuck: list[Lane] = []
        for lane in dirty:
            lane.dirty = False
            if not self._empty(lane):
                stuck.append(lane)
        for lane in stuck:
            if not lane.dirty:
                lane.dirty = True
                self._dirty.append(lane)
        used, self._used = self._used, {}
        for link in used.values():
            link.flush_now()
        return bool(stuck)

    def send_now(self, lane: Lane) -> bool:
        """Send what one lane holds and write it; False when some of it had to stay."""
        before, self._used = self._used, {}
        emptied = self._empty(lane)
        used, self._used = self._used, before
        for link in used.values():
            link.flush_now()
        return emptied

    def _empty(self, lane: Lane) -> bool:
        for _ in range(BODIES_A_TURN):
            if not lane.items or not lane.open:
                return True
            body, count = lane.next_body()
            self._seq += 1
            sent = self._by_way(lane, body)
            if sent is Sent.FULL:
                return False
            lane.sent(count)
            if sent is Sent.DISCONNECTED:
                self._counters.drop("verb", "disconnected", count)
                self.on_closed([lane], f"there is no way to shard {lane.target}")
        return not lane.items

    def _by_way(self, lane: Lane, body: bytes) -> Sent:
        target = lane.target
        route = lane.route
        if type(route) is Local:
            self.deliver(Envelope(*self._fields(lane), self._seq, body))
            return Sent.ACCEPTED
        message = seal(self._head(lane), self._seq, body)
        if type(route) is ViaBus:
            lane_of_bus = REPLY_LANE if lane.incarnation else MAIN_LANE
            return self._bus.offer_body(route.shard, message, lane_of_bus)
        link = self._links.link(target.node, lane.link_class)
        if link is None:
            return self._around(target.node, lane.link_class, message)
        if not link.agreed:
            return Sent.FULL
        self._used[id(link)] = link
        return link.send_body(message)

    def _around(self, node: NodeId, link_class: LinkClass, message: bytes) -> Sent:
        if self.detour is None or link_class is not LinkClass.CONTROL:
            return Sent.DISCONNECTED
        return self.detour.send(node, message)

    def _head(self, lane: Lane) -> bytes:
        """How the envelopes of a lane begin: what they have in common is encoded once."""
        if lane.epoch is not self.epoch:
            lane.head, lane.epoch = envelope_head(ENVELOPE, self._fields(lane)), self.epoch
        return lane.head

    def _fields(self, lane: Lane) -> tuple[str, int, int, str, int, int, int, int, int]:
        """What an ``Envelope`` holds but for its number and body."""
        me, target, epoch = self.me, lane.target, NO_EPOCH
        if lane.link_class is LinkClass.DATA:
            epoch = self.epoch
        return (
            *(me.node, me.shard, me.incarnation),
            *(target.node, target.shard, lane.incarnation),
            *(lane.link_class.value, epoch.term, epoch.attempt),
        )

    def forward(self, envelope: Envelope) -> Sent:
        """Send an envelope one hop on, whoever wrote it.

        ``FULL`` says "not now": an outbox has no room, or the two ends of the link are
        about to agree on an epoch.
        """
        link_class = LinkClass(envelope.link_class)
        node = NodeId(envelope.target)
        route = self._router.route(node, ShardId(envelope.target_shard), link_class)
        if isinstance(route, Local):
            self.deliver(envelope)
            return Sent.ACCEPTED
        if isinstance(route, ViaBus):
            lane = REPLY_LANE if envelope.target_incarnation else MAIN_LANE
            return self._bus.offer_body(route.shard, encode_message(envelope), lane)
        link = self._links.link(node, link_class)
        if link is None:
            return self._around(node, link_class, encode_message(envelope))
        if not link.agreed:
            return Sent.FULL
        return link.send(envelope)

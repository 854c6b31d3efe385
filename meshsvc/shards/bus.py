"""The bus between the shards of one node: who is connected, and what each frame must carry.

Every pair of shards holds two connections, lanes: ``main`` for everything and ``replies`` for
answers, so that a flood of the first cannot hold up the second. A sibling is up while both
lanes are; losing either ends both, because half a sibling would take asks it cannot answer.

The rules:

- a send is accepted, full or disconnected; it never waits, and what is refused is counted;
- a frame carries the life of its sender and of its target; one for another life (stale) or
  another shard (misrouted) is dropped and counted, never delivered;
- sequence numbers rise by one per (sender's life, target's life, lane) and survive a reconnect:
  a number seen before is a duplicate, a jump counts the frames that were lost on the way;
- of two lives of a sibling the greater wins, whichever order they connect in.

Why it is hard: a sibling that restarts may connect before its old connections are seen to end,
and frames left in an outbox have a number but never left. ``Carrier.cut`` therefore gives up its
unsent frames at once, and those numbers are used again: the other side sees no jump.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol

from meshsvc.counters import Counters
from meshsvc.errors import NotEncodable, WireError
from meshsvc.model import Incarnation, NodeId, Sent, ShardId
from meshsvc.wire.codec import decode, encode
from meshsvc.wire.frames import MAX_FRAME
from meshsvc.wire.messages import BusFrame, BusHello
from meshsvc.wire.registry import Role, decode_message, registered

BUS_VERSION = 1
"""Of the frames on the bus; a node's shards run one build, so any other is a mistake."""

MAX_BUS_FRAME = MAX_FRAME + 64
"""Bytes of one body on the bus: a full frame of a link, forwarded inside a ``BusFrame``."""

MAX_LANE_FRAMES = 4096
"""Frames waiting in one lane to one sibling; each usually is a batch of many calls."""

MAX_LANE_BYTES = 16 * 1024 * 1024
"""Bytes waiting in one lane to one sibling: with 16 siblings, half a gigabyte at worst."""

_FRAME: Final = next(code for code, cls, _ in registered() if cls is BusFrame)
_FRAME_ITEMS: Final = 7


class Lane(IntEnum):
    """Which of the two connections of a pair of shards."""

    MAIN = 0
    REPLIES = 1


VARIANTS: Final = ("main", "replies")
"""What drops in each lane are counted as."""


@dataclass(frozen=True, slots=True)
class Seat:
    """This shard, in this life of it, in this life of its node."""

    node_id: NodeId
    node_incarnation: Incarnation
    shard: ShardId
    incarnation: Incarnation

    def hello(self, lane: Lane) -> BusHello:
        """The first message on a connection for ``lane``."""
        return BusHello(
            version=BUS_VERSION,
            node_id=self.node_id,
            node_incarnation=self.node_incarnation,
            shard=self.shard,
            incarnation=self.incarnation,
            lane=lane,
        )


@dataclass(frozen=True, slots=True)
class SiblingUp:
    """Both lanes to this life of a sibling are open."""

    shard: ShardId
    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class SiblingDown:
    """A lane to this life of a sibling ended, hence both; what was unsent is dropped."""

    shard: ShardId
    incarnation: Incarnation


BusEvent = SiblingUp | SiblingDown


class Carrier(Protocol):
    """One connection, as the core sees it."""

    def send_body(self, body: bytes) -> Sent:
        """Queue the body of one frame; never waits."""

    def cut(self) -> int:
        """End the connection now; returns how many queued frames will never leave."""


class BusRefused(Exception):
    """A sibling's hello cannot be accepted; ``reason`` is typed, the text is for people."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Stream:
    """One lane between this shard and one life of a sibling: stamps and checks frames."""

    __slots__ = ("_accepted", "_counters", "_from", "_to", "_variant", "received", "sent")

    def __init__(self, me: Seat, peer: BusHello, lane: Lane, counters: Counters) -> None:
        self._counters = counters
        self._variant = VARIANTS[lane]
        self._to = (_FRAME, me.shard, me.incarnation, peer.shard, peer.incarnation)
        self._from = [_FRAME, peer.shard, peer.incarnation, me.shard, me.incarnation]
        self._accepted = 0
        self.sent = 0
        self.received = 0

    def attached(self) -> None:
        """A new connection carries this lane from here on."""
        self._accepted = 0

    def send(self, body: bytes, carrier: Carrier, *, kept: bool = False) -> Sent:
        """Stamp an encoded message and queue it; a refusal is counted, but for a full outbox
        when the message is ``kept`` by the caller to be sent later.

        Raises:
            NotEncodable: when the message is too large for any frame.
        """
        if len(body) > MAX_FRAME:
            raise NotEncodable(
                f"a message of {len(body)} bytes cannot cross the bus, {MAX_FRAME} are the most:"
                " send it in parts"
            )
        outcome = carrier.send_body(encode((*self._to, self.sent + 1, body)))
        if outcome is Sent.ACCEPTED:
            self.sent += 1
            self._accepted += 1
        elif outcome is Sent.DISCONNECTED:
            self._counters.drop(self._variant, "disconnected")
        elif not kept:
            self._counters.drop(self._variant, "full")
        return outcome

    def unsent(self, frames: int) -> None:
        """The connection ended with this many frames still queued: count them as dropped.

        The hello may be among them, so no more are counted than were accepted since.
        """
        frames = min(frames, self._accepted)
        self._accepted = 0
        self.sent -= frames
        if frames:
            self._counters.drop(self._variant, "disconnected", frames)

    def accept(self, body: bytes) -> bytes | None:
        """The encoded message in a frame, or None when the frame was dropped and counted.

        Raises:
            WireError: when the body is not a ``BusFrame``.
        """
        value = decode(body)
        # One comparison of lists instead of a dataclass a frame: this is the hot path.
        if (
            type(value) is not list
            or value[: _FRAME_ITEMS - 2] != self._from
            or len(value) < _FRAME_ITEMS
            or type(value[5]) is not int
            or type(value[6]) is not bytes
        ):
            self._judge(body)
            return None
        number: int = value[5]
        if number != self.received + 1 and not self._jumped(number):
            return None
        self.received = number
        return value[6]

    def _judge(self, body: bytes) -> None:
        frame = decode_message(body, Role.SHARD)
        if not isinstance(frame, BusFrame):
            raise WireError(f"a {type(frame).__name__} came where only frames are sent")
        _, source, _, target, _ = self._from
        addressed = frame.source == source and frame.target == target
        self._counters.drop(self._variant, "stale" if addressed else "misrouted")

    def _jumped(self, number: int) -> bool:
        if number <= self.received:
            self._counters.drop(self._variant, "duplicate")
            return False
        self._counters.drop(self._variant, "lost", number - self.received - 1)
        return True


class BusPeer:
    """One life of a sibling: its two lanes, and whatever connections carry them now."""

    __slots__ = ("carriers", "incarnation", "shard", "streams", "up")

    def __init__(self, me: Seat, hello: BusHello, counters: Counters) -> None:
        self.shard = ShardId(hello.shard)
        self.incarnation = Incarnation(hello.incarnation)
        self.streams = tuple(Stream(me, hello, lane, counters) for lane in Lane)
        self.carriers: list[Carrier | None] = [None, None]
        self.up = False

    def open(self, lane: Lane, carrier: Carrier) -> None:
        """A connection carries this lane from here on."""
        self.carriers[lane] = carrier
        self.streams[lane].attached()
        self.up = None not in self.carriers

    def close(self) -> bool:
        """Cut what is connected; returns whether the sibling was up until now."""
        was_up, self.up = self.up, False
        for lane, carrier in enumerate(self.carriers):
            if carrier is not None:
                self.carriers[lane] = None
                self.streams[lane].unsent(carrier.cut())
        return was_up


class Siblings:
    """The other shards of the node as this one sees them: the core of the bus.

    Connections are handed in once their hello has come (``greeted``) and when they end
    (``lost``); what follows for observers comes out of ``take_events``, oldest first.
    """

    def __init__(self, me: Seat, shards: int, counters: Counters) -> None:
        self._me = me
        self._shards = shards
        self._counters = counters
        self._peers: dict[int, BusPeer] = {}
        self._events: list[BusEvent] = []

    def take_events(self) -> list[BusEvent]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    def up(self) -> tuple[tuple[ShardId, Incarnation], ...]:
        """The siblings that are up, with the life each is in."""
        return tuple((peer.shard, peer.incarnation) for peer in self._peers.values() if peer.up)

    def is_up(self, shard: int, incarnation: int) -> bool:
        """Whether this life of a sibling is up."""
        peer = self._peers.get(shard)
        return peer is not None and peer.up and peer.incarnation == incarnation

    def greeted(self, carrier: Carrier, hello: BusHello) -> Stream:
        """A connection said who it is: it carries that sibling's lane from here on.

        Raises:
            BusRefused: when it cannot; counted as ``bus_refusals_total``.
        """
        try:
            self._judge(hello)
            peer = self._admit(hello)
        except BusRefused as refused:
            self._counters.add("bus_refusals_total", reason=refused.reason)
            raise
        lane = Lane(hello.lane)
        if peer.carriers[lane] is not None:
            # Only a sibling that gave up the old pair dials again.
            self._part(peer)
        peer.open(lane, carrier)
        if peer.up:
            self._events.append(SiblingUp(peer.shard, peer.incarnation))
        return peer.streams[lane]

    def lost(self, carrier: Carrier, unsent: int) -> None:
        """A connection ended by itself, with this many frames still queued.

        Connections that were never greeted, or were cut by the core, are ignored.
        """
        for peer in self._peers.values():
            for lane, held in enumerate(peer.carriers):
                if held is carrier:
                    peer.carriers[lane] = None
                    peer.streams[lane].unsent(unsent)
                    self._part(peer)
                    return

    def close(self) -> None:
        """Cut every connection: this shard stops."""
        for peer in self._peers.values():
            self._part(peer)

    def send(self, shard: int, body: bytes, lane: int, *, kept: bool = False) -> Sent:
        """Queue an encoded message for whichever life of a sibling is up; see ``Stream.send``.

        Raises:
            NotEncodable: when the message is too large for any frame.
        """
        peer = self._peers.get(shard)
        carrier = peer.carriers[lane] if peer is not None and peer.up else None
        if peer is None or carrier is None:
            known = 0 <= shard < self._shards and shard != self._me.shard
            self._counters.drop(VARIANTS[lane], "disconnected" if known else "unroutable")
            return Sent.DISCONNECTED
        return peer.streams[lane].send(body, carrier, kept=kept)

    def _judge(self, hello: BusHello) -> None:
        me = self._me
        if hello.version != BUS_VERSION:
            raise BusRefused("version", f"bus version {hello.version}, not {BUS_VERSION}")
        if hello.node_id != me.node_id:
            raise BusRefused("wrong-node", f"a shard of node {hello.node_id}, not {me.node_id}")
        if hello.node_incarnation != me.node_incarnation:
            raise BusRefused(
                "wrong-life",
                f"a shard of this node's life {hello.node_incarnation}, not {me.node_incarnation}",
            )
        if hello.shard == me.shard or not 0 <= hello.shard < self._shards:
            raise BusRefused(
                "no-sibling", f"shard {hello.shard} is no sibling of {me.shard} of {self._shards}"
            )
        if hello.lane not in (Lane.MAIN, Lane.REPLIES):
            raise BusRefused("lane", f"there is no lane {hello.lane}")

    def _admit(self, hello: BusHello) -> BusPeer:
        peer = self._peers.get(hello.shard)
        if peer is not None and hello.incarnation < peer.incarnation:
            raise BusRefused(
                "stale",
                f"shard {hello.shard} is in life {peer.incarnation}, not {hello.incarnation}",
            )
        if peer is None or hello.incarnation > peer.incarnation:
            if peer is not None:
                self._part(peer)
            peer = self._peers[hello.shard] = BusPeer(self._me, hello, self._counters)
        return peer

    def _part(self, peer: BusPeer) -> None:
        if peer.close():
            self._events.append(SiblingDown(peer.shard, peer.incarnation))

"""Bugs between the shards of a node: on the bus, and in what crosses it."""

from __future__ import annotations

from planting import bug, swap

from meshsvc.model import Sent
from meshsvc.node.handoff import Publisher
from meshsvc.shards.bus import BusPeer, SiblingDown, Siblings, Stream
from meshsvc.wire.messages import BusFrame
from meshsvc.wire.registry import Role, decode_message


# No scenario brings this about: the kernel ends a process's connections with it, so a frame of
# an earlier life has no way to come. The invariants look for it all the same.
@bug(rules="bus")
def a_frame_of_another_life_is_accepted():
    """The incarnations of a frame are not compared (SHD-4)."""

    def accept(self, body):
        frame = decode_message(body, Role.SHARD)
        if isinstance(frame, BusFrame) and frame.seq > self.received:
            self.received = frame.seq
            return frame.body
        return right(self, body)

    with swap(Stream, "accept", accept) as right:
        yield


# Nor this: the supervisor starts a shard's next life after the last one ended, connections and
# all. It takes two lives at once, which is what the rules make up.
@bug(rules="bus")
def an_earlier_life_of_a_sibling_takes_over():
    """A hello is admitted whatever life it is of (SHD-4)."""

    def admit(self, hello):
        peer = self._peers.get(hello.shard)
        if peer is None or hello.incarnation != peer.incarnation:
            if peer is not None:
                self._part(peer)
            peer = self._peers[hello.shard] = BusPeer(self._me, hello, self._counters)
        return peer

    with swap(Siblings, "_admit", admit):
        yield


@bug(scenario="shard-churn", section="SHARD", rules="bus")
def a_drop_is_not_counted():
    """A send to a sibling that is not there is answered, and not counted (SHD-10)."""

    def send(self, shard, body, lane, **how):
        peer = self._peers.get(shard)
        if peer is None or not peer.up:
            return Sent.DISCONNECTED
        return right(self, shard, body, lane, **how)

    with swap(Siblings, "send", send) as right:
        yield


@bug(scenario="shard-churn", section="SHARD", rules="bus")
def frames_vanish_unseen():
    """A number is used and nothing sent under it, and the other side does not count it."""

    def send(self, body, carrier, **how):
        if self.sent % 7 == 6:
            self.sent += 1
            return Sent.ACCEPTED
        return right(self, body, carrier, **how)

    with swap(Stream, "send", send) as right:
        yield


@bug(scenario="swarm")
def a_lost_sibling_is_not_told():
    """A shard that ended stays up for the others (SHD-8)."""

    def take_events(self):
        return [event for event in right(self) if not isinstance(event, SiblingDown)]

    with swap(Siblings, "take_events", take_events) as right:
        yield


@bug(scenario="swarm", section="LIVENESS")
def other_shards_are_not_told_of_changes():
    """Shard 0 keeps news of members to itself (SHD-7)."""

    def changed(self):
        index, whole, rows = self._view_since(self._members.index)
        if index != self._members.index:
            self._members.apply(index, whole, rows)

    with swap(Publisher, "changed", changed):
        yield

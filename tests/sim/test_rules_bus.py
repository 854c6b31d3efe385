"""Two shards on the bus against a model of SHD-4 and SHD-10: lives, order, and every drop counted.

Both ends are real cores; the connections between them are lists of bytes that break, linger
and cross as the rules say. The model is the set of bodies that were handed in.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from rules import bounded

from meshsvc.counters import Counters
from meshsvc.model import NodeId, Sent
from meshsvc.shards.bus import BusRefused, Lane, Seat, SiblingDown, Siblings, SiblingUp
from meshsvc.wire.messages import BusFrame
from meshsvc.wire.registry import encode_message

NODE = NodeId("a" * 32)
ROOM = 6
"""Frames that a lane's outbox holds here."""


@dataclass(eq=False)
class Wire:
    """One connection of one lane as one end holds it: an outbox, and what is on its way."""

    seat: Seat
    lane: Lane
    other: Wire | None = None
    core: Siblings | None = None
    stream: object = None
    outbox: list[bytes] = field(default_factory=list)
    flying: list[bytes] = field(default_factory=list)
    dead: bool = False

    def send_body(self, body):
        if self.dead:
            return Sent.DISCONNECTED
        if len(self.outbox) >= ROOM:
            return Sent.FULL
        self.outbox.append(body)
        return Sent.ACCEPTED

    def cut(self):
        self.dead = True
        unsent, self.outbox = len(self.outbox), []
        return unsent


class Shard:
    """One life of one shard, and what the model knows of it."""

    def __init__(self, index, life):
        self.seat = Seat(NODE, 7, index, life)
        self.counters = Counters()
        self.core = Siblings(self.seat, 2, self.counters)
        self.up: int | None = None
        self.latest = 0
        self.calls = self.accepted = self.taken = 0

    def drops(self, **labels):
        return self.counters.total("frame_drops_total", **labels)

    def told(self):
        for event in self.core.take_events():
            if isinstance(event, SiblingUp):
                assert self.up is None, "up twice"
                assert event.incarnation >= self.latest, "an earlier life came back"
                self.up = self.latest = event.incarnation
            else:
                assert isinstance(event, SiblingDown)
                assert self.up == event.incarnation, "down, and was not up"
                self.up = None
        live = () if self.up is None else ((1 - self.seat.shard, self.up),)
        assert self.core.up() == live


class BusRules(RuleBasedStateMachine):
    """Shard 1 dials shard 0; either may restart at any time."""

    def __init__(self):
        super().__init__()
        self.shards = [Shard(0, 1), Shard(1, 1)]
        self.wires: list[Wire] = []
        self.number = 0
        self.bodies: dict[bytes, tuple[Seat, Seat, Lane, int]] = {}
        self.heard: dict[tuple[Seat, Seat, Lane], list[int]] = {}
        self.last: dict[int, int] = {}
        self.gone: dict[int, int] = {}

    @initialize(begun=st.booleans())
    def begin(self, begun):
        for lane in Lane if begun else ():
            self.dial(lane)

    def _settle(self):
        for shard in self.shards:
            shard.told()

    # --- connections ---------------------------------------------------------------------

    @rule(lane=st.sampled_from(Lane))
    def dial(self, lane):
        """A connection of a lane is made; both ends say who they are."""
        ends = [Wire(shard.seat, lane, core=shard.core) for shard in self.shards]
        ends[0].other, ends[1].other = ends[1], ends[0]
        self.wires += ends
        for end in ends:
            assert end.other is not None
            end.stream = end.core.greeted(end, end.other.seat.hello(lane))
        self._settle()

    @precondition(lambda self: self.last)
    @rule(index=st.integers(0, 1), back=st.integers(1, 2), lane=st.sampled_from(Lane))
    def a_ghost_dials(self, index, back, lane):
        """A connection of an earlier life, or of another life of the node, gets in late."""
        life = self.shards[index].seat.incarnation - back
        listener = self.shards[1 - index]
        ghost = Seat(NODE, 7, index, life)
        if life >= max(1, listener.latest) or life < 1:
            ghost = Seat(NODE, 6, index, life)
        known = listener.core._peers.get(index)
        if ghost.node_incarnation == 7 and (known is None or life >= known.incarnation):
            return
        before = listener.counters.total("bus_refusals_total")
        wire = Wire(ghost, lane, core=listener.core)
        with suppress(BusRefused):
            listener.core.greeted(wire, ghost.hello(lane))
            raise AssertionError("a life that is over was admitted")
        assert listener.counters.total("bus_refusals_total") == before + 1
        self._settle()

    @precondition(lambda self: self.wires)
    @rule(data=st.data(), how=st.sampled_from(["break", "one-sided"]))
    def connection_ends(self, data, how):
        """It breaks: what was queued never leaves, what flies may still arrive at the other."""
        wire = data.draw(st.sampled_from(self.wires))
        self._end(wire)
        if how == "break" and wire.other is not None:
            self._end(wire.other)
        self._settle()

    def _end(self, wire):
        if wire.dead:
            return
        wire.dead = True
        unsent, wire.outbox = len(wire.outbox), []
        wire.core.lost(wire, unsent)

    @rule(index=st.integers(0, 1))
    def restart(self, index):
        """The process is killed and a later life of it begins; its connections linger."""
        old = self.shards[index]
        self.last[index] = old.seat.incarnation
        for wire in self.wires:
            if wire.core is old.core:
                wire.dead, wire.outbox = True, []
        self.shards[index] = Shard(index, old.seat.incarnation + 1)

    # --- frames --------------------------------------------------------------------------

    @rule(index=st.integers(0, 1), lane=st.sampled_from(Lane), count=st.integers(1, 4))
    def send(self, index, lane, count):
        shard = self.shards[index]
        for _ in range(count):
            self.number += 1
            body = encode_message(BusFrame(9, 9, 9, 9, self.number, b"inner"))
            before = shard.drops()
            sent = shard.core.send(1 - index, body, lane)
            shard.calls += 1
            assert (sent is Sent.ACCEPTED) is (shard.drops() == before), "a refusal is a drop"
            if shard.up is None:
                assert sent is Sent.DISCONNECTED
            if sent is Sent.ACCEPTED:
                shard.accepted += 1
                target = Seat(NODE, 7, 1 - index, shard.up)
                self.bodies[body] = (shard.seat, target, lane, self.number)

    @rule(count=st.integers(1, 8))
    def leaves(self, count):
        """The kernel takes what is queued."""
        for wire in self.wires:
            if not wire.dead:
                moved, wire.outbox = wire.outbox[:count], wire.outbox[count:]
                wire.flying += moved

    @precondition(lambda self: self.wires)
    @rule(data=st.data(), count=st.integers(1, 8))
    def arrives(self, data, count):
        """Bytes reach the reader, which may have cut the connection, or be another life."""
        wire = data.draw(st.sampled_from(self.wires))
        moved, wire.flying = wire.flying[:count], wire.flying[count:]
        for body in moved:
            if wire.other is not None and not wire.other.dead:
                self._taken(wire.other, body)

    def _taken(self, reader, body):
        shard = self.shards[reader.seat.shard]
        before = shard.drops()
        inner = reader.stream.accept(body)
        if inner is None:
            assert shard.drops() == before + 1, "a frame vanished uncounted"
            return
        source, target, lane, number = self.bodies[inner]
        assert target == shard.seat, "it was for another life of this shard"
        assert source == reader.other.seat, "it was of another life of the sibling"
        assert lane is reader.lane
        heard = self.heard.setdefault((source, target, lane), [])
        assert not heard or number > heard[-1], "out of order, or twice"
        heard.append(number)
        shard.taken += 1

    @precondition(lambda self: any(wire.stream and not wire.dead for wire in self.wires))
    @rule(
        data=st.data(),
        field_=st.sampled_from(["source_incarnation", "target_incarnation"]),
        by=st.sampled_from([-1, 1]),
    )
    def stray_frame(self, data, field_, by):
        """A frame of another life, or for one: dropped and counted as stale, never delivered."""
        wire = data.draw(st.sampled_from([w for w in self.wires if w.stream and not w.dead]))
        shard = self.shards[wire.seat.shard]
        if wire.core is not shard.core or wire.other is None:
            return
        frame = {
            "source": wire.other.seat.shard,
            "source_incarnation": wire.other.seat.incarnation,
            "target": wire.seat.shard,
            "target_incarnation": wire.seat.incarnation,
            "seq": wire.stream.received + 1,
            "body": b"stray",
        }
        frame[field_] += by
        before = shard.drops(reason="stale")
        assert wire.stream.accept(encode_message(BusFrame(**frame))) is None, "a stale frame"
        assert shard.drops(reason="stale") == before + 1

    @precondition(lambda self: any(wire.stream and not wire.dead for wire in self.wires))
    @rule(data=st.data())
    def frame_comes_twice(self, data):
        wire = data.draw(st.sampled_from([w for w in self.wires if w.stream and not w.dead]))
        if not wire.flying or wire.other is None or wire.other.dead:
            return
        first = wire.flying.pop(0)
        self._taken(wire.other, first)
        shard = self.shards[wire.other.seat.shard]
        before = shard.drops(reason="duplicate")
        assert wire.other.stream.accept(first) is None, "delivered twice"
        assert shard.drops(reason="duplicate") == before + 1

    def teardown(self):
        """With nothing in the way all of it arrives, or is counted by one side or the other."""
        self.leaves(ROOM)
        for wire in self.wires:
            for body in wire.flying:
                if wire.other is not None and not wire.other.dead:
                    self._taken(wire.other, body)
            wire.flying = []
        for wire in self.wires:
            self._end(wire)
        self._settle()
        for lane in Lane:  # as the dialer does after either lane of a pair was lost
            self.dial(lane)
        assert all(shard.up is not None for shard in self.shards)
        for lane in reversed(Lane):
            for shard in self.shards:
                self.send(shard.seat.shard, lane, 1)
        fresh = self.number
        self.leaves(ROOM)
        for wire in self.wires:
            for body in wire.flying:
                self._taken(wire.other, body)
            wire.flying = []
        for index, number in ((0, fresh - 1), (1, fresh)):
            source, target = self.shards[index].seat, self.shards[1 - index].seat
            assert self.heard[source, target, Lane.MAIN][-1] == number
        self._nothing_vanished()

    def _nothing_vanished(self):
        """Between the two lives that met last: accepted = taken + counted, at both ends."""
        first, second = (shard.core._peers for shard in self.shards)
        for out, into in ((first[1], second[0]), (second[0], first[1])):
            if out.incarnation and into.incarnation:
                for lane in Lane:
                    sent, received = out.streams[lane].sent, into.streams[lane].received
                    assert sent == received, f"{sent} sent, {received} taken or counted"


@pytest.mark.contract("SHD-4", "SHD-10")
def test_the_bus_follows_the_model():
    """Whatever breaks or restarts: right lives, in order, once, and every drop counted."""
    run_state_machine_as_test(BusRules, settings=bounded(150, 40))

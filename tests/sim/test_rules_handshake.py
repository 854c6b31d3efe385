"""Two sessions back to back against a model of a link: LINK-1, LINK-4, MESH-3, MESH-6, MESH-9.

The model knows what each side said and what reached the other, in bytes. It does not know
how a session is built.
"""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from link_net import envelope, node, roster
from rules import bounded

from meshsvc.link.admission import Known
from meshsvc.link.events import Dropped, Ended, EpochSeen, Intent, Limits, Received, Up
from meshsvc.link.session import Session
from meshsvc.model import NO_EPOCH, Epoch, LinkClass, Sent
from meshsvc.wire.frames import pack
from meshsvc.wire.messages import Confirm, Hello
from meshsvc.wire.registry import encode_message

HANDSHAKE_S = 5.0
DEAD_S = 5.0

TABLE = [Epoch(1, 1), Epoch(1, 2), Epoch(2, 1), Epoch(3, 1)]
ANY_EPOCH = st.sampled_from(TABLE)
ZERO = NO_EPOCH

HELLO_OF_NOBODY = Hello(1, 1, (), "test", "x" * 32, "n9", 0, "h", 0, 0, 7, 0, 0, 0, "")
GARBAGE = [
    b"\x00",
    b"\xff" * 40,
    b"GET / HTTP/1.1\r\n\r\n",
    (10_000_000).to_bytes(4, "big") + b"x" * 100,
    pack(b"\x80"),
    pack(encode_message(Confirm(99))),
    pack(encode_message(HELLO_OF_NOBODY)),
]


class Side:
    """One end: its session, what it knows, and what came out of it."""

    def __init__(self, me, epoch, now, intent):
        self.known = Known(epoch=epoch)
        self.session = Session(me, lambda: self.known, Limits(), now, intent)
        self.began = now
        self.sent: list[tuple[Epoch, int]] = []
        self.got: list[tuple[Epoch, int]] = []
        self.dropped: list[tuple[Epoch, int]] = []
        self.events: list[object] = []
        self.wire = b""
        self.disturbed = False
        self.last_in = now
        self.last_tick = now
        self.adopted = [epoch]

    @property
    def up(self):
        return any(isinstance(event, Up) for event in self.events)

    @property
    def ended(self):
        return [event for event in self.events if isinstance(event, Ended)]


class LinkRules(RuleBasedStateMachine):
    """Index 0 dials, index 1 accepts; bytes travel when the rules say so, or get lost."""

    @initialize(
        link_class=st.sampled_from(LinkClass),
        epochs=st.sampled_from([(TABLE[a], TABLE[b]) for a, b in ((0, 0), (1, 1), (0, 1), (2, 1))]),
        stranger=st.sampled_from([""] * 8 + ["cluster", "self", "expected", "left-out"]),
        trouble=st.sampled_from(["none", "none", "garbage", "ends", "slow"]),
        begun=st.booleans(),
    )
    def make(self, link_class, epochs, stranger, trouble, begun):
        self.trouble = trouble
        self.now, self.number = 100.0, 0
        self.link_class, self.stranger = link_class, stranger
        dialer, acceptor = node(1), node(2)
        if stranger == "cluster":
            dialer = node(1, cluster="other")
        elif stranger == "self":
            dialer = acceptor
        expect = "f" * 32 if stranger == "expected" else ""
        start = epochs if link_class is LinkClass.DATA else (ZERO, ZERO)
        self.start = start
        intent = Intent(link_class, 7, expect)
        self.sides = (
            Side(dialer, start[0], self.now, intent),
            Side(acceptor, start[1], self.now, None),
        )
        if stranger == "left-out":
            epoch = start[1]
            self.sides[1].known.roster = roster(epoch, acceptor, node(3))
        self._collect()
        if begun:
            self.carry_all()

    # --- the outside world ---------------------------------------------------------------

    def _collect(self):
        for side in self.sides:
            for event in side.session.take_events():
                assert not side.ended, "something came out after the end"
                side.events.append(event)
                if isinstance(event, Received):
                    message = event.message
                    if self.link_class is LinkClass.DATA:
                        now = (side.known.epoch.term, side.known.epoch.attempt)
                        assert (message.term, message.attempt) == now, "of another epoch"
                    side.got.append((Epoch(message.term, message.attempt), message.seq))
                elif isinstance(event, Dropped):
                    message = event.envelope
                    side.dropped.append((Epoch(message.term, message.attempt), message.seq))

    def _pull(self, at):
        side = self.sides[at]
        side.wire += side.session.take_output(1 << 16, self.now)

    @rule(at=st.integers(0, 1), size=st.sampled_from([1, 3, 7, 24, 100, 1 << 20]))
    def carry(self, at, size):
        """Some bytes reach the other end."""
        self._pull(at)
        source, target = self.sides[at], self.sides[1 - at]
        data, source.wire = source.wire[:size], source.wire[size:]
        if data:
            target.session.receive(data, self.now)
            target.last_in = self.now
            self._collect()

    @rule()
    def carry_all(self):
        for _ in range(12):
            self.carry(0, 1 << 20)
            self.carry(1, 1 << 20)

    @precondition(lambda self: self.trouble == "garbage")
    @rule(at=st.integers(0, 1), data=st.sampled_from(GARBAGE))
    def garbage_comes(self, at, data):
        """Not from the peer, whatever it is: no exception, and no life of its own."""
        side = self.sides[at]
        was_up = side.up
        side.session.receive(data, self.now)
        side.disturbed, side.last_in = True, self.now
        self._collect()
        assert side.up is was_up, "garbage brought a link up"

    @precondition(lambda self: self.trouble in ("slow", "ends"))
    @rule(seconds=st.sampled_from([0.125, 0.5, 1.0, 2.0]))
    def time_passes(self, seconds):
        """Both drivers tick when asked to."""
        end = self.now + seconds
        while self.now < end:
            self.now += 0.125
            for side in self.sides:
                at = side.session.deadline()
                if at is not None and at <= self.now:
                    side.session.tick(self.now)
            self._collect()

    # --- the owners ----------------------------------------------------------------------

    @rule(at=st.integers(0, 1))
    def send(self, at):
        """An envelope under this side's epoch."""
        side = self.sides[at]
        self.number += 1
        epoch = side.session.epoch
        agreed = side.session.agreed
        sent = side.session.send(envelope(epoch, self.number, self.link_class))
        assert (sent is Sent.ACCEPTED) is agreed, "only an agreed link takes envelopes"
        if sent is Sent.ACCEPTED:
            side.sent.append((epoch, self.number))

    @precondition(lambda self: self.link_class is LinkClass.DATA)
    @rule(at=st.integers(0, 1), epoch=ANY_EPOCH)
    def adopt(self, at, epoch):
        """A node's epochs only rise."""
        side = self.sides[at]
        if epoch > side.known.epoch:
            side.known.epoch = epoch
            side.adopted.append(epoch)
            side.known.roster = None
            self.stranger = "" if self.stranger == "left-out" else self.stranger
            side.session.set_epoch(epoch)
            self._collect()

    @precondition(lambda self: self.link_class is LinkClass.DATA)
    @rule(at=st.integers(0, 1), epoch=ANY_EPOCH)
    def adopt_while_a_frame_flies(self, at, epoch):
        """What was sent under the old epoch comes after the new one was adopted."""
        self.send(1 - at)
        self.adopt(at, epoch)
        self.carry(1 - at, 1 << 20)

    @precondition(lambda self: self.trouble == "ends")
    @rule(at=st.integers(0, 1))
    def close(self, at):
        self.sides[at].session.close("stopped", "the owner stops", self.now)
        self._collect()

    @precondition(lambda self: self.trouble == "ends")
    @rule(at=st.integers(0, 1))
    def lose(self, at):
        self.sides[at].session.lost("reset", "the connection broke", self.now)
        self._collect()

    # --- what must hold ------------------------------------------------------------------

    @invariant()
    def ends_once(self):
        for side in getattr(self, "sides", ()):
            assert len(side.ended) <= 1
            assert sum(isinstance(event, Up) for event in side.events) <= 1
            if side.ended:
                assert not side.session.up
                assert side.ended[0].reason
                assert side.ended[0].text

    @invariant()
    def nobody_is_up_alone_or_in_vain(self):
        if not hasattr(self, "sides"):
            return
        dialer, acceptor = self.sides
        if acceptor.up and not acceptor.disturbed:
            assert dialer.up, "the acceptor is up before the dialer accepted it"
        if self.stranger in ("cluster", "self", "expected"):
            assert not dialer.up
            assert not acceptor.up
        for side in self.sides:
            if not side.up and not side.ended:
                assert self.now - side.began <= HANDSHAKE_S + 0.125, "a handshake without end"

    @invariant()
    def nothing_crosses_epochs(self):
        if not hasattr(self, "sides"):
            return
        for side, other in (self.sides, self.sides[::-1]):
            numbers = [number for _, number in side.got]
            assert numbers == sorted(set(numbers)), "out of order, or twice"
            assert set(side.got) | set(side.dropped) <= set(other.sent), "never sent"
            assert not set(side.got) & set(side.dropped)
            if self.link_class is LinkClass.CONTROL:
                assert not side.dropped
                assert {epoch for epoch, _ in side.got} <= {ZERO}
            for event in side.events:
                if isinstance(event, EpochSeen):
                    assert event.epoch in other.adopted, "an epoch nobody holds was seen"
            if side.session.agreed and other.session.agreed and not side.wire and not other.wire:
                quiet = not (side.session.has_output or other.session.has_output)
                assert not quiet or side.session.epoch == other.session.epoch

    @precondition(lambda self: self.trouble == "slow")
    @rule()
    def silence_is_noticed(self):
        """Neither side hears anything any more: both have ended 5 s later (LINK-4)."""
        for side in self.sides:
            side.wire = b""
            side.session.take_output(1 << 20, self.now)
        before = [bool(side.ended) for side in self.sides]
        self.time_passes(DEAD_S + 1.5)
        for side, ended in zip(self.sides, before, strict=True):
            assert side.ended
            if side.up and not ended:
                assert side.ended[0].reason == "silent"

    def teardown(self):
        """What was left alone ends as the contracts say."""
        if not hasattr(self, "sides") or any(side.disturbed for side in self.sides):
            return
        if any(side.ended for side in self.sides) or self.stranger:
            return
        self.carry_all()
        first, second = self.sides
        lost = [side for side in self.sides if side.ended]
        if lost:
            reasons = {side.ended[0].reason for side in self.sides if side.ended}
            assert reasons <= {"epoch-low", "epoch-high"}, reasons
            assert len(first.adopted) + len(second.adopted) > 2 or self.start[0] != self.start[1]
            for side in lost:
                self._names_both(side)
            return
        assert first.session.up
        assert second.session.up
        assert first.session.agreed is (first.known.epoch == second.known.epoch)
        assert first.session.agreed is second.session.agreed
        assert {*first.got, *first.dropped} == set(second.sent), "something vanished"
        assert {*second.got, *second.dropped} == set(first.sent), "something vanished"

    def _names_both(self, side):
        text = side.ended[0].text
        named = [epoch for epoch in (*TABLE, ZERO) if str(epoch) in text]
        assert len(named) == 2, f"a refusal for the epoch names both: {text}"
        assert any(side.ended[0].heals for side in self.sides if side.ended)


@pytest.mark.contract("LINK-1", "LINK-4", "MESH-3", "MESH-6", "MESH-9")
def test_two_ends_of_a_link_follow_the_model():
    """Any chunking, garbage, loss, time and epochs: each end ends once, none delivers in vain."""
    run_state_machine_as_test(LinkRules, settings=bounded(250, 40))

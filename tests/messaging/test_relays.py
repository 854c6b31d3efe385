"""What a shard passes on for others waits for room on its own way only."""

from __future__ import annotations

import pytest

from meshsvc.messaging.relays import MAX_BYTES, MAX_WAY_BYTES, OVERHEAD, Relays
from meshsvc.model import LinkClass, NodeId, Sent
from meshsvc.wire.messages import Envelope

ME = NodeId("e" * 32)


def envelope(target, number, size=100, shard=0, link_class=LinkClass.DATA):
    body = b"x" * size
    return Envelope(
        *("a" * 32, 1, 1), *(target * 32, shard, 0), *(link_class.value, 1, 1, number, body)
    )


class Ways:
    """Takes envelopes unless the way to their target is stuck, or gone."""

    def __init__(self):
        self.stuck, self.gone, self.taken = set(), set(), []
        self.relays = Relays(ME, self.forward)

    def forward(self, envelope):
        if envelope.target[0] in self.gone:
            return Sent.DISCONNECTED
        if envelope.target[0] in self.stuck:
            return Sent.FULL
        self.taken.append((envelope.target[0], envelope.seq))
        return Sent.ACCEPTED


@pytest.mark.contract("LINK-5", "VERB-4")
def test_a_stuck_way_holds_up_no_other_and_keeps_its_order():
    """Each way has a queue; what comes later never overtakes what waits."""
    ways = Ways()
    ways.stuck = {"b"}
    assert ways.relays.send(envelope("b", 1)) is Sent.ACCEPTED
    assert ways.relays.send(envelope("c", 1)) is Sent.ACCEPTED
    assert ways.taken == [("c", 1)]
    assert ways.relays.pass_on() == []
    ways.stuck = set()
    ways.relays.send(envelope("b", 2))
    assert len(ways.relays) == 2
    assert ways.relays.pass_on() == []
    assert ways.taken == [("c", 1), ("b", 1), ("b", 2)]
    assert not ways.relays


def test_what_waits_is_bounded_by_way_and_in_all():
    """Beyond 16 MiB for one way, or 64 MiB, the answer is full; bytes that left count no more."""
    ways = Ways()
    ways.stuck = set("bcdfg")
    size = MAX_WAY_BYTES // 8 - OVERHEAD
    sent = [ways.relays.send(envelope("b", n, size)) for n in range(9)]
    assert sent == [Sent.ACCEPTED] * 8 + [Sent.FULL]
    for way in "cdf":
        assert {ways.relays.send(envelope(way, n, size)) for n in range(8)} == {Sent.ACCEPTED}
    assert MAX_BYTES == 4 * MAX_WAY_BYTES
    assert ways.relays.send(envelope("g", 1)) is Sent.FULL
    ways.stuck = set()
    assert ways.relays.pass_on() == []
    ways.stuck = {"g"}
    assert ways.relays.send(envelope("g", 1)) is Sent.ACCEPTED


@pytest.mark.contract("VERB-2")
def test_what_waits_for_a_way_that_goes_is_given_back():
    """Nothing is lost in silence: the caller tells whoever asked."""
    ways = Ways()
    ways.stuck = {"b"}
    kept = envelope("b", 1)
    ways.relays.send(kept)
    ways.gone, ways.stuck = {"b"}, set()
    assert ways.relays.pass_on() == [kept]
    assert ways.relays.send(kept) is Sent.DISCONNECTED
    assert not ways.relays


def test_the_shards_of_this_node_are_ways_of_their_own():
    """A sibling that is stuck holds up no other sibling."""
    ways = Ways()
    ways.stuck = {"e"}
    ways.relays.send(envelope("e", 1, shard=1))
    ways.stuck = set()
    ways.relays.send(envelope("e", 2, shard=2))
    assert ways.taken == [("e", 2)]

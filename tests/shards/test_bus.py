"""The core of the bus: lives, lanes, sequences, and every drop counted."""

from __future__ import annotations

import pytest

from meshsvc.counters import Counters
from meshsvc.errors import NotEncodable, WireError
from meshsvc.model import Sent
from meshsvc.shards.bus import (
    BUS_VERSION,
    MAX_BUS_FRAME,
    BusRefused,
    Lane,
    Seat,
    SiblingDown,
    Siblings,
    SiblingUp,
)
from meshsvc.wire.frames import MAX_FRAME
from meshsvc.wire.messages import BusFrame, BusHello, Bye
from meshsvc.wire.registry import encode_message

pytestmark = pytest.mark.contract("SHD-4")

NODE = "a" * 32


class FakeCarrier:
    """A connection that keeps what it is given; ``outcome`` is what a send answers."""

    def __init__(self):
        self.bodies = []
        self.outcome = Sent.ACCEPTED
        self.was_cut = False

    def send_body(self, body):
        if self.outcome is Sent.ACCEPTED:
            self.bodies.append(body)
        return self.outcome

    def cut(self):
        self.was_cut = True
        return len(self.bodies)


def seat(shard, incarnation=1):
    return Seat(NODE, 7, shard, incarnation)


class Side:
    """The core of one shard, with its counters at hand."""

    def __init__(self, shard, incarnation=1, shards=3):
        self.seat = seat(shard, incarnation)
        self.counters = Counters()
        self.core = Siblings(self.seat, shards, self.counters)

    def meet(self, other):
        """Open both lanes to another seat; returns carriers and streams by lane."""
        carriers = [FakeCarrier(), FakeCarrier()]
        streams = [self.core.greeted(carriers[lane], other.hello(lane)) for lane in Lane]
        return carriers, streams

    def drops(self, **labels):
        return self.counters.total("frame_drops_total", **labels)


def frame(seq, body=b"m", **changes):
    """A frame from shard 1 (life 1) to shard 0 (life 1)."""
    fields = {"source": 1, "source_incarnation": 1, "target": 0, "target_incarnation": 1}
    return encode_message(BusFrame(**{**fields, **changes}, seq=seq, body=body))


def test_a_sibling_is_up_when_both_lanes_are():
    """One lane is no sibling; the second makes it up, with its life."""
    side = Side(0)
    side.core.greeted(FakeCarrier(), seat(1, 4).hello(Lane.REPLIES))
    assert side.core.take_events() == []
    assert side.core.send(1, b"m", Lane.REPLIES) is Sent.DISCONNECTED
    side.core.greeted(FakeCarrier(), seat(1, 4).hello(Lane.MAIN))
    assert side.core.take_events() == [SiblingUp(1, 4)]
    assert side.core.up() == ((1, 4),)
    assert side.core.is_up(1, 4)
    assert not side.core.is_up(1, 3)


def test_frames_are_bus_frames_with_both_lives_and_a_sequence():
    """What is sent is exactly an encoded BusFrame, numbered from 1 in each lane."""
    side = Side(0, 5)
    carriers, _ = side.meet(seat(1, 9))
    for lane, body in ((0, b"one"), (0, b"two"), (1, b"reply")):
        assert side.core.send(1, body, lane) is Sent.ACCEPTED
    assert carriers[0].bodies == [
        encode_message(BusFrame(0, 5, 1, 9, 1, b"one")),
        encode_message(BusFrame(0, 5, 1, 9, 2, b"two")),
    ]
    assert carriers[1].bodies == [encode_message(BusFrame(0, 5, 1, 9, 1, b"reply"))]


def test_what_one_side_stamps_the_other_accepts():
    """Two cores understand each other in order, and nothing is dropped."""
    one, two = Side(0, 3), Side(1, 8)
    carriers, _ = one.meet(two.seat)
    _, streams = two.meet(one.seat)
    sent = [bytes([number]) * number for number in range(1, 50)]
    for body in sent:
        one.core.send(1, body, Lane.MAIN)
    assert [streams[0].accept(body) for body in carriers[0].bodies] == sent
    assert one.drops() == two.drops() == 0


@pytest.mark.contract("SHD-10")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"source_incarnation": 0}, "stale"),
        ({"source_incarnation": 2}, "stale"),
        ({"target_incarnation": 0}, "stale"),
        ({"target_incarnation": 2}, "stale"),
        ({"target": 2}, "misrouted"),
        ({"source": 2}, "misrouted"),
        ({"source": 2, "source_incarnation": 9}, "misrouted"),
    ],
)
@pytest.mark.parametrize("lane", Lane)
def test_frames_for_another_life_or_shard_are_dropped(lane, changes, reason):
    """They are counted in their lane, not delivered, and do not use up a number."""
    side = Side(0)
    _, streams = side.meet(seat(1))
    assert streams[lane].accept(frame(1, **changes)) is None
    assert side.drops(variant=lane.name.lower(), reason=reason) == 1
    assert side.drops() == 1
    assert streams[lane].accept(frame(1)) == b"m"


@pytest.mark.contract("SHD-10")
def test_duplicates_are_dropped_and_jumps_counted():
    """A number seen before is a duplicate; after a jump the missing frames are counted lost."""
    side = Side(0)
    _, streams = side.meet(seat(1))
    main = streams[Lane.MAIN]
    assert [main.accept(frame(seq)) for seq in (1, 2, 2, 1, 0, -4)] == [b"m", b"m"] + [None] * 4
    assert side.drops(variant="main", reason="duplicate") == 4
    assert main.accept(frame(6)) == b"m"
    assert side.drops(variant="main", reason="lost") == 3
    assert main.accept(frame(7)) == b"m"
    assert side.drops() == 7


@pytest.mark.parametrize(
    "body",
    [
        b"\xff",
        b"\x80",
        encode_message(seat(1).hello(Lane.MAIN)),
        encode_message(Bye("why", "text")),
        frame(1)[:-1],
        frame(1) + b"\x00",
        b"\x86" + frame(1)[1:-2],
        frame(1).replace(b"\x01Am", b"\xf5Am"),
        frame(1).replace(b"Am", b"am"),
    ],
)
def test_what_is_no_frame_raises_a_wire_error(body):
    """The driver cuts the connection; nothing else is raised."""
    side = Side(0)
    _, streams = side.meet(seat(1))
    with pytest.raises(WireError):
        streams[0].accept(body)


def test_fields_of_a_newer_build_are_ignored():
    """A frame with one more field is still a frame."""
    side = Side(0)
    _, streams = side.meet(seat(1))
    body = frame(1)
    assert streams[0].accept(bytes([body[0] + 1]) + body[1:] + b"\x09") == b"m"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": BUS_VERSION + 1}, "version"),
        ({"node_id": "b" * 32}, "wrong-node"),
        ({"node_incarnation": 6}, "wrong-life"),
        ({"shard": 0}, "no-sibling"),
        ({"shard": 3}, "no-sibling"),
        ({"shard": -1}, "no-sibling"),
        ({"lane": 2}, "lane"),
        ({"lane": -1}, "lane"),
    ],
)
def test_hellos_that_do_not_fit_are_refused(changes, reason):
    """Each reason is typed and counted, and changes nothing."""
    side = Side(0)
    fields = {"version": BUS_VERSION, "node_id": NODE, "node_incarnation": 7}
    fields |= {"shard": 1, "incarnation": 1, "lane": 0}
    with pytest.raises(BusRefused) as caught:
        side.core.greeted(FakeCarrier(), BusHello(**{**fields, **changes}))
    assert caught.value.reason == reason
    assert side.counters.total("bus_refusals_total", reason=reason) == 1
    assert side.core.take_events() == []


def test_a_higher_life_replaces_the_one_that_is_up():
    """The old pair is cut, down comes before up, and numbers start again."""
    side = Side(0)
    old, _ = side.meet(seat(1, 1))
    side.core.take_events()
    side.core.send(1, b"m", Lane.MAIN)
    new, _ = side.meet(seat(1, 2))
    assert [carrier.was_cut for carrier in (*old, *new)] == [True, True, False, False]
    assert side.core.take_events() == [SiblingDown(1, 1), SiblingUp(1, 2)]
    assert side.drops(variant="main", reason="disconnected") == 1
    side.core.send(1, b"m", Lane.MAIN)
    assert new[0].bodies == [encode_message(BusFrame(0, 1, 1, 2, 1, b"m"))]


def test_a_lower_life_is_refused():
    """A straggler of an earlier life is turned away, whether the later one is up or not."""
    side = Side(0)
    carriers, _ = side.meet(seat(1, 2))
    with pytest.raises(BusRefused) as caught:
        side.core.greeted(FakeCarrier(), seat(1, 1).hello(Lane.MAIN))
    assert caught.value.reason == "stale"
    side.core.lost(carriers[0], 0)
    with pytest.raises(BusRefused):
        side.core.greeted(FakeCarrier(), seat(1, 1).hello(Lane.MAIN))
    assert side.core.take_events() == [SiblingUp(1, 2), SiblingDown(1, 2)]


def test_the_end_of_a_replaced_connection_is_no_news():
    """Losing a connection of the old life, told late, leaves the new one alone."""
    side = Side(0)
    old, _ = side.meet(seat(1, 1))
    side.meet(seat(1, 2))
    side.core.take_events()
    side.core.lost(old[0], 5)
    assert side.core.take_events() == []
    assert side.core.is_up(1, 2)
    assert side.drops() == 0


@pytest.mark.contract("SHD-10")
@pytest.mark.parametrize("lane", Lane)
def test_losing_one_lane_ends_both_and_counts_what_was_unsent(lane):
    """Frames that never left are counted as disconnected, in their lanes; sends are refused."""
    side = Side(0)
    carriers, _ = side.meet(seat(1))
    for _ in range(3):
        side.core.send(1, b"m", Lane.MAIN)
    side.core.send(1, b"m", Lane.REPLIES)
    side.core.lost(carriers[lane], len(carriers[lane].bodies))
    assert carriers[1 - lane].was_cut
    assert side.core.take_events() == [SiblingUp(1, 1), SiblingDown(1, 1)]
    assert side.drops(variant="main", reason="disconnected") == 3
    assert side.drops(variant="replies", reason="disconnected") == 1
    assert side.core.send(1, b"m", Lane.MAIN) is Sent.DISCONNECTED
    assert side.drops(variant="main", reason="disconnected") == 4


def test_a_hello_still_queued_is_no_dropped_frame():
    """A connection that ends with only its hello queued dropped nothing."""
    side = Side(0)
    carriers, _ = side.meet(seat(1))
    side.core.lost(carriers[0], 1)
    assert side.drops() == 0


def test_numbers_survive_a_reconnect():
    """The same two lives go on counting, and numbers of unsent frames are used again."""
    one, two = Side(0), Side(1)
    old, _ = one.meet(two.seat)
    _, first = two.meet(one.seat)
    for number in range(4):
        one.core.send(1, bytes([number]), Lane.MAIN)
    # The first left and arrived, the second was lost on the way, two never left.
    assert first[0].accept(old[0].bodies[0]) == b"\x00"
    one.core.lost(old[0], 2)
    assert one.drops(variant="main", reason="disconnected") == 2
    new, _ = one.meet(two.seat)
    _, second = two.meet(one.seat)
    one.core.send(1, b"x", Lane.MAIN)
    assert second[0].accept(new[0].bodies[0]) == b"x"
    assert two.drops(variant="main", reason="lost") == 1
    assert second[0].accept(old[0].bodies[1]) is None
    assert two.drops(variant="main", reason="duplicate") == 1


def test_the_same_life_dialing_again_replaces_its_pair():
    """A lane that opens a second time means the sibling gave the old pair up."""
    side = Side(0)
    old, _ = side.meet(seat(1))
    side.meet(seat(1))
    assert [carrier.was_cut for carrier in old] == [True, True]
    assert side.core.take_events() == [SiblingUp(1, 1), SiblingDown(1, 1), SiblingUp(1, 1)]


@pytest.mark.contract("SHD-10")
@pytest.mark.parametrize("lane", Lane)
def test_a_refused_send_is_counted_and_uses_no_number(lane):
    """Full is counted in its lane, and the next frame that fits has the next number."""
    side = Side(0)
    carriers, _ = side.meet(seat(1))
    carriers[lane].outcome = Sent.FULL
    assert side.core.send(1, b"m", lane) is Sent.FULL
    assert side.drops(variant=lane.name.lower(), reason="full") == 1
    carriers[lane].outcome = Sent.ACCEPTED
    assert side.core.send(1, b"m", lane) is Sent.ACCEPTED
    assert carriers[lane].bodies == [encode_message(BusFrame(0, 1, 1, 1, 1, b"m"))]
    assert side.drops() == 1


@pytest.mark.contract("SHD-10")
@pytest.mark.parametrize(
    ("shard", "reason"), [(1, "disconnected"), (0, "unroutable"), (9, "unroutable")]
)
def test_a_send_to_nobody_is_counted(shard, reason):
    """A sibling that is not up is disconnected; myself or no shard at all is unroutable."""
    side = Side(0)
    assert side.core.send(shard, b"m", Lane.MAIN) is Sent.DISCONNECTED
    assert side.drops(variant="main", reason=reason) == 1


def test_a_message_too_large_for_a_frame_is_an_error_of_the_caller():
    """The largest message fits the receiver's limit; one byte more is refused by name."""
    side = Side(255, 2**63, shards=256)
    carriers, streams = side.meet(seat(254, 2**63))
    streams[0].sent = 2**63
    assert side.core.send(254, bytes(MAX_FRAME), Lane.MAIN) is Sent.ACCEPTED
    assert len(carriers[0].bodies[0]) <= MAX_BUS_FRAME
    with pytest.raises(NotEncodable, match="in parts"):
        side.core.send(254, bytes(MAX_FRAME + 1), Lane.MAIN)
    assert side.drops() == 0


def test_close_cuts_everybody():
    """A shard that stops tells its observers that every sibling is down."""
    side = Side(0)
    all_carriers = [side.meet(seat(shard))[0] for shard in (1, 2)]
    side.core.take_events()
    side.core.close()
    assert side.core.take_events() == [SiblingDown(1, 1), SiblingDown(2, 1)]
    assert all(carrier.was_cut for pair in all_carriers for carrier in pair)
    assert side.core.up() == ()

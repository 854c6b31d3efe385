"""One connection of the bus and its dialer, over memory and a clock of the test."""

from __future__ import annotations

import pytest
from twisted.internet.address import UNIXAddress
from twisted.internet.error import ConnectionAborted, ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from meshsvc.counters import Counters
from meshsvc.shards.bus import Lane, Seat
from meshsvc.shards.protocol import GREETING_S, BusConnection
from meshsvc.shards.service import MAX_STRANGERS, BusService
from meshsvc.wire.frames import FrameBuffer, pack
from meshsvc.wire.messages import BusFrame, Bye, Ping
from meshsvc.wire.registry import Role, decode_message, encode_message

pytestmark = pytest.mark.contract("SHD-4")

NODE = "a" * 32
ME, SIBLING = Seat(NODE, 7, 1, 1), Seat(NODE, 7, 0, 4)


class Heard:
    """An observer that keeps everything in one list."""

    def __init__(self):
        self.all = []

    def shard_up(self, shard, incarnation):
        self.all.append(("up", shard, incarnation))

    def shard_down(self, shard, incarnation):
        self.all.append(("down", shard, incarnation))

    def received(self, shard, incarnation, message):
        self.all.append((shard, message.number))


class Transport(StringTransport):
    """A transport in memory that tells the protocol when it is aborted."""

    protocol = None

    def abortConnection(self):
        if self.protocol is not None:
            protocol, self.protocol = self.protocol, None
            protocol.connectionLost(Failure(ConnectionAborted()))

    def loseConnection(self):
        self.abortConnection()

    def said(self):
        """The messages written so far."""
        bodies = FrameBuffer(2**20).feed(self.value())
        self.clear()
        return [decode_message(body, Role.SHARD) for body in bodies]


class World:
    """Shard 1 of 2 in a reactor of its own, which has dialed shard 0."""

    def __init__(self, tmp_path):
        self.reactor = MemoryReactorClock()
        self.counters = Counters()
        self.heard = Heard()
        self.bus = BusService(self.reactor, str(tmp_path), ME, 2, self.counters)
        self.bus.add_observer(self.heard)
        self.bus.startService()

    def dials(self):
        """The factories of the dials so far."""
        return [client[1] for client in self.reactor.unixClients]

    def answer(self, factory):
        """Connect a dial; returns protocol and transport."""
        return self.wire(factory.buildProtocol(None))

    def accept(self):
        """Connect to the bus from outside."""
        return self.wire(BusConnection(self.reactor, self.bus, None))

    def wire(self, protocol):
        transport = Transport(UNIXAddress(b"bus"))
        transport.protocol = protocol
        protocol.makeConnection(transport)
        self.reactor.advance(0)
        return protocol, transport

    def refuse(self, factory):
        """Fail a dial."""
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))


@pytest.fixture
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("bus"))


def message(value):
    return pack(encode_message(value))


def frame(seq):
    return message(BusFrame(0, 4, 1, 1, seq, encode_message(Ping(seq))))


def test_frames_before_the_other_lane_is_open_are_held(world):
    """No more is read of a lane that is early, and up is told before the first message."""
    (main, main_wire), (replies, _) = map(world.answer, world.dials())
    main.dataReceived(message(SIBLING.hello(Lane.MAIN)) + frame(1) + frame(2))
    assert world.heard.all == []
    assert main_wire.producerState == "paused"
    replies.dataReceived(message(SIBLING.hello(Lane.REPLIES)))
    assert world.heard.all == [("up", 0, 4), (0, 1), (0, 2)]
    assert main_wire.producerState == "producing"
    main.dataReceived(frame(3))
    assert world.heard.all[-1] == (0, 3)
    assert world.counters.total("frame_drops_total") == 0


def test_a_held_frame_that_is_malformed_ends_the_pair(world):
    """It is counted by its reason, after up, and the pair is dialed again."""
    (main, _), (replies, _) = map(world.answer, world.dials())
    main.dataReceived(message(SIBLING.hello(Lane.MAIN)) + message(Ping(1)))
    replies.dataReceived(message(SIBLING.hello(Lane.REPLIES)))
    assert world.heard.all == [("up", 0, 4), ("down", 0, 4)]
    assert world.counters.total("frame_drops_total", variant="main", reason="malformed") == 1
    world.reactor.advance(1)
    assert len(world.dials()) == 4


def test_both_sides_say_hello_once(world):
    """The dialer unasked; the acceptor only after a hello it accepts."""
    wires = [world.answer(factory)[1] for factory in world.dials()]
    assert [wire.said() for wire in wires] == [[ME.hello(lane)] for lane in Lane]
    stranger, wire = world.accept()
    assert wire.said() == []
    stranger.dataReceived(message(Ping(1)))
    assert wire.said() == []
    assert wire.protocol is None


def test_who_says_no_hello_in_time_is_cut(world):
    """A silent connection, accepted or dialed, lasts five seconds."""
    _, accepted = world.accept()
    _, dialed = world.answer(world.dials()[0])
    world.reactor.advance(GREETING_S - 0.01)
    assert accepted.protocol is not None
    assert dialed.protocol is not None
    world.reactor.advance(0.02)
    assert accepted.protocol is None
    assert dialed.protocol is None


def test_strangers_are_bounded(world):
    """One connection too many without a hello costs the oldest of them its place."""
    wires = [world.accept()[1] for _ in range(MAX_STRANGERS + 1)]
    assert [wire.protocol is None for wire in wires] == [True] + [False] * MAX_STRANGERS


@pytest.mark.parametrize("wrong", [Seat(NODE, 7, 0, 4).hello(Lane.REPLIES), ME.hello(Lane.MAIN)])
def test_an_answer_from_somebody_else_is_refused(world, wrong):
    """The lane and shard that were dialed must answer."""
    main, wire = world.answer(world.dials()[0])
    wire.said()
    main.dataReceived(message(wrong))
    (refusal,) = wire.said()
    assert isinstance(refusal, Bye)
    assert refusal.reason == "wrong-sibling"


def test_a_refused_dial_is_repeated_with_growing_delays(world):
    """50 ms, doubled up to a second, both lanes each time; a success starts again."""
    delays, known = [], 0
    for _ in range(7):
        fresh, known = world.dials()[known:], len(world.dials())
        assert len(fresh) == 2
        world.refuse(fresh[0])
        began = world.reactor.seconds()
        while len(world.dials()) == known:
            world.reactor.advance(0.01)
        delays.append(round(world.reactor.seconds() - began, 2))
    assert delays == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0], abs=0.011)


def test_losing_one_lane_of_a_pair_in_the_making_ends_the_other(world):
    """Half a pair is never kept."""
    (_, main), (_, replies) = map(world.answer, world.dials())
    main.abortConnection()
    assert replies.protocol is None
    world.reactor.advance(0.06)
    assert len(world.dials()) == 4


def test_stop_leaves_no_timer_and_no_connection(world):
    """Whatever the phase: waiting to redial, dialing, greeting or up."""
    for factory in world.dials():
        world.answer(factory)
    world.accept()
    stopped = []
    world.bus.stopService().addCallback(stopped.append)
    world.reactor.advance(0)
    assert stopped == [None]
    assert world.reactor.getDelayedCalls() == []


def test_stop_while_waiting_to_redial(world):
    """The wait is given up."""
    world.refuse(world.dials()[0])
    world.bus.stopService()
    assert world.reactor.getDelayedCalls() == []

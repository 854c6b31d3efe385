"""The bus over real Unix sockets: up, messages, replacement, kill, flood, refusals."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import sys
import tempfile

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ProcessTerminated
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.internet.task import deferLater

from meshsvc.counters import Counters
from meshsvc.errors import StartError
from meshsvc.link.protocol import FramedProtocol
from meshsvc.model import Sent
from meshsvc.shards.bus import MAX_LANE_BYTES, MAX_LANE_FRAMES, Lane, Seat
from meshsvc.shards.service import BusService, socket_path
from meshsvc.wire.messages import BusFrame, BusHello, Bye, Envelope, Ping
from meshsvc.wire.registry import Role, decode_message, encode_message

pytestmark = pytest.mark.contract("SHD-4")

NODE = "a" * 32
PATIENCE_S = 20
"""How long a test waits for what should take milliseconds: the machine may be busy."""


class Recorder:
    """An observer that keeps everything, and fires Deferreds when a condition holds."""

    def __init__(self):
        self.events = []
        self.messages = []
        self._waiting = []

    def shard_up(self, shard, incarnation):
        self._note(self.events, ("up", shard, incarnation))

    def shard_down(self, shard, incarnation):
        self._note(self.events, ("down", shard, incarnation))

    def received(self, shard, incarnation, message):
        self._note(self.messages, (shard, incarnation, message))

    def _note(self, where, what):
        where.append(what)
        for condition, done in list(self._waiting):
            if not done.called and condition():
                done.callback(None)

    def until(self, condition):
        """Fires when the condition holds, which is looked at after each event."""
        done = Deferred()
        if condition():
            done.callback(None)
        else:
            self._waiting.append((condition, done))
        return done.addTimeout(PATIENCE_S, reactor)


class Bus(BusService):
    """A BusService with a recorder and its counters at hand."""

    def __init__(self, run_dir, shard, incarnation=1, shards=3):
        self.heard = Recorder()
        seat = Seat(NODE, 7, shard, incarnation)
        super().__init__(reactor, run_dir, seat, shards, Counters())
        self.add_observer(self.heard)

    def drops(self, **labels):
        return self.counters.total("frame_drops_total", **labels)

    def is_up(self, *others):
        return self.heard.until(
            lambda: all(("up", *other) in self.heard.events for other in others)
        )

    def is_down(self, *other):
        return self.heard.until(lambda: ("down", *other) in self.heard.events)

    def has_messages(self, count):
        return self.heard.until(lambda: len(self.heard.messages) >= count)


class RawLane(FramedProtocol):
    """A hand-driven end of one lane, as a sibling's process would hold it."""

    def __init__(self, hello):
        super().__init__(reactor)
        self.hello = hello
        self.bodies = []
        self.greeted, self.gone, self.framed = Deferred(), Deferred(), Deferred()

    def connected_to_peer(self):
        self.send(self.hello)

    def body_received(self, body):
        message = decode_message(body, Role.SHARD)
        self.bodies.append(message)
        if isinstance(message, BusFrame):
            if not self.framed.called:
                self.framed.callback(message)
        else:
            self.greeted.callback(message)

    def ended(self, reason, text):
        self.gone.callback(reason)


def raw_lane(run_dir, to, lane, shard=1, **changes):
    """Connect to a shard's socket as shard 1; the Deferred gives the RawLane."""
    fields = {"version": 1, "node_id": NODE, "node_incarnation": 7}
    fields |= {"shard": shard, "incarnation": 1, "lane": lane}
    hello = BusHello(**{**fields, **changes})
    factory = Factory.forProtocol(lambda: RawLane(hello))
    factory.noisy = False
    endpoint = UNIXClientEndpoint(reactor, socket_path(run_dir, to))
    return endpoint.connect(factory)


def big(size):
    """An encoded message of at least this many bytes."""
    return encode_message(Envelope(NODE, 0, 1, NODE, 1, 1, 1, 1, 1, 1, bytes(size)))


def turn():
    """One turn of the reactor."""
    return deferLater(reactor, 0, lambda: None)


@pytest.fixture
def run_dir():
    """A private directory with a short path, as Unix sockets need."""
    path = tempfile.mkdtemp(prefix="bus-")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(run_dir):
    """Starts buses of a node; all are stopped when the test ends."""
    started = []

    def starter(shard, incarnation=1, shards=3):
        bus = Bus(run_dir, shard, incarnation, shards)
        bus.startService()
        started.append(bus)
        return bus

    yield starter
    stopping = gatherResults([bus.stopService() for bus in started if bus.running])
    pytest_twisted.blockon(stopping)


@pytest_twisted.inlineCallbacks
def test_three_shards_find_each_other_in_any_order(start):
    """Every pair comes up, with the life of each, though the dialer may start first."""
    two, zero, one = start(2, 12), start(0, 10), start(1, 11)
    yield two.is_up((0, 10), (1, 11))
    yield zero.is_up((1, 11), (2, 12))
    yield one.is_up((0, 10), (2, 12))
    assert sorted(zero.siblings()) == [(1, 11), (2, 12)]


@pytest_twisted.inlineCallbacks
def test_the_socket_is_private_and_goes_with_the_service(start, run_dir):
    """Nobody else may connect, and a stopped shard leaves nothing behind."""
    zero = start(0)
    path = socket_path(run_dir, 0)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    yield zero.stopService()
    assert os.listdir(run_dir) == []


@pytest.mark.contract("SHD-10")
@pytest_twisted.inlineCallbacks
def test_fault_free_traffic_is_in_order_and_drops_nothing(start):
    """Each lane of each pair delivers everything, in order, and no drop is counted."""
    buses = [start(shard) for shard in range(3)]
    for bus in buses:
        yield bus.is_up(*((other, 1) for other in range(3) if other != bus.seat.shard))
    rounds, count = 4, 500
    for _ in range(rounds):
        sent = len(buses[0].heard.messages)
        for bus in buses:
            for number in range(count):
                for other in range(3):
                    if other != bus.seat.shard:
                        lane = number % 2
                        assert bus.send(other, Ping(number), lane) is Sent.ACCEPTED
        for bus in buses:
            yield bus.has_messages(sent + 2 * count)
    for bus in buses:
        for other in {0, 1, 2} - {bus.seat.shard}:
            numbers = [m.number for shard, _, m in bus.heard.messages if shard == other]
            for lane in Lane:
                in_lane = [number for number in numbers if number % 2 == lane]
                assert in_lane == list(range(lane, count, 2)) * rounds
        assert bus.drops() == 0


@pytest_twisted.inlineCallbacks
def test_a_broadcast_reaches_all_who_are_up(start):
    """The same message goes to every sibling once; those that are not up are left out."""
    zero = start(0)
    assert zero.broadcast(Ping(0)) == {}
    one, two = start(1), start(2)
    yield zero.is_up((1, 1), (2, 1))
    assert zero.broadcast(Ping(5)) == {1: Sent.ACCEPTED, 2: Sent.ACCEPTED}
    for bus in (one, two):
        yield bus.has_messages(1)
        assert bus.heard.messages == [(0, 1, Ping(5))]
    assert zero.drops() == 0


@pytest_twisted.inlineCallbacks
def test_messages_sent_on_shard_up_arrive_after_the_others_shard_up(start):
    """What an acceptor says at once is held until the dialer has both lanes."""

    class Eager(Recorder):
        def shard_up(self, shard, incarnation):
            for number in range(100):
                assert zero.send(shard, Ping(number), number % 2) is Sent.ACCEPTED

    zero = start(0)
    zero.add_observer(Eager())
    one = start(1)
    order = []
    one.heard._note = lambda _, what, note=one.heard._note: (order.append(what), note(_, what))
    yield one.has_messages(100)
    assert order[0] == ("up", 0, 1)
    for lane in Lane:
        numbers = [m.number for _, _, m in one.heard.messages if m.number % 2 == lane]
        assert numbers == list(range(lane, 100, 2))


@pytest_twisted.inlineCallbacks
def test_a_restarted_shard_replaces_its_earlier_life(start):
    """Down of the old life, up of the new one, and messages flow to it."""
    zero, one, two = start(0), start(1), start(2)
    yield zero.is_up((1, 1), (2, 1))
    yield two.is_up((1, 1))
    yield one.stopService()
    one = start(1, 2)
    for bus in (zero, two):
        yield bus.is_up((1, 2))
        mine = [event for event in bus.heard.events if event[1] == 1]
        assert mine == [("up", 1, 1), ("down", 1, 1), ("up", 1, 2)]
        assert bus.send(1, Ping(bus.seat.shard)) is Sent.ACCEPTED
    yield one.has_messages(2)
    assert {m.number for _, _, m in one.heard.messages} == {0, 2}
    assert ("down", 2, 1) not in zero.heard.events


@pytest_twisted.inlineCallbacks
def test_a_higher_life_takes_over_while_the_lower_is_connected(start, run_dir):
    """The old connections are cut by this side; a straggler of the old life is refused."""
    zero = start(0)
    old = yield gatherResults([raw_lane(run_dir, 0, lane) for lane in Lane])
    yield zero.is_up((1, 1))
    new = yield gatherResults([raw_lane(run_dir, 0, lane, incarnation=2) for lane in Lane])
    yield zero.is_up((1, 2))
    yield gatherResults([lane.gone for lane in old])
    assert zero.heard.events == [("up", 1, 1), ("down", 1, 1), ("up", 1, 2)]
    late = yield raw_lane(run_dir, 0, Lane.MAIN)
    refusal = yield late.greeted
    assert isinstance(refusal, Bye)
    assert refusal.reason == "stale"
    yield late.gone
    assert zero.siblings() == ((1, 2),)
    for lane in new:
        lane.abort()
    yield zero.is_down(1, 2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 2}, "version"),
        ({"node_id": "b" * 32}, "wrong-node"),
        ({"node_incarnation": 6}, "wrong-life"),
        ({"shard": 9}, "no-sibling"),
        ({"lane": 7}, "lane"),
    ],
)
@pytest_twisted.inlineCallbacks
def test_a_stranger_is_refused_by_name(start, run_dir, changes, reason):
    """The refusal says why, is counted, and the shard goes on."""
    zero = start(0)
    lane = yield raw_lane(run_dir, 0, **{"lane": Lane.MAIN, **changes})
    refusal = yield lane.greeted
    assert isinstance(refusal, Bye)
    assert refusal.reason == reason
    yield lane.gone
    assert zero.counters.total("bus_refusals_total", reason=reason) == 1
    assert zero.heard.events == []


@pytest.mark.contract("SHD-10")
@pytest_twisted.inlineCallbacks
def test_stale_and_misaddressed_frames_over_a_socket_are_dropped(start, run_dir):
    """They are counted in their lane and the connection stays."""
    zero = start(0)
    main, replies = yield gatherResults([raw_lane(run_dir, 0, lane) for lane in Lane])
    yield zero.is_up((1, 1))
    body = encode_message(Ping(4))
    main.send(BusFrame(1, 1, 0, 9, 1, body))
    main.send(BusFrame(1, 1, 2, 1, 1, body))
    replies.send(BusFrame(1, 8, 0, 1, 1, body))
    main.send(BusFrame(1, 1, 0, 1, 1, body))
    replies.send(BusFrame(1, 1, 0, 1, 1, body))
    yield zero.has_messages(2)
    assert zero.heard.messages == [(1, 1, Ping(4))] * 2
    assert zero.drops(variant="main", reason="stale") == 1
    assert zero.drops(variant="main", reason="misrouted") == 1
    assert zero.drops(variant="replies", reason="stale") == 1
    assert zero.drops() == 3
    main.abort()
    yield zero.is_down(1, 1)


@pytest.mark.contract("SHD-10")
@pytest.mark.parametrize(
    "inner", [b"\xff", encode_message(Ping(1))[:-1] + b"\xf6", b"\x81\x18\xc8"]
)
@pytest_twisted.inlineCallbacks
def test_a_message_that_cannot_be_read_ends_the_pair(start, run_dir, inner):
    """It is counted by its reason, both lanes end, and the shard goes on."""
    zero = start(0)
    lanes = yield gatherResults([raw_lane(run_dir, 0, lane) for lane in Lane])
    yield zero.is_up((1, 1))
    lanes[0].send(BusFrame(1, 1, 0, 1, 1, inner))
    yield gatherResults([lane.gone for lane in lanes])
    yield zero.is_down(1, 1)
    assert zero.drops(variant="main") == zero.drops() == 1
    one = start(1)
    yield zero.heard.until(lambda: zero.heard.events[-1] == ("up", 1, 1))
    yield one.is_up((0, 1))


@pytest.mark.contract("SHD-10")
@pytest.mark.parametrize(
    ("size", "most"),
    [(100_000, MAX_LANE_BYTES // 100_000), (10, MAX_LANE_FRAMES)],
    ids=["bytes", "frames"],
)
@pytest_twisted.inlineCallbacks
def test_a_flooded_main_lane_is_bounded_and_replies_flow(start, run_dir, size, most):
    """A sibling that does not read main: bounded memory, replies arrive, all else is counted."""
    zero = start(0)
    main, replies = yield gatherResults([raw_lane(run_dir, 0, lane) for lane in Lane])
    yield gatherResults([main.greeted, replies.greeted])
    main.transport.pauseProducing()
    yield zero.is_up((1, 1))
    body, accepted, refused = big(size), 0, 0
    for _ in range(20):
        for _ in range(1500):
            sent = zero.send_body(1, body, Lane.MAIN)
            assert sent in (Sent.ACCEPTED, Sent.FULL)
            accepted += sent is Sent.ACCEPTED
            refused += sent is Sent.FULL
        yield turn()
    # Beyond the outbox: one write above the transport's own buffer, and the kernel's.
    beyond = 1024 * 1024
    assert most - 1 <= accepted <= most + beyond // size
    assert refused == 20 * 1500 - accepted > 0
    assert zero.drops(variant="main", reason="full") == zero.drops() == refused

    assert zero.send(1, Ping(77), Lane.REPLIES) is Sent.ACCEPTED
    frame = yield replies.framed.addTimeout(PATIENCE_S, reactor)
    assert decode_message(frame.body, Role.SHARD) == Ping(77)
    replies.send(BusFrame(1, 1, 0, 1, 1, encode_message(Ping(78))))
    yield zero.has_messages(1)
    assert zero.drops(variant="replies") == 0

    main.abort()
    yield zero.is_down(1, 1)
    unsent = zero.drops(variant="main", reason="disconnected")
    assert most - 1 <= unsent <= most
    assert (accepted - unsent) * size <= beyond
    assert zero.send(1, Ping(1), Lane.MAIN) is Sent.DISCONNECTED
    assert zero.drops(variant="main", reason="disconnected") == unsent + 1


CHILD = """
import sys
from twisted.internet import reactor
from meshsvc.counters import Counters
from meshsvc.shards.bus import Seat
from meshsvc.shards.service import BusService

class Echo:
    def shard_up(self, shard, incarnation): pass
    def shard_down(self, shard, incarnation): pass
    def received(self, shard, incarnation, message): bus.send(shard, message, 1)

run_dir, shard, incarnation = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
bus = BusService(reactor, run_dir, Seat("a" * 32, 7, shard, incarnation), 3, Counters())
bus.add_observer(Echo())
bus.startService()
reactor.run()
"""


class Child(ProcessProtocol):
    """A shard in a process of its own, which echoes every message in the replies lane."""

    def __init__(self, run_dir, shard, incarnation):
        self.gone = Deferred()
        self.errors = b""
        argv = [sys.executable, "-c", CHILD, run_dir, str(shard), str(incarnation)]
        reactor.spawnProcess(self, sys.executable, argv, env=dict(os.environ))

    def errReceived(self, data):
        self.errors += data

    def processEnded(self, reason):
        self.gone.callback(reason.value)

    def signal(self, number):
        self.transport.signalProcess(number)


@pytest.mark.contract("SHD-10")
@pytest_twisted.inlineCallbacks
def test_a_killed_shard_is_down_at_once_and_comes_back(start, run_dir):
    """kill -9 is seen by every sibling, which reconnect to the next life by themselves."""
    zero, two = start(0), start(2)
    children = [Child(run_dir, 1, 1)]
    try:
        yield zero.is_up((1, 1))
        yield two.is_up((1, 1))
        zero.send(1, Ping(3))
        yield zero.has_messages(1)
        assert zero.heard.messages == [(1, 1, Ping(3))]
        children[0].signal(signal.SIGKILL)
        yield gatherResults([bus.is_down(1, 1) for bus in (zero, two)])
        reason = yield children[0].gone
        assert isinstance(reason, ProcessTerminated)
        assert reason.signal == signal.SIGKILL
        assert zero.send(1, Ping(4)) is Sent.DISCONNECTED
        assert zero.drops(variant="main", reason="disconnected") == zero.drops() == 1
        # Its socket is still there, and is replaced.
        assert os.path.exists(socket_path(run_dir, 1))
        children.append(Child(run_dir, 1, 2))
        yield gatherResults([bus.is_up((1, 2)) for bus in (zero, two)])
        two.send(1, Ping(5))
        yield two.has_messages(1)
        assert two.heard.messages == [(1, 2, Ping(5))]
    finally:
        if not children[-1].gone.called:
            children[-1].signal(signal.SIGKILL)
            yield children[-1].gone


@pytest.mark.contract("SHD-10")
@pytest_twisted.inlineCallbacks
def test_a_stopped_process_costs_bounded_memory_and_nobody_else(start, run_dir):
    """SIGSTOP: both lanes fill to their bounds, others are served; SIGCONT: it all arrives."""
    zero, two = start(0), start(2)
    child = Child(run_dir, 1, 1)
    try:
        yield zero.is_up((1, 1), (2, 1))
        child.signal(signal.SIGSTOP)
        # Large enough that few are under way at once when the echoes come back.
        body, accepted = big(2000), 0
        for _ in range(20):
            for _ in range(1500):
                accepted += zero.send_body(1, body) is Sent.ACCEPTED
            zero.send(2, Ping(9))
            yield turn()
        assert zero.drops(variant="main", reason="full") == zero.drops() == 20 * 1500 - accepted
        yield two.has_messages(20)
        child.signal(signal.SIGCONT)
        yield zero.has_messages(accepted)
        assert len(zero.heard.messages) == accepted
        assert sorted(zero.heard.events) == [("up", 1, 1), ("up", 2, 1)]
        assert zero.drops(variant="replies") == zero.drops(reason="lost") == 0
    finally:
        child.signal(signal.SIGKILL)
        yield child.gone


def test_a_run_dir_that_is_too_long_is_named(run_dir):
    """The error says which setting to change, before anything is bound."""
    long_dir = os.path.join(run_dir, "x" * 90)
    with pytest.raises(StartError, match=r"run_dir .* is too long") as caught:
        Bus(long_dir, 0)
    assert caught.value.exit_code == 78
    assert len(socket_path("/" + "x" * 95, 0)) == 107
    with pytest.raises(StartError):
        socket_path("/" + "x" * 96, 0)


@pytest.mark.parametrize("what", ["file", "nothing"])
def test_a_path_that_cannot_be_bound_is_a_start_error(run_dir, what):
    """A missing run directory, or a file that is no socket, is named and left alone."""
    folder = run_dir if what == "file" else os.path.join(run_dir, "missing")
    if what == "file":
        with open(socket_path(run_dir, 0), "w", encoding="utf-8") as stream:
            stream.write("mine")
    with pytest.raises(StartError, match="shard 0 cannot listen at") as caught:
        Bus(folder, 0).startService()
    assert caught.value.exit_code == 73
    if what == "file":
        with open(socket_path(run_dir, 0), encoding="utf-8") as stream:
            assert stream.read() == "mine"


@pytest_twisted.inlineCallbacks
def test_a_stale_socket_is_replaced(start, run_dir):
    """What a killed life left behind does not stop the next one."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(socket_path(run_dir, 0))
    left.close()
    zero, _ = start(0, 2), start(1)
    yield zero.is_up((1, 1))


@pytest_twisted.inlineCallbacks
def test_observers_that_raise_stop_nobody(start, logged_errors):
    """The failure is logged; the other observers and the bus go on."""

    class Broken:
        def shard_up(self, shard, incarnation):
            raise ZeroDivisionError

        shard_down = shard_up

        def received(self, shard, incarnation, message):
            raise ZeroDivisionError

    zero, one = start(0), start(1)
    zero._observers.insert(0, Broken())
    yield zero.is_up((1, 1))
    yield one.is_up((0, 1))
    one.send(0, Ping(1))
    one.send(0, Ping(2))
    yield zero.has_messages(2)
    yield one.stopService()
    yield zero.is_down(1, 1)
    assert len(logged_errors.flush(ZeroDivisionError)) == 4


@pytest_twisted.inlineCallbacks
def test_what_was_queued_before_stop_arrives(start):
    """A stopping shard gives its last frames a second to leave."""
    zero, one = start(0), start(1)
    yield one.is_up((0, 1))
    yield zero.is_up((1, 1))
    for number in range(1000):
        assert one.send(0, Ping(number)) is Sent.ACCEPTED
    yield one.stopService()
    yield zero.is_down(1, 1)
    assert [m.number for _, _, m in zero.heard.messages] == list(range(1000))
    assert one.send(0, Ping(0)) is Sent.DISCONNECTED
    assert one.drops(variant="main", reason="disconnected") == one.drops() == 1

"""Simulated streams keep to what TCP and Twisted's transports promise, and fail as they do."""

from __future__ import annotations

from random import Random

import pytest
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import (
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    TCPTimedOutError,
)
from twisted.internet.protocol import Factory, Protocol

from meshsvc.sim.clock import Skew, Time
from meshsvc.sim.network import Network, SimReactor
from meshsvc.sim.weather import Weather


class Peer(Protocol):
    def __init__(self):
        self.got, self.lost, self.paused = b"", None, []

    def dataReceived(self, data):
        self.got += data

    def connectionLost(self, reason):
        self.lost = reason.type

    def pauseProducing(self):
        self.paused.append(True)

    def resumeProducing(self):
        self.paused.append(False)

    def stopProducing(self):
        pass


class Pair:
    """Two hosts, a and b; b listens."""

    def __init__(self, weather=None, seed=1):
        self.time = Time()
        self.net = Network(self.time, Random(seed), lambda *_: None, weather or Weather())
        self.a, self.b = (SimReactor(self.net, self.net.host(h), Skew()) for h in ("a", "b"))
        self.served = []
        self.failure = None
        self.client = None

    def listen(self):
        def build():
            self.served.append(Peer())
            return self.served[-1]

        self.b.listenTCP(7, Factory.forProtocol(build))
        return self

    def dial(self, timeout=5):
        dialed = TCP4ClientEndpoint(self.a, "b", 7, timeout).connect(Factory.forProtocol(Peer))
        dialed.addCallbacks(self._made, self._failed)
        return self

    def _made(self, peer):
        self.client = peer

    def _failed(self, failure):
        self.failure = failure.type

    def run(self, seconds=1.0):
        self.time.run_until(self.time.now + seconds)
        return self


def linked(**changes):
    pair = Pair(**changes).listen().dial().run()
    assert pair.client
    assert pair.served
    return pair


def test_bytes_arrive_in_order_whatever_the_weather():
    """Loss, jitter and delay change when bytes arrive, not which nor their order."""
    pair = linked(weather=Weather(0.02, 0.5, loss=0.4))
    pair.run(20)
    sent = b""
    for number in range(300):
        sent += b"%d;" % number
        pair.client.transport.write(b"%d;" % number)
        pair.run(0.01)
    pair.run(300)
    assert pair.served[0].got == sent


def test_closing_sends_what_was_written_first():
    """loseConnection delivers everything, and both sides hear of a clean end."""
    pair = linked()
    pair.client.transport.write(b"x" * 1_000_000)
    pair.client.transport.loseConnection()
    pair.run()
    assert len(pair.served[0].got) == 1_000_000
    assert (pair.client.lost, pair.served[0].lost) == (ConnectionDone, ConnectionDone)
    assert not pair.net.ends()


def test_aborting_loses_what_was_on_the_way():
    """abortConnection resets the other side."""
    pair = linked()
    pair.client.transport.write(b"gone")
    pair.client.transport.abortConnection()
    pair.run()
    assert pair.served[0].lost is ConnectionLost
    assert pair.served[0].got == b""


def test_a_reader_that_does_not_read_pauses_the_writer():
    """The producer is paused when the buffers are full, and resumed when they have drained."""
    pair = linked()
    pair.served[0].transport.pauseProducing()
    pair.client.transport.registerProducer(pair.client, True)
    for _ in range(10):
        pair.client.transport.write(b"x" * 65536)
    pair.run()
    assert pair.client.paused == [True]
    pair.served[0].transport.resumeProducing()
    pair.run()
    assert pair.client.paused == [True, False]
    assert len(pair.served[0].got) == 10 * 65536


def test_dials_are_refused_or_vanish():
    """Nobody listens: refused at once. Nobody is there, or nothing passes: the time-out."""
    assert Pair().dial().run().failure is ConnectionRefusedError
    off = Pair().listen()
    off.net.host("b").up = False
    assert off.dial().run(6).failure is TCPTimedOutError
    blocked = Pair().listen()
    blocked.net.sky.block("b", "a")
    assert blocked.dial().run(6).failure is TCPTimedOutError


@pytest.mark.parametrize("direction", [("a", "b"), ("b", "a")])
def test_a_one_way_partition_stalls_one_way(direction):
    """What is sent into a block arrives after it ends; the other direction goes on."""
    pair = linked()
    pair.net.sky.block(*direction)
    pair.client.transport.write(b"there")
    pair.served[0].transport.write(b"back")
    pair.run(3)
    assert (pair.served[0].got, pair.client.got) == (
        (b"", b"back") if direction == ("a", "b") else (b"there", b"")
    )
    pair.net.sky.clear()
    pair.run(10)
    assert (pair.served[0].got, pair.client.got) == (b"there", b"back")


def test_a_killed_process_closes_and_a_dead_host_does_not():
    """kill -9 is seen by the peer at once; a power cut only when it writes to what came back."""
    killed = linked()
    killed.b.end()
    killed.run()
    assert killed.client.lost is ConnectionDone
    off = linked()
    off.net.host("b").up = False
    off.b.end()
    off.client.transport.write(b"hello?")
    off.run(30)
    assert off.client.lost is None


def test_a_half_open_connection_is_reset_when_it_is_written_to():
    """One side forgot the connection: the other learns of it from the answer to a write."""
    pair = linked()
    pair.served[0].transport.break_silently()
    pair.run(5)
    assert (pair.served[0].lost, pair.client.lost) == (ConnectionLost, None)
    pair.client.transport.write(b"x")
    pair.run()
    assert pair.client.lost is ConnectionLost


def test_a_clog_holds_everything_until_its_end():
    """Nothing sent during a clog arrives before it ends."""
    pair = linked()
    pair.net.sky.clog("a", "b", pair.time.now + 3)
    pair.client.transport.write(b"x")
    assert pair.run(2.9).served[0].got == b""
    assert pair.run(0.2).served[0].got == b"x"


def test_datagrams_are_lost_doubled_and_reordered():
    """Of many packets some are lost, some come twice, some overtake others."""
    pair = Pair(Weather(0.01, 0.001, loss=0.2, duplicate=0.2, reorder=0.2))
    seen = []
    for number in range(500):
        pair.net.datagram("a", pair.b, "b", seen.append, number)
        pair.run(0.003)
    pair.run()
    assert 300 < len(set(seen)) < 500
    assert len(seen) > len(set(seen))
    assert seen != sorted(seen)

"""TurnProtocol and FramedProtocol: one write a turn, bounded buffers, a clean end."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from meshsvc.errors import WireError
from meshsvc.link.protocol import CLOSE_S, WRITE_BYTES, FramedProtocol
from meshsvc.model import Sent
from meshsvc.wire.frames import pack
from meshsvc.wire.messages import Bye, Ping
from meshsvc.wire.registry import encode_message


class Transport(StringTransport):
    """Counts writes, and stops taking them above 64 KiB as a socket's transport does."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.waiting = 0

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self.waiting += len(data)
        if self.waiting > 65536 and self.producer is not None:
            self.producer.pauseProducing()

    def drain(self) -> None:
        """The peer reads all there is."""
        self.waiting = 0
        if self.producer is not None:
            self.producer.resumeProducing()


class Stream(FramedProtocol):
    """Keeps what it is told."""

    def __init__(self, clock: Clock, **bounds: int) -> None:
        super().__init__(clock, **bounds)
        self.bodies: list[bytes] = []
        self.ends: list[tuple[str, str]] = []

    def body_received(self, body: bytes) -> None:
        if body == b"bad":
            raise WireError("bad")
        if body == b"bug":
            raise ZeroDivisionError
        self.bodies.append(body)

    def ended(self, reason: str, text: str) -> None:
        self.ends.append((reason, text))


def stream(**bounds: int) -> tuple[Clock, Stream, Transport]:
    clock, transport = Clock(), Transport()
    protocol = Stream(clock, **bounds)
    protocol.makeConnection(transport)
    clock.advance(0)
    return clock, protocol, transport


def lose(protocol: Stream) -> None:
    protocol.connectionLost(Failure(ConnectionDone()))


@pytest.mark.contract("WIRE-5")
def test_a_turn_is_one_write() -> None:
    """A thousand bodies sent in a turn leave in one write, at its end."""
    clock, protocol, transport = stream()
    for _ in range(1000):
        assert protocol.send_body(b"x" * 100) is Sent.ACCEPTED
    assert transport.writes == []
    clock.advance(0)
    assert transport.writes == [pack(b"x" * 100) * 1000]
    clock.advance(1)
    assert not clock.getDelayedCalls()


@pytest.mark.contract("WIRE-5")
def test_many_are_decoded_from_one_read() -> None:
    """Every whole frame of a read is delivered, the rest with the next read."""
    _, protocol, _ = stream()
    data = pack(b"a") + pack(b"b") + pack(b"c")
    protocol.dataReceived(data[:-1])
    assert protocol.bodies == [b"a", b"b"]
    protocol.dataReceived(data[-1:])
    assert protocol.bodies == [b"a", b"b", b"c"]


@pytest.mark.contract("LINK-5")
def test_a_reader_that_stops_costs_a_bounded_amount() -> None:
    """The transport holds one write, the outbox its bound; the rest is FULL, and all that was
    accepted arrives in order once the peer reads again."""
    clock, protocol, transport = stream(max_frames=100, max_bytes=2 << 20)
    sent = []
    for number in range(400):
        sent.append(protocol.send_body(struct.pack(">I", number) + b"x" * 20_000))
        clock.advance(0)
    accepted = sent.count(Sent.ACCEPTED)
    assert set(sent) == {Sent.ACCEPTED, Sent.FULL}
    assert protocol.blocked
    assert transport.waiting <= WRITE_BYTES + 65536
    assert protocol.outbox.frames == 100
    assert protocol.outbox.bytes <= 2 << 20
    while protocol.outbox:
        transport.drain()
    data, got = b"".join(transport.writes), Stream(clock)
    got.dataReceived(data)
    assert len(got.bodies) == accepted


def test_a_write_is_of_bounded_size() -> None:
    """A long queue leaves in writes of 256 KiB, each when the one before has left."""
    clock, protocol, transport = stream()
    for _ in range(100):
        protocol.send_body(b"x" * 10_000)
    clock.advance(0)
    assert len(transport.writes) == 1
    assert len(transport.writes[0]) <= WRITE_BYTES
    transport.drain()
    assert len(transport.writes) == 2


def test_urgent_messages_overtake() -> None:
    """A control message leaves before what waits."""
    clock, protocol, transport = stream()
    protocol.send_body(b"data")
    protocol.send_urgent(Ping(1))
    protocol.send(Ping(2))
    clock.advance(0)
    ping = [pack(encode_message(Ping(number))) for number in (1, 2)]
    assert transport.writes == [ping[0] + pack(b"data") + ping[1]]


def test_close_flushes_its_farewell() -> None:
    """What is queued and the last message are written before the transport is closed."""
    clock, protocol, transport = stream()
    protocol.send_body(b"data")
    protocol.close("stopping", "text", Bye("stopping", "text"))
    assert transport.writes == [pack(b"data") + pack(encode_message(Bye("stopping", "text")))]
    assert transport.disconnecting
    assert protocol.send_body(b"more") is Sent.DISCONNECTED
    lose(protocol)
    assert protocol.ends == [("stopping", "text")]
    assert not clock.getDelayedCalls()


def test_close_waits_for_a_slow_reader_but_not_for_ever() -> None:
    """A blocked stream is closed once it has drained, or reset after a second."""
    for drains in (True, False):
        clock, protocol, transport = stream()
        for _ in range(100):
            protocol.send_body(b"x" * 10_000)
        clock.advance(0)
        protocol.close("stopping", "")
        assert not transport.disconnecting
        if drains:
            while protocol.outbox:
                transport.drain()
            transport.drain()
            assert transport.disconnecting
            assert not transport.disconnected
        else:
            clock.advance(CLOSE_S)
            assert transport.disconnected
        lose(protocol)
        assert protocol.ends == [("stopping", "")]
        assert not clock.getDelayedCalls()


@pytest.mark.contract("WIRE-2")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (pack(b"bad"), "malformed"),
        (struct.pack(">I", 2**31), "frame-too-large"),
        (struct.pack(">I", 0), "malformed"),
        (pack(b"bug"), "internal"),
    ],
)
def test_bad_bytes_break_the_stream_off(data: bytes, reason: str, logged_errors: Any) -> None:
    """The stream is reset with a typed reason, nothing behind is taken, nothing is raised."""
    _, protocol, transport = stream()
    protocol.dataReceived(data)
    protocol.dataReceived(pack(b"late"))
    assert transport.disconnected
    assert protocol.bodies == []
    lose(protocol)
    lose(protocol)
    assert [end for end, _ in protocol.ends] == [reason]
    assert len(logged_errors.flush(ZeroDivisionError)) == int(reason == "internal")


def test_nothing_is_sent_before_there_is_a_connection() -> None:
    """send answers DISCONNECTED before and after the transport's life."""
    protocol = Stream(Clock())
    assert protocol.send_body(b"x") is Sent.DISCONNECTED
    assert protocol.send_urgent(Ping(1)) is Sent.DISCONNECTED
    protocol.makeConnection(Transport())
    lose(protocol)
    assert protocol.send_body(b"x") is Sent.DISCONNECTED
    assert protocol.ends == [("lost", "the connection was lost")]
    assert (protocol.outbox.frames, protocol.outbox.bytes) == (0, 0)

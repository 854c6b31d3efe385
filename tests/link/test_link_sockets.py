"""LinkService over real sockets: up, lost, redialed, strangers, a reader that stops."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_twisted
from link_net import CONTROL, DATA, E1, Watcher, envelope, node, roster
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import LoopingCall

from meshsvc.counters import Counters
from meshsvc.link import preface
from meshsvc.link.service import LinkFactory, LinkService
from meshsvc.model import NO_EPOCH, Address, Sent
from meshsvc.wire.messages import ShardGone

PATIENCE_S = 15.0


class Host:
    """A node on a port of the kernel's choice; sockets are adopted as a shard adopts them."""

    def __init__(self, number: int, **changes: Any) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        address = Address("127.0.0.1", self.listener.getsockname()[1])
        self.me = node(number, address=address, **changes)
        self.watcher = Watcher()
        self.links = LinkService(reactor, self.me, Counters(), random.Random(number))
        self.links.add_observer(self.watcher)
        self.links.startService()
        self._accepting = LoopingCall(self._accept)
        self._accepting.start(0.01)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                return
            self.links.adopt(sock)

    def stop(self) -> Any:
        """Stop, and close the port."""
        if self._accepting.running:
            self._accepting.stop()
            self.listener.close()
        return self.links.stopService() if self.links.running else None


@pytest.fixture
def hosts() -> Iterator[Callable[..., Host]]:
    """Makes hosts, and stops them after the test."""
    made: list[Host] = []

    def make(number: int, **changes: Any) -> Host:
        made.append(Host(number, **changes))
        return made[-1]

    yield make
    stopping = [done for host in made if (done := host.stop()) is not None]
    pytest_twisted.blockon(DeferredList(stopping))
    pytest_twisted.blockon(pause(0.05))


def pause(seconds: float) -> Deferred[None]:
    done: Deferred[None] = Deferred()
    reactor.callLater(seconds, done.callback, None)
    return done


async def until(true: Callable[[], Any]) -> None:
    """Wait for something to hold."""
    start = reactor.seconds()
    while not true():
        assert reactor.seconds() - start < PATIENCE_S, "it never came to hold"
        await pause(0.01)


@pytest.mark.contract("LINK-6")
@pytest_twisted.ensureDeferred
async def test_up_in_both_directions_at_once(hosts: Any) -> None:
    """Two nodes that dial each other have one link of each class, and messages flow."""
    a, b = hosts(1), hosts(2)
    for one, other in ((a, b), (b, a)):
        one.links.set_epoch(E1, roster(E1, a.me, b.me))
        for link_class in (CONTROL, DATA):
            one.links.keep(other.me.address, link_class, other.me.node_id)
    await until(lambda: len(a.links.links()) == len(b.links.links()) == 2)
    await pause(0.2)
    assert a.watcher.flow == b.watcher.flow == ["link_up"] * 2
    assert len(a.links._carriers) == len(b.links._carriers) == 2
    link = a.links.link(b.me.node_id, DATA)
    assert link.send(envelope(E1, 7)) is Sent.ACCEPTED
    await until(lambda: b.watcher.of("received"))
    assert b.watcher.of("received")[0][1] == envelope(E1, 7)
    assert 0 < link.rtt_ms < 1000


@pytest.mark.contract("LINK-4", "MESH-8")
@pytest_twisted.ensureDeferred
async def test_lost_and_redialed(hosts: Any) -> None:
    """A reset is noticed at once, and the link is back within a second or so."""
    a, b = hosts(1), hosts(2)
    a.links.keep(b.me.address, CONTROL, b.me.node_id)
    await until(b.links.links)
    start = reactor.seconds()
    next(iter(b.links._carriers)).abort()
    await until(lambda: a.watcher.of("link_down"))
    assert reactor.seconds() - start < 0.5
    await until(lambda: a.links.links() and b.links.links())
    assert reactor.seconds() - start < 3


@pytest.mark.contract("LINK-1")
@pytest_twisted.ensureDeferred
async def test_silent_strangers_delay_nobody(hosts: Any) -> None:
    """With fifty silent clients a peer is up within a second; after 5 s they are cut."""
    a, b = hosts(1), hosts(2)
    strangers = [socket.create_connection(b.listener.getsockname()) for _ in range(50)]
    for each in strangers[::2]:
        each.sendall(preface.pack(CONTROL, a.me.node_id)[:10])
    await until(lambda: len(b.links._strangers) == 50)
    start = reactor.seconds()
    a.links.keep(b.me.address, CONTROL, None)
    await until(b.links.links)
    assert reactor.seconds() - start < 1
    await until(lambda: not b.links._strangers)
    assert 4 < reactor.seconds() - start < 7
    assert b.links._counters.total("link_refusals_total", reason="timeout") == 50
    for each in strangers:
        each.close()


@pytest.mark.contract("LINK-5", "LINK-4")
@pytest_twisted.ensureDeferred
async def test_a_reader_that_stops(hosts: Any) -> None:
    """A peer that stops reading is cut after 5 s; until then memory is bounded, sends say
    FULL, and another peer's messages flow."""
    a, b, c = hosts(1), hosts(2), hosts(3)
    for other in (b, c):
        a.links.keep(other.me.address, CONTROL, other.me.node_id)
    await until(lambda: len(a.links.links()) == 2)
    stuck, good = (a.links.link(each.me.node_id, CONTROL) for each in (b, c))
    carrier = next(iter(b.links._carriers))
    carrier.transport.pauseProducing()
    carrier._timer.cancel()  # as a stopped process: it does not notice either
    carrier._timer = None
    start = reactor.seconds()
    large = replace(envelope(NO_EPOCH, 1, CONTROL), body=b"x" * 10_000)
    sent: set[Sent] = set()
    while not a.watcher.of("link_down"):
        sent |= {stuck.send(large) for _ in range(100)}
        good.send(ShardGone(2, 2))
        await pause(0.02)
    assert 4.5 < reactor.seconds() - start < 8
    assert Sent.FULL in sent
    assert a.watcher.of("link_down")[0][1] in ("silent", "stalled")
    assert good.send(ShardGone(2, 3)) is Sent.ACCEPTED
    await until(lambda: c.watcher.of("received")[-1][1] == ShardGone(2, 3))
    a.links.forget(b.me.address, CONTROL)
    carrier.abort()


@pytest.mark.contract("MESH-6")
@pytest_twisted.ensureDeferred
async def test_garbage_is_closed_and_peers_form_meanwhile(hosts: Any) -> None:
    """HTTP, random bytes and 10 MB of zeroes are answered by a close; a peer gets its link."""
    a, b = hosts(1), hosts(2)
    rng = random.Random(1)
    opening = preface.pack(CONTROL, a.me.node_id)
    noises = (
        b"GET / HTTP/1.1\r\n\r\n",
        rng.randbytes(5000),
        opening + bytes(10_000_000),
        opening + b"\x00\x00\x00\x01\xff",
    )
    clients = [socket.create_connection(b.listener.getsockname()) for _ in noises]
    for client, noise in zip(clients, noises, strict=True):
        client.setblocking(False)
        client.send(noise)
    a.links.keep(b.me.address, CONTROL, None)
    await until(b.links.links)
    await until(lambda: not b.links._strangers)
    refusals = b.links._counters.total("link_refusals_total", side="local", reason="malformed")
    assert refusals == len(noises)
    for client in clients:
        client.close()


@pytest_twisted.ensureDeferred
async def test_names_are_resolved(hosts: Any) -> None:
    """A host name is resolved by the reactor; one that does not exist is a failed dial."""
    a, b = hosts(1), hosts(2)
    a.links.keep(Address("localhost", b.me.address.port), CONTROL, None)
    a.links.keep(Address("no such host.invalid", 1), CONTROL, None)
    a.links.keep(Address("x" * 300, 1), CONTROL, None)
    await until(b.links.links)
    await until(lambda: a.links._counters.total("link_connect_failures_total") >= 2)
    assert len(a.links.links()) == 1


def test_a_dead_socket_is_not_adopted(hosts: Any) -> None:
    """A handed-over socket whose peer is gone is closed, and nobody minds."""
    a = hosts(1)
    near = socket.socket()
    a.links.adopt(near)
    assert near.fileno() == -1
    assert not a.links._carriers


def test_a_factory_can_hang_up() -> None:
    """A build that answers None makes Twisted close the connection."""
    assert LinkFactory(lambda: None).buildProtocol(None) is None

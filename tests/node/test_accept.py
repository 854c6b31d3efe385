"""Ports on real sockets: where a connection ends up, and what is closed and counted."""

from __future__ import annotations

import socket

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from meshsvc.counters import Counters
from meshsvc.errors import StartError
from meshsvc.link import preface
from meshsvc.model import Address, LinkClass, NodeId, Sent, ShardId
from meshsvc.node.accept import Acceptor, NotServed
from meshsvc.node.handover import CAP, LATE_S
from meshsvc.node.ports import SHORT_OF_DESCRIPTORS_S, Port, address_of, bind
from meshsvc.shards.placement import link_owner
from meshsvc.wire.codec import decode

ANY = Address("127.0.0.1", 0)


class Bench:
    """An acceptor whose hand-overs end up in lists, as duplicates of what was handed over."""

    def __init__(self, shards=3):
        self.counters = Counters()
        self.acceptor = Acceptor(reactor, shards, self.counters, self.send)
        self.got = []
        self.answers = {}
        self.clients = []
        self.waiting = None

    def send(self, shard, packet, fd):
        answer = self.answers.get(shard, Sent.ACCEPTED)
        if answer is Sent.ACCEPTED:
            seq, listener, preface_bytes = decode(packet)
            self.got.append((shard, seq, listener, preface_bytes, socket.socket(fileno=dup(fd))))
        self.stir()
        return answer

    def stir(self):
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            reactor.callLater(0, waiting.callback, None)

    def next(self):
        """Fires after the next hand-over that is tried."""
        self.waiting = Deferred()
        return self.waiting

    def port(self, name):
        bound = bind(name, ANY)
        return self.acceptor.add(name, bound, address_of(bound, ANY))

    def connect(self, address, data=b""):
        client = socket.create_connection((address.host, address.port), timeout=5)
        client.sendall(data)
        self.clients.append(client)
        return client

    def dropped(self, reason):
        return self.counters.total("frame_drops_total", variant="fd_transfer", reason=reason)

    def close(self):
        self.acceptor.close()
        for *_, sock in self.got:
            sock.close()
        for client in self.clients:
            client.close()


def dup(fd):
    return socket.dup(fd)


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.close()


@pytest.mark.parametrize("link_class", LinkClass)
@pytest_twisted.ensureDeferred
async def test_peer_goes_where_its_preface_says(bench, link_class):
    """Control links go to shard 0, data links to the shard that owns the peer; the preface
    stays in the socket, which is as it was accepted."""
    node = NodeId("0123456789abcdef" * 2)
    bench.port("peer")
    for shard in range(3):
        address = bench.acceptor.listen(ShardId(shard), "peer")
    bench.acceptor.open()
    bench.connect(address, preface.pack(link_class, node) + b"hello")
    await bench.next()
    shard, _, listener, preface_bytes, sock = bench.got[0]
    assert shard == (0 if link_class is LinkClass.CONTROL else link_owner(node, 3))
    assert (listener, preface_bytes) == ("peer", preface.PREFACE_BYTES)
    assert sock.recv(64) == preface.pack(link_class, node) + b"hello"
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
    assert bench.acceptor.strangers.deadline() is None


@pytest_twisted.ensureDeferred
async def test_preface_may_come_in_pieces(bench):
    """A preface that dribbles in is waited for without polling."""
    bench.port("peer")
    address = bench.acceptor.listen(ShardId(0), "peer")
    bench.acceptor.open()
    said = preface.pack(LinkClass.CONTROL, NodeId("ab" * 16))
    client = bench.connect(address, said[:3])
    await settle(lambda: bench.acceptor.strangers.deadline() is not None)
    client.sendall(said[3:20])
    await turns(20)
    assert not bench.got
    client.sendall(said[20:])
    await bench.next()
    assert bench.got[0][0] == 0


@pytest.mark.contract("MESH-6")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "garbage"),
        (b"MSVC" + b"\xff" * 20, "garbage"),
        (b"MSVC\x01", "garbage"),
        (b"MSVC", "garbage"),
        (b"MS", "garbage"),
        (b"", "left"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_garbage_is_cut_at_once(bench, data, reason):
    """What is no preface is closed and counted by reason; nobody waits for more of it."""
    bench.port("peer")
    address = bench.acceptor.listen(ShardId(0), "peer")
    bench.acceptor.open()
    client = bench.connect(address, data)
    if len(data) < preface.PREFACE_BYTES and not data.startswith(b"GET"):
        client.shutdown(socket.SHUT_WR)
    await settle(lambda: bench.counters.total("link_refusals_total", reason=reason) == 1)
    assert not bench.got


@pytest_twisted.ensureDeferred
async def test_peer_whose_shard_is_away_is_closed(bench):
    """A link to a shard that does not listen is closed: the peer dials again."""
    bench.port("peer")
    address = bench.acceptor.listen(ShardId(1), "peer")
    bench.acceptor.open()
    client = bench.connect(address, preface.pack(LinkClass.CONTROL, NodeId("ab" * 16)))
    await settle(lambda: bench.dropped("disconnected") == 1)
    with pytest.raises(ConnectionResetError):
        client.recv(1)


@pytest.mark.contract("SHD-3", "SHD-10")
@pytest_twisted.ensureDeferred
async def test_unreachable_shard_is_left_for_the_next(bench):
    """A connection for a shard whose process just died goes to another; with none it closes."""
    bench.port("client")
    for shard in range(3):
        address = bench.acceptor.listen(ShardId(shard), "client")
    bench.acceptor.open()
    bench.answers = {0: Sent.DISCONNECTED, 1: Sent.DISCONNECTED}
    bench.connect(address)
    await settle(lambda: bench.got)
    assert bench.got[0][0] == 2
    bench.answers[2] = Sent.DISCONNECTED
    bench.connect(address)
    await settle(lambda: bench.dropped("disconnected") == 1)


@pytest.mark.contract("SHD-3", "SHD-10")
@pytest_twisted.ensureDeferred
async def test_no_room_closes_and_counts(bench):
    """At the cap of every shard, and when the kernel has no room, connections are closed."""
    bench.port("client")
    address = bench.acceptor.listen(ShardId(1), "client")
    bench.acceptor.open()
    for _ in range(CAP):
        bench.acceptor.handover.sent(ShardId(1), reactor.seconds() - LATE_S - 1)
    client = bench.connect(address)
    await settle(lambda: bench.dropped("full") == 1)
    assert client.recv(1) == b""
    bench.acceptor.settled(ShardId(1), 1, taken=True)
    bench.answers[1] = Sent.FULL
    bench.connect(address)
    await settle(lambda: bench.dropped("full") == 2)
    assert bench.acceptor.handover.on_way(ShardId(1)) == CAP - 1
    bench.acceptor.settled(ShardId(1), 2, taken=False)
    bench.acceptor.settled(ShardId(1), 2, taken=False)
    assert bench.dropped("rejected") == 1


@pytest.mark.contract("SHD-3")
@pytest_twisted.ensureDeferred
async def test_busy_shards_are_waited_for(bench):
    """A burst beyond the cap of shards that are merely busy waits in the backlog, unharmed."""
    bench.port("client")
    address = bench.acceptor.listen(ShardId(1), "client")
    bench.acceptor.open()
    for _ in range(3 * CAP):
        bench.connect(address)
    await settle(lambda: len(bench.got) == CAP)
    await turns(20)
    assert len(bench.got) == CAP
    for done in range(3 * CAP):
        expected = min(done + 1 + CAP, 3 * CAP)
        bench.acceptor.settled(ShardId(1), bench.got[done][1], taken=True)
        await settle(lambda expected=expected: len(bench.got) >= expected)
    assert bench.dropped("full") == 0


@pytest.mark.contract("SHD-7")
@pytest_twisted.ensureDeferred
async def test_ports_wait_for_all_shards(bench):
    """Until open() connections stay in the backlog, and again while no shard listens; only
    admin is served at once, as it tells why a node is not ready."""
    bench.port("client")
    bench.port("admin")
    address = bench.acceptor.listen(ShardId(0), "client")
    bench.connect(address)
    await turns(20)
    assert not bench.got
    bench.connect(bench.acceptor.listen(ShardId(0), "admin"))
    await settle(lambda: len(bench.got) == 1)
    bench.got.pop()[-1].close()
    bench.acceptor.open()
    await settle(lambda: len(bench.got) == 1)
    bench.acceptor.left(ShardId(0))
    bench.connect(address)
    await turns(20)
    assert len(bench.got) == 1
    bench.acceptor.listen(ShardId(2), "client")
    await settle(lambda: len(bench.got) == 2)


def test_a_listener_that_is_asked_for_too_late_is_told_why(bench):
    """A shard may still be starting while the node ends: it has not been configured wrongly."""
    bench.acceptor.close()
    with pytest.raises(NotServed, match="client is not served: the node is stopping"):
        bench.acceptor.listen(ShardId(0), "client")


@pytest_twisted.ensureDeferred
async def test_tcp_listeners_are_bound_on_demand(bench):
    """tcp:HOST:PORT is bound once, for all that ask; what cannot be bound says why."""
    first = bench.acceptor.listen(ShardId(0), "tcp:localhost:0")
    assert bench.acceptor.listen(ShardId(1), "tcp:localhost:0") == first
    for bad in ("tcp:", "udp:53", "nonesuch"):
        with pytest.raises(NotServed, match="there is no listener"):
            bench.acceptor.listen(ShardId(0), bad)
    for bad in ("tcp:nonesuch.invalid:80", "tcp:99999", "tcp:x"):
        with pytest.raises(StartError, match="is no listener"):
            bench.acceptor.listen(ShardId(0), bad)
    with pytest.raises(StartError, match=f"port {first.port} .* is in use"):
        bench.acceptor.listen(ShardId(0), f"tcp:127.0.0.1:{first.port}")


@pytest.mark.contract("SHD-2")
def test_port_that_is_taken_after_the_bind_is_noticed(bench):
    """Two sockets may bind one port while neither listens; the second to listen is told."""
    bound = bind("client", ANY)
    address = address_of(bound, ANY)
    other = bind("client", address)
    other.listen()
    port = bench.acceptor.add("client", bound, address)
    with pytest.raises(StartError, match="is in use") as caught:
        port.listen()
    assert caught.value.exit_code == 73
    other.close()


@pytest.mark.contract("SHD-2")
@pytest.mark.parametrize(
    ("address", "word"),
    [
        (Address("192.0.2.1", 0), "choose an address of this machine"),
        (Address("nonesuch.invalid", 80), "cannot be bound"),
    ],
)
def test_unusable_addresses_are_named(address, word):
    """An address of another machine, or no address at all, ends with 73 and a remedy."""
    with pytest.raises(StartError, match=word) as caught:
        bind("listen.client", address)
    assert caught.value.exit_code == 73


def test_ipv6_is_bound_by_itself():
    """An IPv6 listener leaves the same IPv4 port to others."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        bound = bind("client", Address("::1", 0))
    except StartError:
        pytest.skip("no IPv6 loopback here")
    assert bound.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    bound.close()


def test_out_of_descriptors_takes_a_break():
    """EMFILE pauses accepting for a while instead of spinning on a backlog."""
    from twisted.internet.testing import MemoryReactorClock

    memory = MemoryReactorClock()
    calls = []

    class Broken:
        def fileno(self):
            return 5

        def listen(self, backlog):
            pass

        def accept(self):
            calls.append(1)
            raise OSError(24, "Too many open files")

        def close(self):
            pass

    port = Port(memory, "client", Broken(), ANY, lambda port: True, lambda port, sock: None)
    port.listen()
    port.watch(True)
    port.doRead()
    assert (calls, memory.getReaders()) == ([1], [])
    port.watch(False)
    port.watch(True)  # a shard that joins meanwhile does not end the break
    assert memory.getReaders() == []
    memory.advance(SHORT_OF_DESCRIPTORS_S)
    assert memory.getReaders() == [port]
    port.doRead()
    port.watch(False)  # nobody listens any more
    memory.advance(SHORT_OF_DESCRIPTORS_S)
    assert memory.getReaders() == []
    port.watch(True)
    port.doRead()
    port.release()
    assert memory.getDelayedCalls() == []


async def turns(count):
    """Let the reactor go round."""
    for _ in range(count):
        waited = Deferred()
        reactor.callLater(0.002, waited.callback, None)
        await waited


async def settle(condition):
    """Let the reactor run until the condition is true; at most about five seconds."""
    for _ in range(1000):
        if condition():
            return
        await turns(1)
    raise AssertionError("did not come true")

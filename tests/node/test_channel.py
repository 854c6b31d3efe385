"""The channel between supervisor and shard, over real socket pairs."""

from __future__ import annotations

import os
import socket

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from meshsvc.counters import Counters
from meshsvc.model import Address, Sent
from meshsvc.node.channel import Channel, ListenFailed, ShardChannel, attach, pass_descriptor
from meshsvc.wire import messages
from meshsvc.wire.codec import encode
from meshsvc.wire.registry import Role


class Supervising:
    """The supervisor's end: keeps what came, answers nothing by itself."""

    def __init__(self):
        control, control_theirs = socket.socketpair()
        self.handoff, handoff_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.got, self.ends = [], []
        self.channel = Channel(reactor, self, Role.SHARD)
        attach(reactor, control, self.channel)
        self.handoff_fd = handoff_theirs.fileno()
        self.shard = ShardChannel(reactor, control_theirs.detach(), handoff_theirs.detach())

    def channel_message(self, channel, message):
        self.got.append(message)

    def channel_ended(self, channel, text):
        self.ends.append(text)

    def pass_one(self, seq, listener="client"):
        """Hand over one end of a new pair; returns (what became of it, the other end)."""
        ours, theirs = socket.socketpair()
        sent = pass_descriptor(self.handoff, encode((seq, listener, 0)), theirs.fileno())
        theirs.close()
        ours.settimeout(5)
        return sent, ours

    def acks(self):
        return [(m.seq, m.taken) for m in self.got if isinstance(m, messages.HandoffAck)]


@pytest.fixture
def pair():
    made = Supervising()
    yield made
    made.handoff.close()
    made.channel.abort()
    pytest_twisted.blockon(settled(lambda: made.ends and not made.shard.connected))


async def settled_(condition):
    for _ in range(1000):
        if condition():
            return
        waited = Deferred()
        reactor.callLater(0.002, waited.callback, None)
        await waited
    raise AssertionError("did not come true")


def settled(condition):
    """A Deferred that fires when the condition is true, at most about five seconds later."""
    return Deferred.fromCoroutine(settled_(condition))


@pytest_twisted.ensureDeferred
async def test_what_a_shard_says_arrives(pair):
    """Ready, beats with counters and a fatal end reach the supervisor; the last goes first."""
    counters = Counters()
    counters.add("x")
    pair.shard.ready(["plugin p failed"])
    pair.shard.beat(1, counters)
    pair.shard.fatal(69, "no seed answers")
    await settled(lambda: len(pair.got) == 3)
    assert pair.got == [
        messages.Fatal(69, "no seed answers"),
        messages.ShardReady(("plugin p failed",)),
        messages.Beat(1, 1.0, (["c", "x", [], 1],)),
    ]


@pytest_twisted.ensureDeferred
async def test_listen_is_answered_or_fails(pair):
    """Each Listen fires with the address or fails with the reason; answers find their asker."""
    first, second = pair.shard.listen("client"), pair.shard.listen("nonesuch")
    await settled(lambda: len(pair.got) == 2)
    pair.channel.send(messages.Listening(2, "nonesuch", "", 0, "there is none"))
    pair.channel.send(messages.Listening(1, "client", "127.0.0.1", 80, ""))
    pair.channel.send(messages.Listening(9, "client", "127.0.0.1", 80, ""))
    assert await first == Address("127.0.0.1", 80)
    with pytest.raises(ListenFailed, match="nonesuch: there is none"):
        await second


@pytest.mark.contract("SHD-3")
@pytest_twisted.ensureDeferred
async def test_connections_arrive_whole_and_are_acked(pair):
    """Each descriptor comes with its listener, is not inherited, and is acked."""
    got = []
    pair.shard.on_socket("client", got.append)
    ends = [pair.pass_one(seq)[1] for seq in range(1, 101)]
    await settled(lambda: len(pair.acks()) == 100)
    assert pair.acks() == [(seq, True) for seq in range(1, 101)]
    assert not any(sock.get_inheritable() or sock.getblocking() for sock in got)
    got[41].send(b"42")
    assert ends[41].recv(9) == b"42"
    for sock in (*got, *ends):
        sock.close()


@pytest.mark.contract("SHD-3", "SHD-10")
@pytest_twisted.ensureDeferred
async def test_connection_nobody_takes_is_closed_and_told(pair, logged_errors):
    """For an unknown listener, or when the taker raises: closed, acked as not taken."""

    def refuse(sock):
        raise ValueError("no")

    pair.shard.on_socket("client", refuse)
    _, first = pair.pass_one(1)
    _, second = pair.pass_one(2, "unknown")
    await settled(lambda: len(pair.acks()) == 2)
    assert pair.acks() == [(1, False), (2, False)]
    assert (first.recv(1), second.recv(1)) == (b"", b"")
    assert len(logged_errors.flush(ValueError)) == 1
    first.close()
    second.close()


@pytest.mark.contract("SHD-3")
def test_descriptors_are_passed_now_or_not_at_all():
    """A full socket says FULL, one whose other end is gone DISCONNECTED; nothing leaks."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = len(os.listdir("/proc/self/fd"))
    with open(os.devnull, "rb") as file:
        sent = [pass_descriptor(ours, b"x", file.fileno()) for _ in range(5000)]
        assert sent[-1] is Sent.FULL
        assert sent[0] is Sent.ACCEPTED
        theirs.close()
        assert pass_descriptor(ours, b"x", file.fileno()) is Sent.DISCONNECTED
    ours.close()
    assert len(os.listdir("/proc/self/fd")) == before - 2


@pytest_twisted.ensureDeferred
async def test_node_news_is_kept_and_told(pair):
    """States replace each other, counters shard by shard; a subscriber hears of states."""
    heard = []
    pair.shard.on_shard_states(heard.append)
    pair.channel.send(messages.ShardStates(([0, 5],)))
    pair.channel.send(messages.NodeCounters(([0, []], [1, [1]])))
    pair.channel.send(messages.NodeCounters(([1, [2]],)))
    await settled(lambda: pair.shard.node_counters == {0: [], 1: [2]})
    assert pair.shard.shard_states == ([0, 5],)
    assert heard == [([0, 5],)]


@pytest.mark.contract("SHD-9")
@pytest_twisted.ensureDeferred
async def test_drain_waits_for_the_shard_within_its_budget(pair, logged_errors):
    """The process ends after what on_drain returned has fired, failed, or had its time."""
    ended = []
    pair.shard.ends_with(lambda: ended.append("drained"), lambda: None)
    work = Deferred()
    budgets = []
    pair.shard.on_drain(lambda budget_s: budgets.append(budget_s) or work)
    pair.channel.send_urgent(messages.Drain(30.0))
    await settled(lambda: budgets == [30.0])
    assert not ended
    work.callback(None)
    assert ended == ["drained"]
    pair.shard.on_drain(lambda budget_s: Deferred())
    pair.channel.send_urgent(messages.Drain(0.05))
    await settled(lambda: len(ended) == 2)
    pair.shard.on_drain(lambda budget_s: 1 / 0)
    pair.channel.send_urgent(messages.Drain(1.0))
    await settled(lambda: len(ended) == 3)
    assert logged_errors.flush(ZeroDivisionError)
    logged_errors.flush()


@pytest.mark.contract("SHD-8")
@pytest_twisted.ensureDeferred
async def test_loss_of_the_supervisor_is_told(pair):
    """A lost channel fails what was asked, tells the shard, then ends the process."""
    told = []
    pair.shard.ends_with(lambda: None, lambda: told.append("orphaned"))
    pair.shard.on_lost(lambda: told.append("lost"))
    asked = pair.shard.listen("client")
    await settled(lambda: pair.got)
    pair.channel.abort()
    with pytest.raises(ListenFailed, match="supervisor is gone"):
        await asked
    await settled(lambda: told == ["lost", "orphaned"])
    with pytest.raises(ListenFailed):
        await pair.shard.listen("client")


@pytest_twisted.ensureDeferred
async def test_wrong_role_closes_the_channel(pair):
    """What a shard may not say ends its channel; the supervisor process does not notice."""
    pair.shard._channel.send(messages.Drain(1.0))
    await settled(lambda: pair.ends)
    assert pair.got == []

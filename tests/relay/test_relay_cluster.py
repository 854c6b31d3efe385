"""Whole nodes with a cut between two of them: control calls go over a third."""

from random import Random

import pytest
from relay_net import connected
from twisted.internet.defer import Deferred

from meshsvc.errors import CallError, Disconnected
from meshsvc.model import LinkClass, ShardAddress, ShardId
from meshsvc.sim import simulate


def ask(sim, source, target, verb="sys.echo", payload=None, shards=(0, 0), timeout_s=5.0):
    """Ask over the control plane from one node's shard to another's; what it ended in."""
    life = source.shards[shards[0]]
    address = ShardAddress(target.node_id, ShardId(shards[1]))
    asked = life.shard.messaging.ask(address, verb, payload, timeout_s, LinkClass.CONTROL)
    ended = []
    asked.addCallbacks(ended.append, lambda failure: ended.append(failure.value))
    sim.cluster.run_until(lambda: ended, timeout_s + 1)
    sim.check()
    return ended[0] if ended else None


def cut_off(a, b):
    """Whether neither of two nodes has a control link to the other."""
    ends = ((a, b), (b, a))
    return all(x.zero.shard.links.link(y.node_id, LinkClass.CONTROL) is None for x, y in ends)


def alive(a, b):
    member = a.zero.zero.gossip.membership.member(b.node_id)
    return member is not None and member.alive


def part(sim, a, b):
    sim.fault(f"partition {a.name} | {b.name}")
    sim.run_until(lambda: cut_off(a, b), 60)


@pytest.mark.contract("VERB-6")
def test_calls_go_over_a_third_node_while_two_are_cut_from_each_other():
    """Asks between any shards of two nodes without a link are answered over the third."""
    with simulate(nodes=3, shards=2, seed=5) as sim:
        n1, n2, _ = sim.nodes
        sim.run_until(sim.formed, 20)
        part(sim, n1, n2)
        for shards in ((0, 0), (1, 1), (0, 1), (1, 0)):
            assert ask(sim, n1, n2, payload=["x"], shards=shards) == ["x"]
        sim.run(20)
        assert cut_off(n1, n2)
        assert alive(n1, n2)
        assert alive(n2, n1)
        assert ask(sim, n2, n1, payload="y") == "y"
        assert ask(sim, n1, n2, "mesh.status")["epoch"]


@pytest.mark.contract("VERB-6")
def test_large_answers_are_relayed_whole():
    """An answer in several parts arrives over a third node."""
    with simulate(nodes=3, seed=5) as sim:
        n1, n2, _ = sim.nodes
        sim.run_until(sim.formed, 20)
        part(sim, n1, n2)
        data = bytes(range(256)) * 8000
        assert ask(sim, n1, n2, payload=data) == data


@pytest.mark.contract("VERB-6")
def test_the_echo_is_never_relayed():
    """A probe measures the link: without one it fails, although calls get through."""
    with simulate(nodes=3, seed=5) as sim:
        n1, n2, _ = sim.nodes
        sim.run_until(sim.formed, 20)
        part(sim, n1, n2)
        assert ask(sim, n1, n2, payload=1) == 1
        gossip = n1.zero.zero.gossip
        ended = []
        gossip._ask_directly(n2.node_id, 1.0).addErrback(lambda f: ended.append(f.value))
        assert isinstance(ended[0], Disconnected)
        before = gossip.membership.member(n2.node_id).rtt_ms
        sim.run(15)
        assert gossip.membership.member(n2.node_id).rtt_ms == before


@pytest.mark.contract("VERB-6")
def test_an_ask_ends_at_once_when_the_node_between_dies():
    """Losing the way ends what was sent over it, long before its deadline."""
    with simulate(nodes=3, seed=6) as sim:
        n1, n2, n3 = sim.nodes
        sim.run_until(sim.formed, 20)
        part(sim, n1, n2)
        n2.zero.shard.messaging.register("test.never", lambda call: Deferred())
        life = n1.zero.shard
        address = ShardAddress(n2.node_id, ShardId(0))
        ended = []
        asked = life.messaging.ask(address, "test.never", None, 60.0, LinkClass.CONTROL)
        asked.addErrback(lambda failure: ended.append(failure.value))
        sim.run(1)
        assert not ended
        n3.crash()
        sim.run(1)
        assert isinstance(ended[0], Disconnected)
        assert isinstance(ask(sim, n1, n2, payload=1), CallError)


@pytest.mark.contract("VERB-6")
def test_an_ask_ends_at_once_when_its_target_dies_behind_another_node():
    """The node between tells the caller that the target, or its shard, is gone."""
    with simulate(nodes=3, shards=2, seed=6) as sim:
        n1, n2, _ = sim.nodes
        sim.run_until(sim.formed, 20)
        part(sim, n1, n2)
        ended = []
        for index in (0, 1):
            messaging = n2.shards[index].shard.messaging
            messaging.register("test.never", lambda call: Deferred())
            address = ShardAddress(n2.node_id, ShardId(index))
            asking = n1.shards[1].shard.messaging
            asked = asking.ask(address, "test.never", index, 60.0, LinkClass.CONTROL)
            asked.addErrback(lambda failure, i=index: ended.append((i, type(failure.value))))
        sim.run(1)
        assert not ended
        n2.kill_shard(1)
        sim.run(1)
        assert ended == [(1, Disconnected)]
        n2.crash()
        sim.run(1)
        assert ended[1:] == [(0, Disconnected)]


@pytest.mark.contract("VERB-6")
def test_links_that_come_back_are_used_again():
    """After the cut heals messages go directly, and nobody claims to lack a link."""
    with simulate(nodes=4, seed=7) as sim:
        n1, n2, *_ = sim.nodes
        sim.run_until(sim.formed, 20)
        part(sim, n1, n2)
        sim.run(10)
        assert n1.zero.zero.gossip.membership.member(n1.node_id).values["links"]
        sim.fault("heal")
        sim.run_until(lambda: not cut_off(n1, n2), 30)
        sim.run(10)
        relayed = n1.zero.shard.counters.total("relay_messages_total")
        assert ask(sim, n1, n2, payload=1) == 1
        assert n1.zero.shard.counters.total("relay_messages_total") == relayed
        for node in sim.nodes:
            values = n1.zero.zero.gossip.membership.member(node.node_id).values
            assert values.get("links") is None


@pytest.mark.contract("VERB-6")
def test_a_node_without_any_way_is_disconnected_at_once():
    """No way over others: the ask fails in the turn in which it was made."""
    with simulate(nodes=3, seed=8) as sim:
        n1, n2, _ = sim.nodes
        sim.run_until(sim.formed, 20)
        sim.fault("isolate n2")
        sim.run_until(lambda: not alive(n1, n2) and cut_off(n1, n2), 60)
        started = sim.now
        assert isinstance(ask(sim, n1, n2), Disconnected)
        assert sim.now == started


@pytest.mark.contract("VERB-6")
@pytest.mark.parametrize("seed", range(3))
def test_random_cuts_that_leave_a_way_cut_nobody_off(seed):
    """Whole nodes over a random tree and some edges: all asks answered, broadcasts heard once."""
    rng = Random(seed)
    with simulate(nodes=6, seed=seed) as sim:
        sim.run_until(sim.formed, 20)
        heard = []
        for node in sim.nodes:
            messaging = node.zero.shard.messaging
            messaging.register_oneway(
                "test.cry", lambda call, name=node.name: heard.append((name, call.payload))
            )
        kept = connected(6, rng, 0.2)
        pairs = [(a, b) for b in range(6) for a in range(b) if (a, b) not in kept]
        for a, b in pairs:
            sim.fault(f"partition {sim.nodes[a].name} | {sim.nodes[b].name}")
        sim.run_until(
            lambda: all(cut_off(sim.nodes[a], sim.nodes[b]) for a, b in pairs), timeout_s=60
        )
        sim.run(15)
        for source in sim.nodes:
            for target in sim.nodes:
                assert ask(sim, source, target, payload=target.name) == target.name
            source.zero.shard.context("").everyone.broadcast("test.cry", source.name)
        sim.run(35)
        names = [node.name for node in sim.nodes]
        assert sorted(heard) == sorted((a, b) for a in names for b in names)
        for node in sim.nodes:
            node.zero.shard.messaging.unregister("test.cry")

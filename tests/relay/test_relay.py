"""Relayed unicast: any connected topology, no loops, and an end that is told."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_net import RelayNet, chain, connected, envelope, mesh, node_id

from meshsvc.model import Sent
from meshsvc.relay.relay import MAX_VISITED
from meshsvc.wire.messages import Relayed, RelayLost
from meshsvc.wire.registry import encode_message

pytestmark = pytest.mark.contract("VERB-6")


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(3, 24),
    seed=st.integers(0, 2**32),
    density=st.sampled_from([0.0, 0.05, 0.2, 0.6, 0.95]),
    never_met=st.booleans(),
)
def test_every_pair_of_a_connected_topology_can_talk(count, seed, density, never_met):
    """Once claims are out, each message arrives once, over at most as many hops as nodes."""
    net = RelayNet(count, connected(count, Random(seed), density), never_met)
    net.learn()
    for source in net.nodes:
        for target in net.nodes:
            if source is not target:
                assert source.send(target.number, target.number + 1) is Sent.ACCEPTED
    net.run()
    for node in net.nodes:
        others = [(other.id, node.number + 1) for other in net.nodes if other is not node]
        assert sorted(node.got) == sorted(others)
        assert not node.home
    assert net.longest <= count


@settings(max_examples=30, deadline=None)
@given(count=st.integers(3, 16), seed=st.integers(0, 2**32), gone=st.integers(0, 6))
def test_a_message_finds_its_way_or_comes_home_whatever_was_claimed(count, seed, gone):
    """Links break after the claims were made: no loop, and each message ends exactly once."""
    rng = Random(seed)
    edges = connected(count, rng, 0.4)
    net = RelayNet(count, edges)
    net.learn()
    for a, b in rng.sample(sorted(edges), min(gone, len(edges))):
        net.nodes[a].routes.link_down(node_id(b), net.now)
        net.nodes[b].routes.link_down(node_id(a), net.now)
    ended = 0
    for source in net.nodes:
        for target in net.nodes:
            if source is not target:
                ended += source.send(target.number) is Sent.DISCONNECTED
    net.run()
    ended += sum(len(node.got) + len(node.home) for node in net.nodes)
    assert ended == count * (count - 1)
    assert net.longest <= count
    assert not sum(node.count("loop") + node.count("lost") for node in net.nodes)


def test_a_cut_is_gone_around_before_anybody_claims_anything():
    """Silence means all links: the first neighbour is tried at once."""
    net = RelayNet(6, mesh(6) - {(0, 5)})
    for node in net.nodes:
        node.routes.members([net.member(node, other) for other in net.nodes], net.now)
    assert net.nodes[0].send(5) is Sent.ACCEPTED
    net.run()
    assert net.nodes[5].got == [(node_id(0), 1)]
    assert net.carried == 2


def test_a_neighbour_that_knows_no_way_is_passed_over():
    """A dead end hands the message back, and the next one does not go there."""
    net = RelayNet(4, {(0, 1), (0, 2), (2, 3)})
    for node in net.nodes:
        node.routes.members([net.member(node, other) for other in net.nodes], net.now)
    first = net.nodes[0].routes.next_hop(node_id(3))
    net.nodes[0].send(3)
    net.run()
    assert net.nodes[3].got == [(node_id(0), 1)]
    if first == node_id(1):
        assert net.nodes[1].count("returned") == 1
    net.nodes[0].routes.refused(node_id(1), node_id(3), net.now)
    assert net.nodes[0].routes.next_hop(node_id(3)) == node_id(2)


def test_next_hops_are_deterministic():
    """The shortest way; of several the one over the better linked, then the smaller id."""
    net = RelayNet(8, mesh(8) - {(0, 7), (1, 2), (3, 7)})
    net.learn()
    best = min(node_id(n) for n in (4, 5, 6))
    assert net.nodes[0].routes.next_hop(node_id(7)) == best
    assert net.nodes[7].routes.next_hop(node_id(0)) == best


def test_a_chain_is_claimed_by_its_ends_and_gone_along():
    """A node that was never echoed is reached all the same: it says it has no link to us."""
    net = RelayNet(9, chain(9), never_met=True)
    net.learn()
    assert net.nodes[0].send(8) is Sent.ACCEPTED
    net.run()
    assert net.nodes[8].got == [(node_id(0), 1)]
    assert net.carried == 8


def test_a_healthy_cluster_claims_nothing():
    """Nothing is gossiped, and no way is looked for, while all have links to all."""
    net = RelayNet(12, mesh(12))
    net.learn()
    assert not any(node.values for node in net.nodes)
    assert not any(node.routes.reached() for node in net.nodes)
    assert all(node.routes.deadline() is None for node in net.nodes)


def test_a_dead_node_is_claimed_by_nobody():
    """A link to a node that is dead is not missing."""
    net = RelayNet(5, mesh(4), never_met=True)
    net.killed.add(4)
    net.learn()
    assert not any(node.values for node in net.nodes[:4])
    assert net.nodes[0].send(4) is Sent.DISCONNECTED


def test_what_breaks_the_rules_goes_nowhere():
    """Loops, too long ways, strange paths and bodies are counted and dropped."""
    net = RelayNet(3, mesh(3))
    node = net.nodes[0]
    body = encode_message(envelope(1, 0))
    peer, me, other = node_id(1), node_id(0), node_id(2)

    def give(path, tried=(), target=me, life=1000, data=body):
        node.relay.received(peer, Relayed(path, tried, life, target, 0, data))
        net.run()
        return {what: node.count(what) for what in ("malformed", "loop", "stale", "arrived")}

    assert give((peer,))["arrived"] == 1
    assert give(())["malformed"] == 1
    assert give((peer,), tuple(str(n) for n in range(MAX_VISITED)))["malformed"] == 2
    assert give((me, peer), target=other)["loop"] == 1
    assert give((peer, other))["loop"] == 2
    assert give((peer,), (me,))["loop"] == 3
    assert give((peer,), data=b"\xff")["malformed"] == 3
    assert give((other, peer), data=body)["malformed"] == 4
    node.routes.members([net.member(node, n) for n in net.nodes], net.now)
    assert give((peer,), life=999)["stale"] == 1
    node.relay.received(peer, Relayed((peer,), (), 1000, me, 999, body))
    assert node.count("stale") == 2
    assert node.got == [(peer, 1)]


def test_a_full_outbox_on_the_way_is_gone_around_or_told():
    """A neighbour whose outbox is full is passed over; without another way it comes home."""
    net = RelayNet(4, mesh(4) - {(0, 3)})
    net.learn()
    for middle in (1, 2):
        net.nodes[middle].full.add(node_id(3))
        net.nodes[0].send(3, seq=middle)
        net.run()
    assert net.nodes[3].got == [(node_id(0), 1)]
    assert [message.seq for message in net.nodes[0].home] == [2]


def test_the_loss_of_a_link_is_told_along_the_way_to_the_sender():
    """Whoever sent over the broken link hears of it, each node once a target."""
    net = RelayNet(5, chain(5))
    net.learn()
    net.nodes[0].send(4)
    net.nodes[1].send(4, seq=2)
    net.run()
    net.cut(3, 4)
    net.run()
    assert net.nodes[0].lost_to == net.nodes[1].lost_to == [node_id(4)]
    assert not net.nodes[2].lost_to
    net.cut(2, 3)
    net.run()
    assert net.nodes[0].lost_to == [node_id(4)]


def test_the_end_of_a_shard_is_told_along_the_way():
    """The neighbour of the node whose shard ended passes it on to those who sent there."""
    net = RelayNet(4, chain(4))
    net.learn()
    net.nodes[0].send(3)
    net.run()
    net.nodes[2].relay.shard_gone(node_id(3), 1, 7)
    net.run()
    assert net.nodes[0].shards_lost == [(node_id(3), 1, 7)]
    net.nodes[1].relay.received_lost(node_id(0), RelayLost(node_id(3), True, 0, 0))
    net.run()
    assert not net.nodes[0].lost_to


def test_a_notice_that_follows_trails_in_a_ring_ends():
    """Trails of ways that changed may lead round: each node passes a notice on once."""
    net = RelayNet(4, mesh(4))
    net.learn()
    for here, hop, before in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        net.nodes[here].relay._remember(node_id(3), node_id(hop), node_id(before))
    net.nodes[0].relay._remember(node_id(3), node_id(1), node_id(0))
    for message in (RelayLost(node_id(3), False, 1, 7), RelayLost(node_id(3), True, 0, 0)):
        net.nodes[0].relay.received_lost(node_id(1), message)
        net.run()
    assert net.nodes[0].shards_lost == [(node_id(3), 1, 7)]
    assert net.nodes[0].lost_to == [node_id(3)]
    net.nodes[0].relay._remember(node_id(3), node_id(1), node_id(0))
    net.nodes[0].relay.shard_gone(node_id(3), 1, 8)
    assert net.nodes[0].shards_lost[1:] == [(node_id(3), 1, 8)]

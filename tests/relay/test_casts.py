"""Control broadcast: every member once, over any connected topology, and silence after."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relay_net import RelayNet, chain, connected, mesh, node_id

from meshsvc.counters import Counters
from meshsvc.model import Sent
from meshsvc.relay.casts import HOLD_S, MAX_BODY, MAX_HELD, ON_THE_WAY_S, WINDOW, Casts, Seen
from meshsvc.relay.routes import Routes
from meshsvc.wire.messages import Cast, CastsHeld, CastsWanted

pytestmark = pytest.mark.contract("VERB-6")

QUIET_S = int(HOLD_S) + 2


def cast(net, number, count=1):
    for _ in range(count):
        net.nodes[number].casts.cast(0, b"\x80", net.now)


def everybody_heard(net, told):
    """Whether every node was told exactly these, each once."""
    return all(sorted(node.told) == sorted(told) for node in net.nodes)


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(2, 24),
    seed=st.integers(0, 2**32),
    density=st.sampled_from([0.0, 0.05, 0.2, 0.6, 0.95]),
)
def test_everybody_is_told_once_at_once(count, seed, density):
    """With claims out, a broadcast reaches each node once, without repair; then silence."""
    net = RelayNet(count, connected(count, Random(seed), density))
    net.learn()
    criers = net.nodes[:3]
    for node in criers:
        cast(net, node.number)
    net.run()
    assert everybody_heard(net, [(node.id, 1) for node in criers])
    net.pass_time(QUIET_S)
    assert net.pass_time(60) == 0


@settings(max_examples=25, deadline=None)
@given(count=st.integers(2, 14), seed=st.integers(0, 2**32), broken=st.integers(0, 5))
def test_repair_reaches_those_that_stale_claims_left_out(count, seed, broken):
    """Nobody claimed anything, links break, outboxes fill: everybody is told once in the end."""
    rng = Random(seed)
    edges = connected(count, rng, 0.3)
    net = RelayNet(count, edges)
    for node in net.nodes:
        node.routes.members([net.member(node, other) for other in net.nodes], net.now)
    for a, b in rng.sample(sorted(edges), min(broken, len(edges))):
        net.nodes[a].full.add(node_id(b))
    cast(net, 0, 2)
    net.run()
    for node in net.nodes:
        node.full.clear()
    net.pass_time(QUIET_S)
    assert everybody_heard(net, [(node_id(0), 1), (node_id(0), 2)])
    assert net.pass_time(60) == 0


def test_a_healthy_cluster_carries_one_message_a_node():
    """With all links there, a broadcast costs n - 1 messages and one hop."""
    net = RelayNet(30, mesh(30))
    net.learn()
    cast(net, 3)
    net.run()
    assert net.carried == 29
    assert everybody_heard(net, [(node_id(3), 1)])


def test_a_single_cut_costs_two_messages_more():
    """Of all common neighbours two pass it on to the node that was left out."""
    net = RelayNet(30, mesh(30) - {(0, 7)})
    net.learn()
    cast(net, 7)
    net.run()
    assert net.carried == 28 + 2
    assert everybody_heard(net, [(node_id(7), 1)])


def test_a_chain_and_two_halves_with_one_bridge():
    """A broadcast goes along a chain, and over the only link between two halves."""
    halves = mesh(10) | {(a + 10, b + 10) for a, b in mesh(10)} | {(4, 14)}
    for count, edges in ((12, chain(12)), (20, halves)):
        net = RelayNet(count, edges)
        net.learn()
        cast(net, 0)
        net.run()
        assert everybody_heard(net, [(node_id(0), 1)])


def test_a_link_that_comes_up_brings_what_was_missed():
    """After a partition both sides have what was sent meanwhile, if it is not too old."""
    net = RelayNet(6, mesh(6))
    net.learn()
    sides = [(a, b) for a in range(3) for b in range(3, 6)]
    for a, b in sides:
        net.cut(a, b)
    cast(net, 0)
    cast(net, 5)
    net.run()
    net.pass_time(5)
    assert not everybody_heard(net, [(node_id(0), 1), (node_id(5), 1)])
    net.mend(2, 3)
    net.run()
    net.pass_time(3)
    assert everybody_heard(net, [(node_id(0), 1), (node_id(5), 1)])


def test_who_begins_later_is_not_told_what_was_said_before():
    """A broadcast older than the process is passed on and not delivered."""
    net = RelayNet(3, chain(3))
    net.learn()
    late = net.nodes[1]
    late.casts = Casts(late.routes, (1001, 1), late.hand, late.heard, late.counters, net.now + 8.0)
    net.nodes[0].casts.cast(0, b"old", net.now)
    net.flying.clear()
    net.pass_time(10)
    assert net.nodes[2].told == [(node_id(0), 1)]
    assert not late.told
    cast(net, 0)
    net.run()
    assert late.told == [(node_id(0), 2)]


def test_what_was_long_on_its_way_is_not_taken_for_new():
    """Its age says when it was sent on, not when it came: a shard 0 that was restarted may have
    had it in its life before.
    """
    net = RelayNet(3, chain(3))
    net.learn()
    late = net.nodes[1]
    late.casts = Casts(late.routes, (1000, 2), late.hand, late.heard, late.counters, net.now)
    message = Cast(node_id(0), 0, 1000, 1, 1000, (), b"x")
    late.casts.received(node_id(2), message, net.now + 2.0)
    assert not late.told
    late.casts.received(node_id(0), replace(message, number=2, age_ms=0), net.now + 2.0)
    late.casts.received(node_id(2), replace(message, number=3), net.now + 1.0 + ON_THE_WAY_S)
    assert late.told == [(node_id(0), 2), (node_id(0), 3)]


def test_seen_is_a_window_of_the_newest_life():
    """Numbers are told apart within the window; older ones and older lives count as seen."""
    seen = Seen()
    assert seen.add(("a", 5, 1))
    assert not seen.add(("a", 5, 1))
    assert seen.add(("a", 5, WINDOW + 2))
    assert ("a", 5, 2) in seen
    assert ("a", 5, 3) not in seen
    assert seen.add(("a", 6, 1))
    assert not seen.add(("a", 5, WINDOW + 3))
    assert seen.add(("b", 1, 1))
    for number in range(1, 5 * WINDOW):
        seen.add(("b", 1, number))
    assert len(seen._sources["b"].numbers) <= 2 * WINDOW


def test_what_is_held_is_bounded():
    """Holding more than the limit drops the oldest."""
    net = RelayNet(2, mesh(2))
    cast(net, 0, MAX_HELD + 10)
    assert len(net.nodes[0].casts._held) == MAX_HELD
    routes = Routes(node_id(0))
    big = Casts(routes, (1, 1), lambda n, m: Sent.FULL, lambda c: None, Counters(), 0.0)
    for _ in range(200):
        big.cast(0, b"x" * MAX_BODY, 1.0)
    assert big._bytes <= 4 * 1024 * 1024


def test_what_breaks_the_rules_is_dropped():
    """Negative ages, oversize bodies and strange rows are counted, or passed over."""
    net = RelayNet(2, mesh(2))
    node, peer = net.nodes[0], node_id(1)
    for age_ms, number, body in ((-1, 1, b""), (0, 0, b""), (0, 1, b"x" * (MAX_BODY + 1))):
        node.casts.received(peer, Cast(peer, 0, 1, number, age_ms, (), body), net.now)
    assert node.counters.total("cast_messages_total", what="malformed") == 3
    node.casts.held(peer, CastsHeld(("x", [1], [peer, "y", [1]], [peer, 1, ["z"]])))
    node.casts.wanted(peer, CastsWanted(([peer, 1, [1]],)), net.now)
    assert not net.flying
    assert not node.told

"""The status fields, each by the facts that cause it; peers that are silent or lie."""

from __future__ import annotations

import pytest
from disco_fakes import FakeBackend, FakeTables, World, address, member, node_id
from twisted.internet.defer import Deferred

from meshsvc.discovery.places import Place, Standing
from meshsvc.discovery.status import Facts, PeerState, compare, marks, read_state, state_row
from meshsvc.errors import Disconnected, TimedOut, UnknownVerb
from meshsvc.gossip.members import Status

BOTH = [node_id(1), node_id(2)]


def facts(tables=None, peers=None, places=(), reason=None):
    return Facts("n1", places, marks(tables or {}), peers or {}, reason)


def peer(tables=None):
    return PeerState(1, marks(tables or {}))


@pytest.mark.contract("DISC-6")
def test_a_healthy_cluster():
    """Available, joined and discovered are the same nodes, everything else is empty."""
    places = [
        Place(address(1), Standing.HERE, "n1"),
        Place(address(2), Standing.AVAILABLE, "n2"),
    ]
    found = compare(facts({"t": BOTH}, {"n2": peer({"t": BOTH[::-1]})}, places))
    assert found.available_nodes == found.joined_nodes == found.discovered_nodes == ["n1", "n2"]
    assert found.discovery_works
    rest = {k: v for k, v in found.row().items() if isinstance(v, list) and v}
    assert set(rest) == {"available_nodes", "joined_nodes", "discovered_nodes"}


@pytest.mark.contract("DISC-6")
def test_each_way_to_differ_has_its_fields():
    """Unknown, missing and conflicting tables, with who has them; such nodes are not joined."""
    peers = {
        "unknown": peer({"t": BOTH, "theirs": BOTH}),
        "missing": peer({}),
        "conflict": peer({"t": [node_id(3)]}),
        "same": peer({"t": BOTH}),
    }
    found = compare(facts({"t": BOTH}, peers))
    assert found.remote_unknown_tables == ["theirs"]
    assert found.remote_nodes_with_unknown_tables == ["unknown"]
    assert found.remote_missing_tables == ["t"]
    assert found.remote_nodes_with_missing_tables == ["missing"]
    assert (found.conflict_tables, found.conflict_nodes) == (["t"], ["conflict"])
    assert found.joined_nodes == ["n1", "same", "unknown"]
    assert found.available_nodes == ["conflict", "missing", "n1", "same", "unknown"]


@pytest.mark.contract("DISC-6")
def test_nodes_without_discovery_and_silent_ones_are_named():
    """The first do not know the verb, the others gave no answer; neither is compared."""
    found = compare(facts({"t": BOTH}, {"old": None, "stuck": "no answer in 2 s"}))
    assert found.remote_nodes_without_discovery == ["old"]
    assert found.silent_nodes == ["stuck"]
    assert found.available_nodes == found.joined_nodes == ["n1"]
    assert found.remote_missing_tables == found.conflict_nodes == []


@pytest.mark.contract("DISC-6")
def test_unavailable_is_a_part_of_discovered_and_works_has_its_reason():
    """By construction: both are read off the same places."""
    places = [
        Place(address(2), Standing.UNAVAILABLE, "n2", "it is dead"),
        Place(address(3), Standing.UNKNOWN, "10.0.0.3:7700"),
    ]
    found = compare(facts(places=places, reason="down"))
    assert found.unavailable_nodes == ["n2"]
    assert found.discovered_nodes == ["10.0.0.3:7700", "n2"]
    assert (found.discovery_works, found.reason) == (False, "down")


def test_the_gauges_are_the_lengths_of_the_lists():
    """One per field, named like it."""
    found = compare(facts({"t": BOTH}, {"n2": peer({}), "n3": "silent"}))
    gauges = found.gauges()
    assert gauges["available_nodes"] == 2
    assert gauges["discovery_works"] == 1
    assert gauges["silent_nodes"] == 1
    assert set(gauges) == set(found.row()) - {"reason"}


@pytest.mark.parametrize(
    "row", [None, 1, [], [1], ["1", {}], [1, []], [1, {1: b""}], [1, {"t": "x"}], [True, {}]]
)
def test_an_answer_that_is_no_state_is_none(row):
    """A peer may answer anything."""
    assert read_state(row) is None


def test_a_state_survives_the_way():
    """What is told is what is read, and fields added later are ignored."""
    tables = marks({"t": BOTH})
    assert read_state([*state_row(7, tables), "later"]) == PeerState(7, tables)


@pytest.mark.contract("DISC-6")
def test_a_silent_peer_costs_a_status_its_time_and_no_more():
    """All are asked at once, each for 2 s; those who ask meanwhile share the answer."""
    stuck = Deferred(lambda d: d.errback(TimedOut("no answer")))
    tables = FakeTables({"t": BOTH})
    others = [member(2), member(3), member(4), member(5), member(6, Status.DEAD)]
    with World(FakeBackend([]), *others, tables=tables) as world:
        world.messaging.answers = {
            node_id(2): state_row(1, marks({"t": BOTH})),
            node_id(3): stuck,
            node_id(4): UnknownVerb("discovery.state"),
            node_id(5): ["nonsense"],
        }
        got = []
        world.service.status().addCallback(got.append)
        world.service.status().addCallback(got.append)
        assert got == []
        asked = [node for node, verb, timeout_s in world.messaging.asked]
        assert asked == [node_id(number) for number in (2, 3, 4, 5)], "once, and no dead one"
        assert {timeout_s for *_, timeout_s in world.messaging.asked} == {2.0}
        stuck.cancel()
        assert got[0] is got[1]
        assert got[0].joined_nodes == ["n1", "n2"]
        assert got[0].silent_nodes == ["n3", "n5"]
        assert got[0].remote_nodes_without_discovery == ["n4"]


def test_gauges_are_refreshed_by_themselves():
    """Every 30 s others are asked; what needs nobody is there at once."""
    with World(FakeBackend(["10.0.0.2:7700"]), member(2)) as world:
        world.look()
        gauges = {name: value for (name, _), value in world.counters.gauges.items()}
        assert gauges["discovery_discovered_nodes"] == 1
        assert gauges["discovery_discovery_works"] == 1
        world.messaging.answers[node_id(2)] = Disconnected("gone")
        world.run(30.0)
        gauges = {name: value for (name, _), value in world.counters.gauges.items()}
        assert gauges["discovery_silent_nodes"] == 1
        assert gauges["discovery_joined_nodes"] == 1

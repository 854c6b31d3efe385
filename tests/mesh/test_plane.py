"""One shard's part: what it tells its siblings, and what it makes of what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mesh_net import FakeLink, node_info, nodes

from meshsvc.mesh import roster as rosters
from meshsvc.mesh.epoch import Became, MeshState, Sighted, Superseded
from meshsvc.mesh.formation import REPORT_S
from meshsvc.mesh.plane import OWED_S, Disputed, ShardPlane, ToShard
from meshsvc.model import Epoch, LinkClass, NodeId, Roster, ShardId
from meshsvc.wire.messages import LinkState, Mesh

ME, PEER = MEMBERS = nodes(2, shards=3)
SHARDS = [ShardId(index) for index in range(3)]


def roster(attempt=1, members=MEMBERS):
    return Roster(Epoch(1, attempt), members)


def mesh(attempt=1, members=MEMBERS):
    return Mesh(1, attempt, rosters.rows(members))


def plane(shard=0, siblings=True, owner=0):
    core = ShardPlane(ME, SHARDS[shard], lambda peer, shards: SHARDS[owner])
    for sibling in SHARDS if siblings else ():
        if sibling != shard:
            core.sibling_up(sibling)
    core.take_effects()
    return core


def told(core, kind=Mesh):
    effects = [effect for effect in core.take_effects() if isinstance(effect, ToShard)]
    return [(e.shard, e.message) for e in effects if isinstance(e.message, kind)]


def test_shard_zero_spreads_what_it_adopts():
    """Each sibling gets the mesh; the others spread nothing."""
    core = plane()
    assert core.offer(roster()).accepted
    assert told(core) == [(1, mesh()), (2, mesh())]
    assert core.offer(roster()).accepted
    assert told(core) == []
    other = plane(1)
    other.received(SHARDS[0], mesh())
    assert other.roster == roster()
    assert told(other) == []


def test_a_sibling_that_connects_is_told_everything():
    """The mesh, the states of links, control links, and a sighting that is not adopted."""
    core = plane(siblings=False)
    core.offer(roster())
    control = FakeLink(PEER, Epoch(0, 0), link_class=LinkClass.CONTROL)
    core.link_up(control)
    core.sighted(Epoch(2, 1))
    core.take_effects()
    core.sibling_up(SHARDS[2])
    messages = [effect.message for effect in core.take_effects()]
    assert messages[:2] == [mesh(), Mesh(2, 1, ())]
    assert [(m.link_class, m.state) for m in messages[2:]] == [(1, "awaiting"), (0, "up")]


def test_a_shard_zero_that_was_restarted_gets_the_mesh_back():
    """Any sibling gives it to shard 0, and shard 0 only."""
    core = plane(1, siblings=False)
    core.received(SHARDS[0], mesh())
    core.take_effects()
    core.sibling_up(SHARDS[2])
    assert told(core) == []
    core.sibling_up(SHARDS[0])
    assert told(core) == [(0, mesh())]


def test_a_sibling_with_an_older_mesh_is_corrected():
    """It gets the one in force here in return, and that is the end of it."""
    core = plane()
    core.offer(roster(5))
    core.take_effects()
    core.received(SHARDS[1], mesh(4))
    effects = core.take_effects()
    assert isinstance(effects[0], Disputed)
    assert effects[1:] == [ToShard(SHARDS[1], mesh(5))]


@pytest.mark.contract("MESH-4")
def test_a_conflict_between_siblings_changes_nothing():
    """Same epoch, other roster: told for the log, not answered."""
    core = plane(1)
    core.received(SHARDS[0], mesh(5))
    core.take_effects()
    core.received(SHARDS[0], mesh(5, (*MEMBERS, node_info(3))))
    (disputed,) = core.take_effects()
    assert disputed.reason.startswith("epoch-conflict")
    assert core.roster == roster(5)


@pytest.mark.contract("MESH-3")
def test_a_sighting_reaches_all_shards():
    """The shard that met the peer tells shard 0, which tells all; each gives up by itself."""
    meets, first, third = plane(1), plane(0), plane(2)
    for core in (meets, first, third):
        core.offer(roster())
        core.take_effects()
    meets.sighted(Epoch(2, 1))
    effects = meets.take_effects()
    assert effects[:3] == [
        ToShard(SHARDS[0], Mesh(2, 1, ())),
        Sighted(Epoch(2, 1)),
        Superseded(Epoch(1, 1), Epoch(2, 1)),
    ]
    first.received(SHARDS[1], Mesh(2, 1, ()))
    assert told(first) == [(1, Mesh(2, 1, ())), (2, Mesh(2, 1, ()))]
    third.received(SHARDS[0], Mesh(2, 1, ()))
    meets.received(SHARDS[0], Mesh(2, 1, ()))
    assert told(meets) == []
    assert {core.state for core in (meets, first, third)} == {MeshState.WAITING}


def test_a_full_outbox_means_being_told_again():
    """A moment later, everything, once for any number of messages that did not go."""
    core = plane()
    core.offer(roster())
    core.take_effects()
    core.undelivered(SHARDS[1], roster(), 10.0)
    core.undelivered(SHARDS[1], roster(), 10.01)
    assert core.deadline() == 10.0 + OWED_S
    core.tick(10.0 + OWED_S)
    assert [(shard, type(m)) for shard, m in told(core, object)] == [(1, Mesh), (1, LinkState)]
    assert core.deadline() is None
    core.undelivered(SHARDS[1], roster(), 11.0)
    core.sibling_down(SHARDS[1])
    core.tick(12.0)
    assert told(core, object) == []
    core.undelivered(SHARDS[1], roster(), 13.0)
    assert core.deadline() is None


@pytest.mark.contract("VERB-2")
def test_an_end_that_a_full_outbox_swallowed_is_told_later():
    """Another link may be there by then: what was on the one that ended is lost all the same."""
    core = plane()
    core.offer(roster())
    core.take_effects()
    down = LinkState(NodeId("f" * 32), 1, LinkClass.CONTROL.value, False, 0, 0, 0, "down")
    agreeing = replace(down, link_class=LinkClass.DATA.value, state="agreeing")
    for message in (down, agreeing):
        core.undelivered(SHARDS[1], message, 10.0)
    core.tick(10.0 + OWED_S)
    first = [m for _, m in told(core, object)]
    assert first[1] == down
    assert agreeing not in first
    core.undelivered(SHARDS[1], roster(), 11.0)
    core.tick(11.0 + OWED_S)
    assert down not in [m for _, m in told(core, object)]


@pytest.mark.contract("MESH-6")
@pytest.mark.parametrize(
    "rubbish",
    [
        Mesh(0, 0, ()),
        Mesh(0, 1, (1,)),
        Mesh(1, 1, ("x",)),
        Mesh(1, 1, ([],)),
        Mesh(2**64 - 1, 1, ()),
    ],
)
def test_rubbish_of_a_sibling_is_told_and_dropped(rubbish):
    """It changes nothing here."""
    core = plane()
    core.received(SHARDS[1], rubbish)
    (disputed,) = core.take_effects()
    assert disputed.reason.startswith("malformed: ")
    assert core.state is MeshState.WAITING


def test_other_messages_are_passed_over():
    """The bus carries messages of every part of the node."""
    core = plane()
    core.received(SHARDS[1], object())
    assert core.take_effects() == []


def test_the_state_follows_the_links_of_all_shards():
    """Formed when the owner says so, degraded when that shard is gone."""
    core = plane(0, owner=1)
    core.offer(roster())
    core.received(SHARDS[1], LinkState(PEER.node_id, 1, 1, True, 1, 1, 0, "up"))
    assert core.state is MeshState.FORMED
    core.take_effects()
    core.sibling_down(SHARDS[1])
    assert Became(MeshState.DEGRADED) in core.take_effects()


def test_control_links_are_known_to_every_shard():
    """Shard 0 has them and tells; what it told is forgotten with it."""
    core, other = plane(0), plane(1)
    link = FakeLink(PEER, Epoch(0, 0), link_class=LinkClass.CONTROL)
    core.link_up(link)
    for shard, state in told(core, LinkState):
        if shard == 1:
            other.received(SHARDS[0], state)
    assert core.reachable(LinkClass.CONTROL) == other.reachable(LinkClass.CONTROL) == {PEER.node_id}
    core.link_up(link)
    assert told(core, LinkState) == []
    core.link_down(link)
    ((_, state), _) = told(core, LinkState)
    other.received(SHARDS[0], state)
    assert other.reachable(LinkClass.CONTROL) == frozenset()
    other.received(SHARDS[0], LinkState(PEER.node_id, 1, 0, True, 0, 0, 0, "up"))
    other.sibling_down(SHARDS[0])
    assert other.reachable(LinkClass.CONTROL) == frozenset()


def test_round_trips_are_reported_at_intervals():
    """Every five seconds what changed, nothing when nothing did."""
    core = plane()
    core.start(0.0)
    core.offer(roster())
    link = FakeLink(PEER, Epoch(1, 1))
    core.link_up(link)
    core.take_effects()
    link.rtt_ms = 7.0
    assert core.deadline() == REPORT_S
    core.tick(REPORT_S)
    assert [message.rtt_us for _, message in told(core, LinkState)] == [7000, 7000]
    core.tick(2 * REPORT_S)
    assert told(core, LinkState) == []

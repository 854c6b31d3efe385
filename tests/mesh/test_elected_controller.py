"""The elected controller: it mints only while it leads, and never what another may have."""

from __future__ import annotations

import pytest
from mesh_net import nodes
from zope.interface.verify import verifyObject

from meshsvc.interfaces import IMeshController
from meshsvc.mesh.controller import Abandoned, Delivered, PersistEpoch, SendCreateMesh
from meshsvc.mesh.elected import ElectedController, MintedMesh
from meshsvc.mesh.epoch import Answer
from meshsvc.model import NO_EPOCH, Epoch, Roster

VIEW = nodes(3)
NAMES = tuple(node.name for node in VIEW)


def controller(me=VIEW[0]):
    core = ElectedController(me, NAMES)
    core.start(0.0)
    core.members_changed(VIEW, 0.0)
    return core


def run(core, now, minted):
    """Do what is due at ``now``; epochs are committed, or not, by the group's ``minted``."""
    events = []
    for _ in range(20):
        core.tick(now)
        fresh = core.take_events()
        events += fresh
        for event in fresh:
            if isinstance(event, PersistEpoch):
                done = core.persisted if minted.mint(core.mesh) else core.persist_failed
                done(event.epoch, now)
        if not fresh:
            return events
    raise AssertionError("it never comes to rest")


def sent(events):
    return [event for event in events if isinstance(event, SendCreateMesh)]


@pytest.mark.contract("MESH-11")
def test_it_provides_the_interface():
    """IMeshController, as zope checks it."""
    assert verifyObject(IMeshController, controller())


@pytest.mark.contract("MESH-11")
def test_a_follower_mints_nothing():
    """However long it waits and whatever it sees."""
    core = controller()
    assert core.deadline() is None
    assert run(core, 60.0, MintedMesh()) == []


@pytest.mark.contract("MESH-11", "MESH-2")
def test_a_leader_mints_under_its_term():
    """(term of the group, attempt from 1), sent to all once the group has accepted it."""
    core, minted = controller(), MintedMesh()
    core.lead(4, NO_EPOCH, 1.0)
    events = run(core, 1.0, minted)
    assert minted.last.epoch == Epoch(4, 1)
    assert {event.node_id for event in sent(events)} == {node.node_id for node in VIEW}
    for node in VIEW:
        core.answered(node.node_id, minted.last.epoch, Answer(True, minted.last.epoch, ""), 1.1)
    assert core.take_events() == [Delivered(Roster(Epoch(4, 1), VIEW))]
    core.members_changed(VIEW[:2], 2.0)
    run(core, 3.0, minted)
    assert minted.last.epoch == Epoch(4, 2)


@pytest.mark.contract("MESH-11", "MESH-2")
def test_a_deposed_leader_sends_nothing():
    """What the group does not accept never reaches a member."""
    core, minted = controller(), MintedMesh(Roster(Epoch(9, 9), VIEW))
    core.lead(4, NO_EPOCH, 1.0)
    assert sent(run(core, 1.0, minted)) == []
    core.follow(1.5)
    assert sent(run(core, 60.0, minted)) == []
    assert run(core, 90.0, minted) == []


@pytest.mark.contract("MESH-11", "MESH-8")
def test_the_next_leader_goes_on_at_once():
    """It mints above what the group accepted, without the patience of a first start."""
    first, second, minted = controller(), controller(VIEW[1]), MintedMesh()
    first.lead(1, NO_EPOCH, 0.0)
    run(first, 0.0, minted)
    second.adopted(first.mesh, 0.1)
    first.follow(5.0)
    assert any(isinstance(event, Abandoned) for event in first.take_events())
    left = VIEW[1:]
    second.members_changed(left, 5.0)
    second.lead(2, minted.last.epoch, 5.0)
    assert sent(run(second, 5.6, minted)), "well before the patience of a start is over"
    assert second.mesh == Roster(Epoch(2, 1), left)


@pytest.mark.contract("MESH-11")
def test_a_mesh_that_is_as_wanted_stays():
    """A change of leader alone costs no epoch: the mesh in force is accepted as it is."""
    first, second, minted = controller(), controller(VIEW[1]), MintedMesh()
    first.lead(1, NO_EPOCH, 0.0)
    run(first, 0.0, minted)
    second.adopted(first.mesh, 0.1)
    second.lead(2, minted.last.epoch, 5.0)
    second.take_events()
    run(second, 60.0, minted)
    assert second.mesh.epoch == Epoch(1, 1)


@pytest.mark.contract("MESH-11", "MESH-2")
def test_an_epoch_from_before_the_group_is_left_below():
    """A mesh that had a static controller goes on with greater epochs."""
    core, minted = controller(), MintedMesh()
    core.epoch_seen(Epoch(7, 3), 0.0)
    core.lead(2, NO_EPOCH, 1.0)
    run(core, 1.0, minted)
    assert minted.last.epoch == Epoch(7, 4)


@pytest.mark.contract("MESH-2", "MESH-4")
def test_the_group_takes_one_roster_for_each_epoch():
    """In rising order; the last one again, but never another one under its epoch."""
    minted = MintedMesh()
    assert minted.mint(Roster(Epoch(1, 2), VIEW))
    assert minted.mint(Roster(Epoch(1, 2), VIEW)), "it is what is in force"
    assert not minted.mint(Roster(Epoch(1, 2), VIEW[:2]))
    assert not minted.mint(Roster(Epoch(1, 1), VIEW))
    assert minted.mint(Roster(Epoch(2, 1), VIEW[:2]))

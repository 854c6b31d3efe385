"""The epoch of one node: offers, sightings, and every (state, input) pair."""

from __future__ import annotations

import itertools
import random

import pytest
from mesh_net import node_info, nodes

from meshsvc.mesh.epoch import (
    Adopted,
    Answer,
    Became,
    EpochMachine,
    MeshState,
    NodeEpoch,
    Sighted,
    Superseded,
    _Core,
)
from meshsvc.model import NO_EPOCH, Epoch, Roster

MEMBERS = nodes(3)
ME = MEMBERS[1]


def roster(term, attempt, members=MEMBERS):
    return Roster(Epoch(term, attempt), members)


def holder(*epochs):
    """A node that adopted these epochs in turn."""
    held = NodeEpoch(ME.node_id, ME.incarnation)
    for term, attempt in epochs:
        assert held.offer(roster(term, attempt)).accepted
    held.take_events()
    return held


WALK = {
    # input: what it leads to from waiting, forming, formed, degraded, superseded
    "adopt": ["forming"] * 5,
    "supersede": ["waiting", "superseded", "superseded", "superseded", "superseded"],
    "complete": ["waiting", "formed", "formed", "formed", "superseded"],
    "missing": ["waiting", "forming", "degraded", "degraded", "superseded"],
}
SHOWN = {"superseded": MeshState.WAITING}
PATHS = [
    [],
    [("adopt", roster(1, 1))],
    [("adopt", roster(1, 1)), ("complete",)],
    [("adopt", roster(1, 1)), ("complete",), ("missing",)],
    [("adopt", roster(1, 1)), ("supersede", Epoch(2, 1))],
]
ARGUMENTS = {"adopt": [roster(3, 1)], "supersede": [Epoch(4, 1)], "complete": [], "missing": []}


@pytest.mark.parametrize(("path", "name"), list(itertools.product(range(5), WALK)))
def test_every_state_takes_every_input(path, name):
    """Each pair leads where the table says, and a change of the shown state is announced."""
    core = _Core()
    machine = EpochMachine(core)
    for step, *arguments in PATHS[path]:
        getattr(machine, step)(*arguments)
    before = machine.state()
    core.events.clear()
    getattr(machine, name)(*ARGUMENTS[name])
    target = WALK[name][path]
    assert machine.state() == SHOWN.get(target, target)
    became = [event.state for event in core.events if isinstance(event, Became)]
    if machine.state() != before:
        assert became == [machine.state()]
    if name not in {"adopt", "supersede"} and machine.state() == before:
        assert core.events == []


@pytest.mark.contract("MESH-2")
def test_only_a_greater_epoch_is_adopted():
    """Lower epochs, by term or by attempt, are refused with an answer that names mine."""
    held = holder((2, 5))
    for lower in ((1, 9), (2, 4)):
        answer = held.offer(roster(*lower))
        assert (answer.accepted, answer.epoch) == (False, Epoch(2, 5))
        assert answer.reason.startswith("epoch-low: ")
        assert "2.5" in answer.reason
    assert held.take_events() == []
    assert held.offer(roster(2, 6)) == Answer(True, Epoch(2, 6), "")
    assert held.take_events() == [
        Adopted(roster(2, 6), Epoch(2, 5)),
        Became(MeshState.FORMING),
    ]


@pytest.mark.contract("MESH-4")
def test_a_verbatim_repeat_changes_nothing():
    """Accepted again, without an event."""
    held = holder((2, 5))
    assert held.offer(roster(2, 5)) == Answer(True, Epoch(2, 5), "")
    assert held.take_events() == []


@pytest.mark.contract("MESH-4")
@pytest.mark.parametrize("members", [MEMBERS[:2], MEMBERS[::-1], nodes(3, shards=2)])
def test_the_same_epoch_with_another_roster_is_a_conflict(members):
    """Fewer members, another order or another row: refused, the mesh in place stays."""
    held = holder((2, 5))
    if members[1] != ME:
        members = (*[node for node in members if node.node_id != ME.node_id], ME)
    answer = held.offer(roster(2, 5, members))
    assert not answer.accepted
    assert answer.conflict
    assert answer.reason.startswith("epoch-conflict: ")
    assert held.roster == roster(2, 5)
    assert held.take_events() == []


@pytest.mark.contract("MESH-3")
def test_a_sighting_voids_the_attempt():
    """Both epochs are named, nothing below the sighted one is taken, that one is."""
    held = holder((1, 1))
    assert held.sighted(Epoch(1, 3))
    sighted, superseded, became = held.take_events()
    assert sighted == Sighted(Epoch(1, 3))
    assert superseded == Superseded(Epoch(1, 1), Epoch(1, 3))
    assert became == Became(MeshState.WAITING)
    text = str(superseded.error())
    assert "1.1" in text
    assert "1.3" in text
    assert (held.in_force, held.greatest) == (NO_EPOCH, Epoch(1, 3))
    for lower in ((1, 1), (1, 2)):
        assert held.offer(roster(*lower)).epoch == Epoch(1, 3)
    assert held.offer(roster(1, 3)).accepted
    assert held.in_force == Epoch(1, 3)


def test_only_a_greater_sighting_is_news():
    """Lower, equal and absurd epochs are no news, and void nothing."""
    held = holder((2, 5))
    for epoch in (Epoch(2, 5), Epoch(1, 9), NO_EPOCH, Epoch(2**63, 1), Epoch(3, 0)):
        assert not held.sighted(epoch)
    assert held.take_events() == []
    assert held.in_force == Epoch(2, 5)


@pytest.mark.contract("MESH-7")
def test_a_roster_of_another_life_or_without_me_is_refused():
    """A late CreateMesh for a former life of this node is not taken for this one."""
    held = NodeEpoch(ME.node_id, node_info(2, 8).incarnation)
    assert held.offer(roster(1, 1)).reason.startswith("stale-incarnation: ")
    assert held.offer(roster(1, 1, MEMBERS[:1])).reason.startswith("not-in-roster: ")
    assert held.offer(roster(2**63, 1)).reason.startswith("malformed: ")
    assert held.state is MeshState.WAITING


def test_answers_survive_the_wire():
    """An answer is read back equal; anything else is a ValueError."""
    for answer in (Answer(True, Epoch(1, 2), ""), Answer(False, NO_EPOCH, "why")):
        assert Answer.from_wire(answer.to_wire()) == answer
    for rubbish in (None, [], [1, "1.1", ""], [True, 11, ""], [True, "0.1", ""], [True, "1.1"]):
        with pytest.raises(ValueError, match="is no"):
            Answer.from_wire(rubbish)


@pytest.mark.contract("MESH-2")
@pytest.mark.parametrize("seed", range(20))
def test_the_epoch_only_rises(seed):
    """Random offers and sightings: never down, never two rosters at one epoch."""
    rng = random.Random(seed)
    held = NodeEpoch(ME.node_id, ME.incarnation)
    rosters = {}
    for _ in range(200):
        before, greatest = held.epoch, held.greatest
        epoch = Epoch(rng.randint(1, 4), rng.randint(1, 6))
        act = rng.random()
        if act < 0.6:
            offered = Roster(epoch, tuple(rng.sample(MEMBERS, rng.randint(1, 3))))
            answer = held.offer(offered)
            assert not answer.accepted or offered.epoch >= greatest
        elif act < 0.8:
            held.sighted(epoch)
        else:
            held.links(rng.random() < 0.5)
        assert held.epoch >= before
        assert held.greatest >= greatest
        if held.roster:
            assert rosters.setdefault(held.epoch, held.roster) == held.roster

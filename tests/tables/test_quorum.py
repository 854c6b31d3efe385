"""When a leader may decide: rosters, seals, and members that forgot (TBL-3)."""

from __future__ import annotations

from itertools import combinations

import pytest

from meshsvc.errors import WireError
from meshsvc.model import Address, Epoch, Incarnation, NodeId, NodeInfo, Roster
from meshsvc.tables.leading.quorum import (
    MAX_CONFIGS,
    Answer,
    Config,
    Seal,
    gather,
    lacking,
    leader_of,
    majority,
)

A, B, C, D, E = (NodeId(c * 32) for c in "abcde")
FIRST = Epoch(1, 1)
THREE = Config(Epoch(1, 2), (A, B, C))


def answers(*nodes, born=FIRST, anew=False):
    return {node: Answer(born, anew, ()) for node in nodes}


def nobody(node):
    return False


@pytest.mark.contract("TBL-3")
def test_a_majority_that_remembers_is_enough_and_less_is_not():
    """Two of three that held everything since the roster's epoch; or all three, whoever."""
    assert lacking(THREE, answers(A, B), nobody) == []
    assert lacking(THREE, answers(A), nobody) == [B, C]
    young = answers(A, B, born=Epoch(1, 3))
    assert lacking(THREE, young, nobody) == [C]
    assert lacking(THREE, {**young, **answers(C)}, nobody) == []
    assert lacking(THREE, answers(A), lambda node: node != A) == []


@pytest.mark.contract("TBL-3")
def test_any_two_majorities_meet_in_one_that_remembers():
    """Whoever acked for a leader and whoever sealed it have a member in common."""
    config = Config(Epoch(1, 2), (A, B, C, D, E))
    for acked in combinations(config.members, majority(5)):
        for sealed in combinations(config.members, majority(5)):
            assert lacking(config, answers(*sealed), nobody) == []
            assert set(acked) & set(sealed)


def test_a_life_that_began_within_an_epoch_does_not_remember_it():
    """A shard that was restarted under an epoch may have forgotten what it took under it."""
    assert Answer(Epoch(1, 2), False, ()).remembers(THREE)
    assert not Answer(Epoch(1, 2), True, ()).remembers(THREE)
    assert not Answer(Epoch(1, 3), False, ()).remembers(THREE)


@pytest.mark.contract("TBL-3")
def test_a_seal_only_rises_and_an_office_forgets_what_was_before():
    """No earlier leader after a later one; rosters are kept until one is known to be active."""
    seal = Seal(FIRST, False)
    later, latest = Config(Epoch(1, 3), (A, B)), Config(Epoch(1, 4), (A,))
    assert seal.seal(THREE)
    assert seal.seal(later)
    assert not seal.seal(THREE)
    assert seal.seal(later)
    assert seal.answer.configs == (THREE, later)
    assert gather([latest], [seal.answer]) == [THREE, later, latest]
    seal.activated(later)
    assert seal.configs == [later]
    for number in range(5, 4 + MAX_CONFIGS):
        assert seal.seal(Config(Epoch(1, number), (A,)))
    assert not seal.seal(Config(Epoch(2, 1), (A,)))


def test_answers_survive_the_wire_and_rubbish_does_not():
    """Wire forms read back equal; anything else is a WireError."""
    answer = Answer(FIRST, True, (THREE,))
    assert Answer.read(answer.wire()) == answer
    for rubbish in (None, [1], [1, 1, False, [[1]]]):
        with pytest.raises(WireError):
            Answer.read(rubbish)


def test_all_agree_on_the_leader_and_tables_have_different_ones():
    """It is computed from the roster alone, and is the last shard of its node."""
    members = [
        NodeInfo(node, name, Incarnation(1), Address("h", 1), 3)
        for node, name in ((A, "a"), (B, "b"), (C, "c"))
    ]
    one, other = Roster(FIRST, tuple(members)), Roster(FIRST, tuple(reversed(members)))
    leaders = [leader_of(f"t{n}", one) for n in range(30)]
    assert leaders == [leader_of(f"t{n}", other) for n in range(30)]
    assert {leader.node for leader in leaders} == {A, B, C}
    assert {leader.shard for leader in leaders} == {2}

"""Whom to dial, and when to leave it to the other."""

from __future__ import annotations

from harness import address

from meshsvc.gossip.dialing import YIELD_S, DialPlan
from meshsvc.gossip.effects import Forget, Keep
from meshsvc.model import Incarnation, NodeId, NodeInfo


def info(letter: str, number: int, generation: int = 1) -> NodeInfo:
    return NodeInfo(NodeId(letter * 32), letter, Incarnation(generation), address(number), 1)


ME = info("m", 0)
SMALL, GREAT = info("a", 1), info("z", 2)


def test_contacts_are_dialed_at_once_and_for_ever() -> None:
    """Whoever answers there is welcome; this node's own address is skipped."""
    plan = DialPlan(ME, [address(0), address(5)])
    assert plan.contacts == (address(5),)
    assert plan.update(0.0) == [Keep(address(5), None)]
    plan.know(info("z", 5), 1.0)
    assert plan.update(1.0) == []


def test_the_smaller_id_dials_first() -> None:
    """A greater one is dialed at once, a smaller one gets a moment to do it itself."""
    plan = DialPlan(ME, [])
    plan.know(SMALL, 0.0)
    plan.know(GREAT, 0.0)
    assert plan.update(0.0) == [Keep(address(2), GREAT.node_id)]
    assert plan.deadline() == YIELD_S
    assert plan.update(YIELD_S) == [Keep(address(1), SMALL.node_id)]
    assert plan.deadline() is None


def test_a_node_that_moved_is_dialed_where_it_is() -> None:
    """The old address is forgotten."""
    plan = DialPlan(ME, [])
    plan.know(GREAT, 0.0)
    plan.update(0.0)
    plan.know(info("z", 7, 2), 1.0)
    assert plan.update(1.0) == [Forget(address(2)), Keep(address(7), GREAT.node_id)]
    plan.drop(GREAT.node_id)
    assert plan.update(2.0) == [Forget(address(7))]


def test_of_two_ids_at_one_address_the_later_life_is_expected() -> None:
    """A rebuilt node has a new id where the old one was."""
    plan = DialPlan(ME, [])
    plan.know(info("z", 7, 1), 0.0)
    plan.know(info("y", 7, 2), 0.0)
    assert plan.update(0.0) == [Keep(address(7), NodeId("y" * 32))]

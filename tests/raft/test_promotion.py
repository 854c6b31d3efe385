"""Nodes that come later: learners first, voters when they have caught up."""

from __future__ import annotations

import pytest
from groups import World

from meshsvc.raft.membership import ChangeRefused
from meshsvc.raft.promotion import next_change
from meshsvc.raft.quorum import make_config
from meshsvc.raft.settings import Settings

pytestmark = pytest.mark.contract("RAFT-4")


def settle(world, wanted, most):
    """Let the leader change members until nothing is left to change."""
    changes = []
    for _ in range(60):
        leader = world.leader()
        change = next_change(world.groups[leader].status(), wanted, most, Settings())
        if change is not None:
            try:
                world.groups[leader].change(set(change.voters), set(change.learners), 5)
                changes.append(change)
            except ChangeRefused:
                pass  # the last one is not committed yet
        world.run(0.1)
    return changes


def test_more_nodes_than_expected_join_as_learners_and_are_promoted():
    """Two more than three: one at a time, each a learner first."""
    world = World(3)
    leader = world.leader()
    for number in range(20):
        world.result(world.groups[leader].propose(b"%d" % number, 5))
    world.boot(4)
    world.boot(5)
    changes = settle(world, {1, 2, 3, 4, 5}, 5)
    assert [(len(c.voters), len(c.learners)) for c in changes] == [(3, 1), (3, 2), (4, 1), (5, 0)]
    assert world.groups[leader].status().config == make_config([1, 2, 3, 4, 5])
    assert world.machines[5].done == world.machines[leader].done
    world.stop()


def test_voters_are_bounded_and_the_dead_are_not_promoted():
    """The rest stay learners; so does one that does not answer."""
    world = World(3)
    world.leader()
    world.boot(4)
    settle(world, {1, 2, 3, 4}, 3)
    assert world.groups[world.leader()].status().config == make_config([1, 2, 3], [4])
    world.kill(4)
    world.run(2)
    settle(world, {1, 2, 3, 4}, 5)
    assert world.groups[world.leader()].status().config == make_config([1, 2, 3], [4])
    world.stop()


def test_only_the_leader_changes_members():
    """A follower has nothing to change."""
    world = World(3)
    leader = world.leader()
    other = next(me for me in (1, 2, 3) if me != leader)
    assert next_change(world.groups[other].status(), {9}, 5, Settings()) is None
    world.stop()

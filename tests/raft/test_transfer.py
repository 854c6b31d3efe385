"""Handing leadership over on purpose."""

from __future__ import annotations

import pytest
from cores import Group

from meshsvc.raft.messages import Append, TimeoutNow
from meshsvc.raft.raft import Admission

pytestmark = pytest.mark.contract("RAFT-1", "RAFT-7")


def test_a_transfer_takes_no_election_time():
    """The heir campaigns at once, and loyalty to the old leader does not stand in its way."""
    group = Group(3)
    group.elect(1)
    now = group.now
    assert group.raft(1).transfer(3, group.now)
    group.pump()
    assert group.leaders() == [3]
    assert group.now == now


def test_a_heir_that_lags_catches_up_first():
    """It is told to campaign when it has the whole log."""
    group = Group(3)
    group.elect(1)
    group.dropped = lambda source, to, message: to == 2 and isinstance(message, Append)
    group.propose(1, b"a")
    group.raft(1).transfer(2, group.now)
    group.pump()
    assert group.leaders() == [1]
    group.dropped = lambda source, to, message: False
    group.run(0.5)
    assert group.leaders() == [2]
    assert group[2].state == [b"a"]


def test_nothing_is_proposed_during_a_transfer():
    """The heir's log must be the longest; a caller tries again."""
    group = Group(3)
    group.elect(1)
    group.isolate(2)
    group.raft(1).transfer(2, group.now)
    assert group.propose(1, b"a") is Admission.TRANSFERRING


def test_a_transfer_to_a_dead_member_is_given_up():
    """After an election time the leader goes on."""
    group = Group(3)
    group.elect(1)
    group.crash(2)
    group.raft(1).transfer(2, group.now)
    group.run(1.2)
    assert group.leaders() == [1]
    assert group.propose(1, b"a") is Admission.ACCEPTED


def test_a_follower_asks_its_leader_to_transfer():
    """So that an operator can ask any member."""
    group = Group(3)
    group.elect(1)
    assert group.raft(2).transfer(3, group.now)
    group.pump()
    assert group.leaders() == [3]


@pytest.mark.parametrize("to", [1, 4, 9])
def test_only_another_voter_can_be_the_heir(to):
    """Not oneself, a learner or a stranger."""
    group = Group(4, learners=1)
    group.elect(1)
    assert not group.raft(1).transfer(to, group.now)


def test_a_late_command_to_campaign_is_ignored():
    """It holds for the term it was given in."""
    group = Group(3)
    group.elect(1)
    old = group.status(1).term
    group.elect(2)
    group.raft(3).step(1, TimeoutNow(old), group.now)
    group.pump()
    assert group.leaders() == [2]


def test_no_acknowledged_entry_is_lost_in_a_transfer():
    """Proposals before, during and after: what was accepted and committed stays."""
    group = Group(3)
    group.elect(1)
    sent = []
    for number in range(20):
        leader = group.leaders()[0]
        if number % 5 == 0:
            group.raft(leader).transfer(leader % 3 + 1, group.now)
        data = b"%d" % number
        if group.propose(group.leaders()[0], data) is Admission.ACCEPTED:
            sent.append(data)
        group.run(0.1)
    assert group[1].state == group[2].state == group[3].state == sent
    assert len(sent) >= 16

"""Linearizable reads without an entry in the log, and when they must not be served."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cores import QUICK, Group

from meshsvc.raft.core import Role
from meshsvc.raft.messages import Append, Heartbeat, HeartbeatReply, ReadReply, TimeoutNow
from meshsvc.raft.ready import ReadState

pytestmark = pytest.mark.contract("RAFT-1")


def test_a_read_within_the_lease_asks_nobody():
    """A quorum confirmed a heartbeat of late: the answer is there at once."""
    group = Group(3)
    group.elect(1)
    group.propose(1, b"a")
    group.run(0.3)
    group.log.clear()
    assert group.read(1) == group.status(1).commit
    assert not [m for *_, m, _ in group.log if isinstance(m, Heartbeat)]


def test_a_read_after_the_lease_takes_one_round():
    """ReadIndex: a heartbeat round begun after the read confirms it."""
    group = Group(3, replace(QUICK, lease_share=0.3))
    group.elect(1)
    group.dropped = lambda source, to, message: isinstance(message, HeartbeatReply)
    group.run(0.5)
    group.dropped = lambda source, to, message: False
    group.log.clear()
    number = group.raft(1).read_index(group.now)
    assert group[1].reads == {}
    group.run(0.11)
    assert group[1].reads[number] == group.status(1).commit


def test_many_reads_share_a_round():
    """A thousand reads cost one heartbeat to each follower."""
    group = Group(3, replace(QUICK, lease_share=0.0))
    group.elect(1)
    group.log.clear()
    numbers = [group.raft(1).read_index(group.now) for _ in range(1000)]
    group.pump()
    assert all(number in group[1].reads for number in numbers)
    assert len([m for *_, m, _ in group.log if isinstance(m, Heartbeat)]) <= 4


def test_a_follower_reads_through_its_leader():
    """It learns how far it must have applied."""
    group = Group(3)
    group.elect(1)
    group.propose(1, b"a")
    assert group.read(3) == group.status(1).commit


def test_a_new_leader_serves_no_read_before_it_has_committed_in_its_term():
    """Its commit index may lag behind what the last leader acknowledged (thesis, 6.4)."""
    group = Group(3)
    group.elect(1)
    group.dropped = lambda source, to, message: (
        isinstance(message, Append) and to == 2 and message.commit >= 3
    )
    group.propose(1, b"acknowledged")
    group.dropped = lambda source, to, message: False
    acknowledged = group.status(1).commit
    group.crash(1)
    group.dropped = lambda source, to, message: isinstance(message, Append)
    for _ in range(100):
        group.run(0.1)
        if group.leaders():
            break
    (leader,) = group.leaders()
    assert group.read(leader) is None
    assert group.status(leader).reads == 1
    group.dropped = lambda source, to, message: False
    group.run(0.5)
    (index,) = group[leader].reads.values()
    assert index > acknowledged


def test_a_deposed_leader_serves_no_read():
    """Cut off, it has no lease soon and gets no quorum; the others may write meanwhile."""
    group = Group(3)
    group.elect(1)
    group.isolate(1)
    group.now += 0.85
    number = group.raft(1).read_index(group.now)
    group.run(3)
    assert number not in group[1].reads
    assert group.read(1) is None
    assert group.status(1).reads == 0


def test_the_lease_is_over_before_anybody_can_be_elected():
    """However late a follower heard the heartbeat, it stays loyal longer than the lease."""
    group = Group(3)
    group.elect(1)
    group.run(0.3)
    core, now = group.raft(1)._core, group.now
    lease = group.raft(1)._roles.leading.reads.lease_until
    heard = max(group.raft(me)._core.heard_at for me in (2, 3))
    assert now < lease <= heard + core.settings.election_s * core.settings.lease_share


def test_leases_end_when_leadership_is_handed_over():
    """A transfer is exempt from loyalty, and may succeed late: no lease in this term again."""
    group = Group(3)
    group.elect(1)
    group.run(0.3)
    group.dropped = lambda source, to, message: isinstance(message, TimeoutNow)
    assert group.raft(1).transfer(2, group.now)
    group.pump()
    group.run(1.2)
    assert group.leaders() == [1]
    group.dropped = lambda source, to, message: isinstance(message, HeartbeatReply)
    assert group.read(1) is None


def test_reads_end_with_the_term():
    """What waits at a leader that steps down is dropped; the asker asks the next one."""
    group = Group(3)
    group.elect(1)
    group.dropped = lambda source, to, message: isinstance(message, HeartbeatReply)
    group.run(0.9)
    for _ in range(5):
        group.raft(1).read_index(group.now)
    assert group.status(1).reads == 5
    group.run(0.3)
    assert group.status(1).role is not Role.LEADER
    assert group.status(1).reads == 0


def test_reads_that_wait_are_bounded():
    """One too many is dropped, not kept."""
    group = Group(3, replace(QUICK, reads=10))
    group.elect(1)
    group.dropped = lambda source, to, message: isinstance(message, HeartbeatReply)
    group.run(0.9)
    for _ in range(20):
        group.raft(1).read_index(group.now)
    assert group.status(1).reads == 10


@pytest.mark.contract("RAFT-6")
def test_read_numbers_are_not_used_again_after_a_restart():
    """A late answer to a read of an earlier life must answer none of this one."""
    group = Group(3)
    group.elect(1)
    first = {group.raft(2).read_index(group.now) for _ in range(10)}
    group.crash(2)
    group.restart(2)
    group.run(0.3)
    second = {group.raft(2).read_index(group.now) for _ in range(10)}
    assert not first & second


def test_a_single_voter_reads_at_once():
    """It is its own quorum."""
    group = Group(1)
    group.run(0.1)
    group.propose(1, b"a")
    assert group.read(1) == group.status(1).commit


def test_a_read_answer_of_an_old_term_is_dropped():
    """Whoever answers late may not lead any more."""
    group = Group(3)
    group.elect(1)
    number = group.raft(2).read_index(group.now)
    group.raft(2).step(1, ReadReply(1, number, 1), group.now)
    ready = group.raft(2).ready()
    assert ReadState(number, 1) not in ready.reads

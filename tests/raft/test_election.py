"""Who leads: the rules of elections and the scenarios in which they matter."""

from __future__ import annotations

import pytest
from cores import Disk, Group

from meshsvc.raft.core import COMMAND, FRESH_TERM, Role
from meshsvc.raft.log import Unsafe
from meshsvc.raft.messages import Append, Heartbeat, VoteReply, VoteRequest
from meshsvc.raft.quorum import make_config
from meshsvc.storage.records import Entry, HardState

pytestmark = pytest.mark.contract("RAFT-1", "RAFT-2")


def test_a_new_group_elects_its_first_member_at_once():
    """Nobody can have promised loyalty in the first term, so nobody waits."""
    group = Group(3)
    group.run(0.05)
    assert group.leaders() == [1]
    assert group.status(2).leader == group.status(3).leader == 1


def test_a_group_of_one_leads_itself_after_a_restart_at_once():
    """A single voter asks nobody."""
    group = Group(1)
    group.run(0.05)
    group.propose(1, b"a")
    group.crash(1)
    group.restart(1)
    group.run(0.05)
    assert group.leaders() == [1]
    assert group[1].state == [b"a"]


def test_a_dead_leader_is_replaced_within_three_election_times():
    """RAFT-7: one to two election times of silence, then one round of votes."""
    group = Group(3)
    group.elect(1)
    group.propose(1, b"before")
    group.crash(1)
    group.run(2.2)
    (leader,) = group.leaders()
    group.propose(leader, b"after")
    assert group[leader].state == [b"before", b"after"]


def test_a_leader_whose_links_broke_is_replaced_as_soon_as_loyalty_ends():
    """RAFT-7: who hears that the way to its leader is cut campaigns in its turn, not at random."""
    for seed in range(20):
        group = Group(3, seed=seed)
        group.elect(1)
        group.crash(1)
        for me in (2, 3):
            group.raft(me).unreachable(1)
        group.run(0.85)  # it was heard up to a heartbeat ago
        assert group.leaders() == [], "the lease of the dead leader may still count"
        group.run(0.3)
        assert group.leaders() == [2], "the first of the others"


def test_a_cut_way_to_a_leader_that_lives_disturbs_nobody():
    """The others hear it and deny the pre-vote; the turn is forgotten once it is heard again."""
    group = Group(3)
    group.elect(1)
    term = group.status(1).term
    group.isolate(3)
    group.raft(3).unreachable(1)
    group.run(3)
    group.heal()
    group.run(3)
    assert (group.leaders(), group.status(1).term) == ([1], term)
    group.raft(2).unreachable(1)
    group.run(3)
    assert (group.leaders(), group.status(1).term) == ([1], term)


def test_a_member_that_was_cut_off_disturbs_nobody():
    """Pre-vote: it asks and asks, and its term stays what it was (thesis, 9.6)."""
    group = Group(3)
    group.elect(1)
    term = group.status(1).term
    group.isolate(3)
    group.run(10)
    assert group.status(3).term == term
    group.heal()
    group.run(3)
    assert group.leaders() == [1]
    assert group.status(1).term == term


def test_a_follower_that_hears_its_leader_denies_its_vote():
    """A candidate with a higher term is not even answered (thesis, 4.2.3)."""
    group = Group(3)
    group.elect(1)
    term = group.status(2).term
    group.raft(2).step(3, VoteRequest(term + 5, 99, term, False, False), group.now)
    assert group.status(2).term == term
    assert group.raft(2).ready() is None


def test_a_restarted_follower_denies_its_vote_too():
    """It cannot know whether its leader counts on a lease that it granted before."""
    group = Group(3)
    group.elect(1)
    group.crash(2)
    group.restart(2)
    term = group.status(2).term
    group.raft(2).step(3, VoteRequest(term + 1, 99, term, False, False), group.now)
    assert group.status(2).term == term


def test_a_leader_without_a_quorum_steps_down_and_knows_it():
    """Check-quorum: after an election time without answers it leads no more."""
    group = Group(3)
    group.elect(1)
    group.isolate(1)
    group.run(1.2)
    assert group.status(1).role is not Role.LEADER
    assert not group.status(1).quorum


def test_a_leader_that_slept_steps_down_before_it_says_anything():
    """SIGSTOP for five seconds: time is judged first."""
    group = Group(3)
    group.elect(1)
    group.now += 5
    group.raft(1).tick(group.now)
    assert group.status(1).role is Role.FOLLOWER
    assert group.raft(1).ready() is None


def test_one_vote_a_term_across_a_crash():
    """A vote is on the disk before it is given."""
    group = Group(3)
    group.pump()
    group.now = 20
    request = VoteRequest(7, 1, FRESH_TERM, False, False)
    group.raft(2).step(3, request, group.now)
    ready = group.raft(2).ready()
    assert ready.hard_state == HardState(7, 3, 1)
    assert [type(out.message) for out in ready.after] == [VoteReply]
    assert not ready.messages
    group[2].disk.write(ready, None)
    group.restart(2)
    group.now += 5
    group.raft(2).step(1, request, group.now)
    (reply,) = (out.message for out in group.raft(2).ready().messages)
    assert reply == VoteReply(7, False, False, False)


def test_a_vote_that_was_not_saved_was_not_given():
    """A crash during the write: nothing left before it, so the vote is free again."""
    group = Group(3)
    group[2].hold_disk = True
    group.now = 20
    group.raft(2).step(3, VoteRequest(7, 1, 1, False, False), group.now)
    assert list(group[2].do_duties(group.now)) == []
    group.crash(2)
    group.restart(2)
    assert group.status(2).term == FRESH_TERM


def test_a_term_is_on_the_disk_before_it_is_answered():
    """A heartbeat of a higher term is answered only after the term was saved."""
    group = Group(3)
    group[2].hold_disk = True
    group.now = 20
    group.raft(2).step(1, Heartbeat(9, 0, 1), group.now)
    assert list(group[2].do_duties(group.now)) == []
    left = list(group[2].written(group.now))
    assert [out.message.term for out in left] == [9]
    assert group[2].disk.hard.term == 9


def test_a_candidate_counts_its_own_vote_only_when_saved():
    """With one other vote and its own unsaved, a member of three does not lead."""
    group = Group(3)
    group.pump()
    group[1].hold_disk = True
    group.run(0.1)
    assert group.status(1).role is Role.CANDIDATE
    group.raft(1).step(2, VoteReply(2, True, False, False), group.now)
    assert group.status(1).role is Role.CANDIDATE
    group.finish_write(1)
    assert group.status(1).role is Role.LEADER


def test_lost_votes_are_asked_for_again():
    """A campaign whose every message is lost is begun anew."""
    group = Group(3)
    group.dropped = lambda source, to, message: isinstance(message, VoteRequest | VoteReply)
    group.run(3)
    assert group.leaders() == []
    group.dropped = lambda source, to, message: False
    group.run(4)
    assert len(group.leaders()) == 1


def test_doubled_votes_count_once():
    """Two copies of one vote are no majority of five."""
    group = Group(5)
    group.isolate(1)
    group.pump()
    group.run(0.1)
    assert group.status(1).role is Role.PRE_CANDIDATE
    for _ in range(3):
        group.raft(1).step(2, VoteReply(2, True, True, False), group.now)
    assert group.status(1).role is Role.PRE_CANDIDATE


def test_a_vote_of_an_earlier_campaign_does_not_count():
    """Each campaign has its term; a late vote is for that one."""
    group = Group(3)
    group.isolate(1)
    group.run(0.1)
    group.raft(1).step(2, VoteReply(1, True, True, False), group.now)
    group.raft(1).step(2, VoteReply(2, True, False, False), group.now)
    assert group.status(1).role is not Role.LEADER


@pytest.mark.parametrize(
    ("last", "granted"),
    [((5, 2), False), ((4, 3), False), ((5, 3), True), ((4, 4), True), ((6, 3), True)],
)
def test_the_more_up_to_date_log_wins(last, granted):
    """Last terms are compared first, then lengths (paper, 5.4.1)."""
    config = make_config([1, 2, 3])
    disk = Disk.founded(config)
    disk.entries += [Entry(index, 3, COMMAND, b"") for index in range(2, 6)]
    disk.hard = HardState(3, 0, 1)
    group = Group(3)
    replica = group.add(2, disk)
    group.now = 20
    replica.raft.step(3, VoteRequest(9, *last, False, False), group.now)
    replies = [out.message for out in replica.do_duties(group.now)]
    assert [reply.granted for reply in replies] == [granted]


def test_two_leaders_of_one_term_are_not_borne():
    """Only a disk that forgot a vote can cause it: the replica must stop."""
    group = Group(3)
    group.elect(1)
    term = group.status(1).term
    with pytest.raises(Unsafe, match="both lead in term"):
        group.raft(1).step(2, Append(term, 0, 0, 0, ()), group.now)


def test_an_old_leader_learns_of_the_new_term():
    """One that comes back leading is told, and follows."""
    group = Group(3)
    group.elect(1)
    group.isolate(1)
    group.now += 0.9
    group.raft(2).step(3, VoteRequest(9, 99, 9, False, True), group.now)
    group.pump()
    assert group.status(2).term == 9
    group.heal()
    group.raft(2).step(1, Heartbeat(group.status(1).term, 0, 1), group.now)
    group.pump()
    assert group.status(1).term == 9
    assert group.status(1).role is Role.FOLLOWER

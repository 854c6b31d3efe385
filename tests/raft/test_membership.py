"""Changing the members of a group, one at a time or jointly, and what keeps it safe."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cores import QUICK, Group

from meshsvc.raft.core import Role
from meshsvc.raft.membership import ChangeRefused, plan
from meshsvc.raft.messages import Append, HeartbeatReply
from meshsvc.raft.quorum import Config, make_config

pytestmark = pytest.mark.contract("RAFT-1", "RAFT-2")


def change(group, leader, voters, learners=()):
    group.raft(leader).change(set(voters), set(learners), group.now)
    group.pump()


def test_a_learner_catches_up_without_a_vote_and_is_promoted():
    """Non-voting catch-up: it gets the log and counts for nothing until it is a voter."""
    group = Group(3)
    group.elect(1)
    for number in range(30):
        group.propose(1, b"%d" % number)
    group.add(4)
    change(group, 1, [1, 2, 3], [4])
    group.run(0.5)
    assert group[4].state == group[1].state
    group.isolate(2, 3)
    group.isolate(1, 4)
    before = group.status(1).commit
    group.propose(1, b"no quorum")
    assert group.status(1).commit == before
    group.heal()
    group.run(2.5)
    (leader,) = group.leaders()
    change(group, leader, [1, 2, 3, 4])
    group.run(0.5)
    assert group.status(4).config == make_config([1, 2, 3, 4])


def test_a_learner_never_campaigns():
    """However long it hears nothing."""
    group = Group(4, learners=1)
    group.elect(1)
    group.isolate(4)
    group.run(10)
    assert group.status(4).role is Role.FOLLOWER


def test_a_learner_that_lags_is_not_promoted():
    """As a voter it could stall every commit."""
    group = Group(3, replace(QUICK, promote_lag=5))
    group.elect(1)
    for number in range(30):
        group.propose(1, b"%d" % number)
    group.add(4)
    group.isolate(4)
    change(group, 1, [1, 2, 3], [4])
    with pytest.raises(ChangeRefused, match=r"lacks 3. entries: add it as a learner"):
        change(group, 1, [1, 2, 3, 4])
    group.heal()
    group.run(0.5)
    change(group, 1, [1, 2, 3, 4])


def test_one_change_at_a_time():
    """The entry of the last one must be committed."""
    group = Group(3)
    group.elect(1)
    group.isolate(1)
    change(group, 1, [1, 2])
    with pytest.raises(ChangeRefused, match="not committed"):
        change(group, 1, [1, 2, 3])


def test_no_change_before_the_leader_committed_in_its_term():
    """The rule without which single-server changes are unsafe (Ongaro's note of 2015)."""
    group = Group(3)
    group.dropped = lambda source, to, message: isinstance(message, Append)
    group.run(0.1)
    assert group.leaders() == [1]
    with pytest.raises(ChangeRefused, match="committed nothing yet"):
        change(group, 1, [1, 2])


def test_two_leaders_cannot_change_from_different_logs():
    """S1 adds a member and fails; S2 removes one: neither can commit apart from the other."""
    group = Group(4)
    group.elect(1)
    group.add(5)
    group.isolate(1, 5)
    change(group, 1, [1, 2, 3, 4, 5])  # on S1 and S5 alone
    group.run(3)
    (second,) = group.leaders()
    change(group, second, [2, 3, 4])
    group.run(0.5)
    assert group.status(second).config == make_config([2, 3, 4])
    group.heal()
    group.run(3)
    assert group.leaders() == [second]
    assert group.status(1).removed
    assert make_config([1, 2, 3, 4, 5]) not in [config for _, config in configs(group, second)]


def test_several_voters_change_jointly():
    """Old and new majorities both decide, then the leader leaves the joint configuration."""
    group = Group(3)
    group.elect(1)
    group.propose(1, b"a")
    for me in (4, 5):
        group.add(me)
    change(group, 1, [1, 2, 3], [4, 5])
    group.run(0.5)
    change(group, 1, [1, 4, 5])
    group.run(0.5)
    kinds = [config for *_, config in configs(group, 1)]
    assert kinds[-2:] == [Config((1, 4, 5), (1, 2, 3), ()), make_config([1, 4, 5])]
    assert group.status(2).removed
    assert group.status(3).removed
    group.propose(1, b"b")
    assert group[4].state == group[5].state == [b"a", b"b"]


def configs(group, me):
    from meshsvc.raft.core import CONFIG
    from meshsvc.raft.quorum import decode_config

    return [(e.index, decode_config(e.data)) for e in group[me].disk.entries if e.kind == CONFIG]


def test_a_joint_configuration_needs_both_majorities():
    """With the old voters cut off nothing is committed, and no new voter is elected."""
    group = Group(3)
    group.elect(1)
    for me in (4, 5, 6):
        group.add(me)
    change(group, 1, [1, 2, 3], [4, 5, 6])
    group.run(0.5)
    group.isolate(2, 3)
    before = group.status(1).commit
    change(group, 1, [1, 4, 5, 6])
    assert group.status(4).last > before
    assert group.status(1).commit == before
    group.crash(1)
    group.run(5)
    assert set(group.leaders()) <= {2, 3}  # who never heard of the change decide without it
    group.heal()
    group.run(4)
    assert len(group.leaders()) == 1
    group.restart(1)
    group.run(4)
    assert not group.status(group.leaders()[0]).config.joint


def test_a_new_leader_finishes_a_joint_change():
    """The old one died in between."""
    group = Group(3)
    group.elect(1)
    for me in (4, 5):
        group.add(me)
    change(group, 1, [1, 2, 3], [4, 5])
    group.run(0.5)
    with_left = lambda source, to, message: (  # noqa: E731
        isinstance(message, Append)
        and len(configs_in(message))
        and not configs_in(message)[0].joint
    )
    group.dropped = with_left
    change(group, 1, [3, 4, 5])
    group.crash(1)
    group.dropped = lambda source, to, message: False
    group.run(5)
    (leader,) = group.leaders()
    assert group.status(leader).config == make_config([3, 4, 5])


def configs_in(message):
    from meshsvc.raft.core import CONFIG
    from meshsvc.raft.quorum import decode_config

    return [decode_config(e.data) for e in message.entries if e.kind == CONFIG]


def test_a_configuration_that_is_replaced_is_no_longer_in_force():
    """It came with an entry that lost: the one before it counts again."""
    group = Group(3)
    group.elect(1)
    group.isolate(1)
    change(group, 1, [1, 2])
    assert group.status(1).config == make_config([1, 2])
    group.run(3)
    group.heal()
    group.run(2)
    assert group.status(1).config == make_config([1, 2, 3])


def test_removing_the_leader_hands_over_and_stays_safe():
    """It leads until the change is committed, without counting itself, then steps down."""
    group = Group(3)
    group.elect(1)
    change(group, 1, [2, 3])
    assert group.status(1).role is Role.FOLLOWER
    assert group.status(1).removed
    group.run(0.1)
    (leader,) = group.leaders()
    assert leader in (2, 3)
    group.run(5)
    assert group.leaders() == [leader]
    group.propose(leader, b"on")
    assert group[2].state == group[3].state == [b"on"]


def test_a_removed_leader_does_not_count_itself():
    """Of two remaining voters both must have the entry."""
    group = Group(3)
    group.elect(1)
    group.isolate(3)
    before = group.status(1).commit
    change(group, 1, [2, 3])
    assert group.status(1).commit == before


def test_a_removed_member_disturbs_nobody():
    """Disruptive servers: it never learned of its removal, campaigns, and is told."""
    group = Group(3)
    group.elect(1)
    group.isolate(3)
    change(group, 1, [1, 2])
    term = group.status(1).term
    group.heal()
    group.isolate(3)
    group.run(3)
    group.heal()
    group.run(4)
    assert group.leaders() == [1]
    assert group.status(1).term == term
    assert group.status(3).removed


def test_a_member_without_a_vote_may_be_the_only_one_electable():
    """It has the entry that took its vote, the remaining voter has not: it must lead once more,
    or the group is stuck (thesis, 4.2.2).
    """
    group = Group(3)
    group.elect(1)
    group.isolate(3)
    group.run(0.1)
    group.crash(2)
    group.restart(2)
    # S1 goes on to a configuration of S3 alone: joint, on S1 and S2 (old majority) and S3.
    group.heal()
    group.run(0.3)
    last = lambda source, to, message: (  # noqa: E731
        to == 3 and isinstance(message, Append) and any(not c.joint for c in configs_in(message))
    )
    group.dropped = last
    change(group, 1, [3])
    assert group.status(2).config == make_config([3])
    assert group.status(3).config.joint
    group.crash(1)
    group.dropped = lambda source, to, message: False
    group.run(8)
    assert group.leaders() == [3]
    assert group.status(3).config == make_config([3])


def test_a_leader_that_became_a_learner_steps_down():
    """Demotion goes through the same door as removal."""
    group = Group(3)
    group.elect(1)
    change(group, 1, [2, 3], [1])
    group.run(3)
    assert group.leaders() in ([2], [3])
    assert not group.status(1).removed
    group.propose(group.leaders()[0], b"x")
    assert group[1].state == [b"x"]


def test_from_one_member_to_three_and_back():
    """The smallest group grows and shrinks."""
    group = Group(1)
    group.run(0.1)
    for me in (2, 3):
        group.add(me)
        voters = list(group.status(1).config.voters)
        change(group, 1, voters, [me])
        group.run(0.3)
        change(group, 1, [*voters, me])
        group.run(0.3)
    assert group.status(1).config == make_config([1, 2, 3])
    change(group, 1, [1])
    group.run(0.5)
    assert group.status(1).config == make_config([1])
    group.isolate(1)
    group.propose(1, b"alone")
    assert group[1].state == [b"alone"]


def test_a_lease_is_not_carried_by_learners():
    """Only voters' answers confirm a leader."""
    group = Group(4, learners=1)
    group.elect(1)
    group.run(0.3)
    group.dropped = lambda source, to, message: (
        source in (2, 3) and isinstance(message, HeartbeatReply)
    )
    group.run(0.9)
    assert group.read(1) is None


@pytest.mark.parametrize(
    ("voters", "learners", "text"),
    [
        ((), (1, 2), "needs a voter"),
        ((1, 2), (2, 3), "both voter and learner"),
        ((1, 2, 3), (), "has these members already"),
    ],
)
def test_changes_that_make_no_sense_are_refused(voters, learners, text):
    """Each with what is wrong."""
    with pytest.raises(ChangeRefused, match=text):
        plan(make_config([1, 2, 3]), set(voters), set(learners))


def test_who_does_not_lead_refuses():
    """A follower says whom to ask."""
    group = Group(3)
    group.elect(1)
    with pytest.raises(ChangeRefused, match="only the leader"):
        change(group, 2, [1, 2])


def test_plans():
    """One voter more or less needs no joint configuration, more do."""
    three = make_config([1, 2, 3])
    assert plan(three, {1, 2, 3, 4}, set()) == make_config([1, 2, 3, 4])
    assert plan(three, {1, 2}, {3}) == make_config([1, 2], [3])
    assert plan(three, {1, 2, 4}, set()) == Config((1, 2, 4), (1, 2, 3), ())
    with pytest.raises(ChangeRefused, match="under way"):
        plan(Config((1,), (2,), ()), {1}, set())

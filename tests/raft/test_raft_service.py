"""Replicas that run: proposals and reads of callers, leader changes, restarts, snapshots."""

from __future__ import annotations

from itertools import pairwise

import pytest
from groups import World

from meshsvc.errors import Cancelled, Disconnected, Overloaded, TimedOut
from meshsvc.raft import waits
from meshsvc.raft.membership import ChangeRefused
from meshsvc.raft.replica import Limits
from meshsvc.raft.sessions import Verdict


@pytest.fixture
def world():
    made = World(3)
    yield made
    made.stop()


class Small(Limits):
    entries, keep = 20, 5


@pytest.mark.contract("RAFT-6")
@pytest.mark.parametrize("me", [1, 2, 3])
def test_a_proposal_ends_with_its_own_answer(world, me):
    """Asked of whichever member, it is applied everywhere and answered from here."""
    world.leader()
    assert world.result(world.groups[me].propose(b"a", 5)) == (1, b"a")
    world.run(0.3)
    assert [world.machines[each].done for each in (1, 2, 3)] == [[b"a"]] * 3


@pytest.mark.contract("RAFT-6")
def test_many_clients_at_once_get_their_own_answers(world):
    """One hundred on each member, each with a value of its own: no crossed answers."""
    world.leader()
    asked = {
        (me, number): world.groups[me].propose(b"%d-%d" % (me, number), 5)
        for number in range(100)
        for me in (1, 2, 3)
    }
    for (me, number), waiter in asked.items():
        assert world.result(waiter)[1] == b"%d-%d" % (me, number)
    assert len(set(world.machines[1].done)) == len(world.machines[1].done) == 300


def test_proposals_of_one_turn_take_one_round(world):
    """A hundred proposals of one turn are one append and one write."""
    leader = world.leader()
    world.run(0.5)
    before = world.carried
    waiters = [world.groups[leader].propose(b"%d" % n, 5) for n in range(100)]
    for waiter in waiters:
        world.result(waiter)
    assert world.carried - before < 20


@pytest.mark.contract("RAFT-7")
@pytest.mark.parametrize("seed", range(12))
def test_a_dead_leader_costs_less_than_three_seconds(seed):
    """A put succeeds again within 3 s, and what was acknowledged is there."""
    world = World(3, seed)
    first = world.leader()
    acked = [world.result(world.groups[first].propose(b"%d" % n, 5))[1] for n in range(5)]
    other = next(me for me in (1, 2, 3) if me != first)
    world.kill(first)
    began = world.clock.seconds()
    world.result(world.groups[other].propose(b"after", 7), 7)
    assert world.clock.seconds() - began < 3
    assert world.machines[other].done == [*acked, b"after"]
    world.stop()


@pytest.mark.contract("RAFT-7")
def test_a_graceful_stop_fails_no_write(world):
    """Leadership is handed over first; writes during it succeed, soon."""
    first = world.leader()
    others = [me for me in (1, 2, 3) if me != first]
    waiters = []
    stopped = None
    for number in range(60):
        waiters += [world.groups[me].propose(b"%d-%d" % (me, number), 2) for me in others]
        if number == 20:
            stopped = world.groups[first].stop()
        world.run(0.02)
    world.result(stopped)
    began = world.clock.seconds()
    for waiter in waiters:
        world.result(waiter)
    assert world.clock.seconds() - began < 0.5
    world.run(0.5)
    assert len(world.machines[others[0]].done) == 120


@pytest.mark.contract("RAFT-6")
def test_five_hundred_time_outs_leave_nothing(world):
    """With the leader stopped they end in TimedOut; afterwards the replica serves, and
    nothing is pending.
    """
    leader = world.leader()
    other = next(me for me in (1, 2, 3) if me != leader)
    world.isolate(leader)
    third = 6 - leader - other
    world.isolate(third)
    waiters = [world.groups[other].propose(b"%d" % n, 0.05) for n in range(500)]
    world.run(0.1)
    for waiter in waiters:
        with pytest.raises(TimedOut):
            world.result(waiter)
    assert world.groups[other].pending == 0
    world.cut.clear()
    assert world.result(world.groups[other].propose(b"on", 7), 7)[1] == b"on"
    world.run(1)
    assert world.groups[other].pending == 0
    assert len(set(world.machines[other].done)) == len(world.machines[other].done)


@pytest.mark.contract("RAFT-6")
def test_a_cancelled_proposal_answers_nobody_and_blocks_nothing(world):
    """It may still be applied; the next one gets its own answer."""
    leader = world.leader()
    first = world.groups[leader].propose(b"a", 5)
    world.clock.advance(0)
    first.cancel()
    second = world.groups[leader].propose(b"b", 5)
    with pytest.raises(Cancelled):
        world.result(first)
    assert world.result(second)[1] == b"b"
    assert world.groups[leader].pending == 0


@pytest.mark.contract("RAFT-6")
def test_a_proposal_that_was_sent_twice_is_applied_once(world):
    """The leader got it, its answers were lost, and it is offered again."""
    leader = world.leader()
    other = next(me for me in (1, 2, 3) if me != leader)
    world.cut |= {(leader, other)}
    waiter = world.groups[other].propose(b"once", 9)
    world.run(4)  # offered anew meanwhile, to whoever leads
    world.cut.clear()
    assert world.result(waiter, 9)[1] == b"once"
    world.run(2)
    assert world.machines[other].done.count(b"once") == 1


@pytest.mark.contract("RAFT-6")
def test_too_many_proposals_are_refused(world, monkeypatch):
    """A bounded number is pending; the next is told to come back."""
    monkeypatch.setattr(waits, "MAX_PROPOSALS", 10)
    world.isolate(1)
    kept = [world.groups[1].propose(b"%d" % n, 0.2) for n in range(10)]
    with pytest.raises(Overloaded):
        world.result(world.groups[1].propose(b"x", 1))
    for waiter in kept:
        with pytest.raises(TimedOut):
            world.result(waiter)


@pytest.mark.contract("RAFT-6")
def test_a_session_that_was_forgotten_is_opened_anew(world):
    """Its commands were refused everywhere, so they can be made again under a new one."""
    leader = world.leader()
    world.result(world.groups[leader].propose(b"a", 5))
    for group in world.groups.values():
        group._replica.sessions._sessions.clear()
    assert world.result(world.groups[leader].propose(b"b", 5))[1] == b"b"
    world.run(0.5)
    assert world.machines[1].done == [b"a", b"b"]


def test_reads_see_what_was_written_before(world):
    """At any member, once the index is applied."""
    leader = world.leader()
    for number in range(5):
        world.result(world.groups[leader].propose(b"%d" % number, 5))
        for me in (1, 2, 3):
            world.result(world.groups[me].read_index(5))
            assert len(world.machines[me].done) == number + 1


def test_a_read_in_a_minority_times_out(world):
    """It cannot know what the others wrote."""
    leader = world.leader()
    world.isolate(leader)
    world.run(1)
    with pytest.raises(TimedOut):
        world.result(world.groups[leader].read_index(2))
    assert world.groups[leader].pending == 0
    assert not world.groups[leader].status().quorum


def test_a_read_survives_a_leader_change(world):
    """It is asked of the next one."""
    leader = world.leader()
    other = next(me for me in (1, 2, 3) if me != leader)
    world.result(world.groups[other].propose(b"a", 5))
    world.kill(leader)
    waiter = world.groups[other].read_index(6)
    world.result(waiter, 6)
    assert world.machines[other].done == [b"a"]


def test_a_restart_keeps_what_was_acknowledged(world):
    """All are killed at once and started again from their disks."""
    leader = world.leader()
    for number in range(10):
        world.result(world.groups[leader].propose(b"%d" % number, 5))
    for me in (1, 2, 3):
        world.kill(me)
    for me in (1, 2, 3):
        world.boot(me)
    world.result(world.groups[2].read_index(7), 7)
    assert world.machines[2].done == [b"%d" % n for n in range(10)]


def test_a_laggard_gets_a_snapshot_with_the_sessions():
    """It was away while the log was compacted: state and sessions come in chunks."""
    world = World(3, limits=Small())
    leader = world.leader()
    away = next(me for me in (1, 2, 3) if me != leader)
    world.kill(away)
    for number in range(100):
        world.result(world.groups[leader].propose(b"%d" % number, 5))
    world.run(0.2)
    assert world.logs[leader].snapshot is not None
    assert world.logs[leader].compactions
    assert len(world.logs[leader].entries) < 40
    world.boot(away)
    world.run(3)
    assert world.machines[away].done == world.machines[leader].done
    assert world.logs[away].snapshot is not None
    assert len(world.groups[away]._replica.sessions) == len(world.groups[leader]._replica.sessions)
    world.result(world.groups[away].propose(b"x", 5))
    world.kill(away)
    world.boot(away)
    world.run(1)
    assert world.machines[away].done[-1] == b"x"
    world.stop()


@pytest.mark.contract("RAFT-6")
def test_a_proposal_that_a_snapshot_applied_ends():
    """It was done, its answer is not known: the caller is told, and does not wait."""
    world = World(3, limits=Small())
    leader = world.leader()
    away = next(me for me in (1, 2, 3) if me != leader)
    world.run(0.5)
    others = [me for me in (1, 2, 3) if me != away]
    waiter = world.groups[away].propose(b"mine", 20)
    world.clock.advance(0.0)  # it leaves
    world.cut |= {(me, away) for me in others}
    world.run(0.1)
    for number in range(100):
        world.result(world.groups[leader].propose(b"%d" % number, 9), 9)
    world.run(0.3)
    world.cut.clear()
    with pytest.raises(TimedOut, match="answer was lost"):
        world.result(waiter, 20)
    assert world.machines[away].done.count(b"mine") == 1
    assert world.groups[away].pending == 0
    world.stop()


def test_leadership_is_told_when_it_can_be_acted_on(world):
    """Observers hear (leader, term); of its own, once all earlier entries are applied."""
    seen = []
    world.groups[1].add_leader_observer(
        lambda *news: seen.append((*news, len(world.machines[1].done)))
    )
    leader = world.leader()
    world.result(world.groups[leader].propose(b"a", 5))
    world.result(world.groups[leader].transfer(2 if leader != 2 else 3, 3))
    world.run(0.2)
    new = world.leader()
    assert seen[-1][:2] == (new, world.groups[1].status().term)
    world.result(world.groups[new].transfer(1, 3)) if new != 1 else None
    world.run(0.2)
    assert seen[-1] == (1, world.groups[1].status().term, 1)


def test_members_are_changed_at_the_leader(world):
    """A learner is added, promoted, and another removed."""
    leader = world.leader()
    world.result(world.groups[leader].propose(b"a", 5))
    world.boot(4)
    world.result(world.groups[leader].change({1, 2, 3}, {4}, 5))
    world.run(0.5)
    assert world.machines[4].done == [b"a"]
    world.result(world.groups[leader].change({1, 2, 3, 4}, set(), 5))
    gone = next(me for me in (1, 2, 3) if me != leader)
    world.result(world.groups[leader].change({1, 2, 3, 4} - {gone}, set(), 5))
    assert world.groups[leader].status().config.voters == tuple(sorted({1, 2, 3, 4} - {gone}))
    with pytest.raises(ChangeRefused):
        world.groups[gone].change({1}, set(), 1)


def test_a_transfer_that_cannot_be_is_refused_and_one_that_fails_times_out(world):
    """Each with what happened."""
    leader = world.leader()
    with pytest.raises(Disconnected, match="cannot be handed"):
        world.result(world.groups[leader].transfer(9, 1))
    other = next(me for me in (1, 2, 3) if me != leader)
    world.isolate(other)
    with pytest.raises(TimedOut):
        world.result(world.groups[leader].transfer(other, 0.5))
    world.cut.clear()
    world.result(world.groups[leader].propose(b"a", 5))


@pytest.mark.contract("LOG-3")
def test_a_failed_write_stops_the_replica(world):
    """Nothing more is acknowledged, and the process is told to end."""
    leader = world.leader()
    world.logs[leader].fail_next = OSError("EIO")
    with pytest.raises(Disconnected):
        world.result(world.groups[leader].propose(b"a", 5))
    assert world.fatal
    assert "EIO" in world.fatal[0][1]


def test_a_state_machine_that_raises_stops_the_replica(world):
    """To go on would let replicas differ."""
    leader = world.leader()
    with pytest.raises(Disconnected):
        world.result(world.groups[leader].propose(b"raise", 5))
    world.run(0.5)
    assert len(world.fatal) == 3
    assert "a defect" in world.fatal[0][1]


@pytest.mark.contract("SIM-4")
def test_rubbish_from_a_member_is_counted_and_dropped(world):
    """The replica goes on."""
    leader = world.leader()
    group = world.groups[leader]
    group.received(2, [b"", b"\xff\xff", b"\x81\x07"])
    assert group._around.counters.total("raft_bad_messages_total") == 3
    world.result(group.propose(b"a", 5))


def test_a_stopped_replica_refuses(world):
    """At once, and what was pending has ended."""
    world.isolate(1)
    waiter, read = world.groups[1].propose(b"a", 5), world.groups[1].read_index(5)
    world.groups[1].stopService()
    for pending in (waiter, read, world.groups[1].propose(b"b", 5), world.groups[1].read_index(5)):
        with pytest.raises(Disconnected):
            world.result(pending)


def test_a_replica_that_has_not_started_lets_callers_time_out():
    """Its disk is slow: nobody waits for ever."""
    world = World(0)
    from groups import Memory

    world.logs[1] = Memory(world.clock, 1, delay_s=60)
    from meshsvc.raft.quorum import make_config

    group = world.boot(1, make_config([1]))
    with pytest.raises(TimedOut):
        world.result(group.propose(b"a", 1))
    with pytest.raises(Disconnected):
        group.status()
    world.groups.clear()
    group.stopService()
    for call in world.clock.getDelayedCalls():
        call.cancel()


def test_a_long_log_is_applied_in_turns():
    """A restart with thousands of entries does not hold the reactor."""
    world = World(1)
    world.leader()
    for _ in range(4):
        waiters = [world.groups[1].propose(b"%d" % n, 5) for n in range(1000)]
        for waiter in waiters:
            world.result(waiter)
    world.kill(1)
    group = world.boot(1)
    applied = []
    for _ in range(400):
        world.clock.advance(0.001)
        applied.append(len(world.machines[1].done))
    steps = [after - before for before, after in pairwise(applied)]
    assert applied[-1] == 4000
    assert max(steps) <= 1024
    assert group.pending == 0
    world.stop()


@pytest.mark.contract("RAFT-6")
def test_verdicts_answer_only_their_own_session(world):
    """Another node's command with the same number ends nothing here."""
    from meshsvc.raft.sessions import Command

    leader = world.leader()
    other = next(me for me in (1, 2, 3) if me != leader)
    world.isolate(other)
    waiter = world.groups[other].propose(b"mine", 1)
    foreign = Command(b"f" * 16, 1, 1, b"theirs")
    world.groups[other].command_done(foreign, Verdict.APPLY, "wrong")
    with pytest.raises(TimedOut):
        world.result(waiter)

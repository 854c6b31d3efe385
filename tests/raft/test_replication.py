"""How entries get everywhere, and when one is committed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cores import QUICK, Disk, Group

from meshsvc.raft.core import COMMAND, CONFIG, FRESH_TERM
from meshsvc.raft.log import Unsafe
from meshsvc.raft.messages import Append, AppendReply, Committed, Heartbeat, Propose
from meshsvc.raft.progress import Mode
from meshsvc.raft.quorum import make_config
from meshsvc.raft.raft import Admission
from meshsvc.storage.records import Entry, HardState

pytestmark = pytest.mark.contract("RAFT-1", "RAFT-2")


def with_terms(members, *terms, term=None, voters=None):
    """A disk whose log has entries of these terms after the founding one."""
    disk = Disk.founded(make_config(voters or members))
    for each in terms:
        disk.entries.append(Entry(len(disk.entries) + 1, each, COMMAND, b"%d" % each))
    disk.hard = HardState(term or max((FRESH_TERM, *terms)), 0, 1)
    return disk


@pytest.mark.parametrize(
    "terms",
    [
        (1, 1, 1, 4, 4, 5, 5, 6, 6),
        (1, 1, 1, 4),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
        (1, 1, 1, 4, 4, 4, 4),
        (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
    ],
    ids="abcdef",
)
def test_figure_7(terms):
    """Each log of figure 7 of the paper is brought in line with the leader's."""
    leader = (1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
    group = Group(3)
    group.now = 50
    group.add(1, with_terms([1, 2, 3], *leader, term=8))
    group.add(2, with_terms([1, 2, 3], *terms))
    group.add(3, with_terms([1, 2, 3], *leader))
    group.isolate(2)
    for _ in range(50):
        group.run(0.5)
        if group.leaders() == [1]:
            break
        if group.leaders():
            group.raft(group.leaders()[0]).transfer(1, group.now)
    group.heal()
    group.run(3)
    assert group[2].disk.entries == group[1].disk.entries
    assert group[2].state == group[1].state


def test_the_logs_agree_after_one_round_trip_a_term():
    """A follower with many conflicting entries does not reject them one by one."""
    group = Group(3)
    group.now = 50
    group.add(1, with_terms([1, 2, 3], *[1] * 5, *[5] * 60))
    group.add(2, with_terms([1, 2, 3], *[1] * 5, *[2] * 30, *[3] * 30))
    group.add(3, with_terms([1, 2, 3], *[1] * 5, *[5] * 60))
    group.run(5)
    rejected = [m for *_, m, ok in group.log if isinstance(m, AppendReply) and m.rejected]
    assert group[2].disk.entries == group[1].disk.entries
    assert len(rejected) <= 4


def test_figure_8():
    """An entry of an older term is not committed by counting, even on a majority."""
    group = Group(5)
    group.now = 50
    members = [1, 2, 3, 4, 5]
    # (c): S1 leads in term 4 and has replicated its entry of term 2 to S2 and S3.
    group.add(1, with_terms(members, 2, term=3))
    group.add(2, with_terms(members, 2, term=3))
    for me in (3, 4):
        group.add(me, with_terms(members, term=3))
    group.add(5, with_terms(members, 3, term=3))
    group.isolate(5)
    keep_old = lambda source, to, message: (  # noqa: E731
        isinstance(message, Append) and any(e.term > 3 for e in message.entries)
    )
    group.dropped = keep_old
    for _ in range(60):
        group.run(0.1)
        if group.leaders() and group.leaders()[0] in (1, 2):
            break
    (leader,) = group.leaders()
    # Entries are passed on one by one, so that the old one travels and the new one does not.
    for me in (3, 4):
        old = group[leader].disk.entries[1]
        term = group.status(leader).term
        group.raft(me).step(leader, Append(term, 1, FRESH_TERM, 1, (old,)), group.now)
        for to, message in group[me].do_duties(group.now):
            group.deliver(me, to, message)
    group.pump()
    have = [me for me in members if any(e.term == 2 for e in group[me].disk.entries)]
    assert len(have) >= 3
    assert group.status(leader).commit == 1
    # (d): S5 may still win, and replace it.
    for me in (1, 2):
        group.crash(me)
    group.cut.clear()
    group.dropped = lambda source, to, message: False
    group.run(6)
    assert group.leaders() == [5]
    group.restart(1)
    group.restart(2)
    group.run(3)
    assert all(b"2" not in group[me].state for me in members)
    assert all(group[me].state == [b"3"] for me in members)


def test_figure_8_e():
    """With one entry of its own term on a majority, all before it is committed for good."""
    group = Group(3)
    group.now = 50
    group.add(1, with_terms([1, 2, 3], 2, term=4))
    group.add(2, with_terms([1, 2, 3], term=4))
    group.add(3, with_terms([1, 2, 3], term=4))
    group.run(6)
    if group.leaders() == [1]:
        assert group[1].state == [b"2"]
    group.elect(1)
    assert all(len({tuple(r.state)}) == 1 for r in group.replicas.values())


def test_the_leader_counts_itself_only_after_its_own_write():
    """On one follower and in the leader's memory is no majority of three."""
    group = Group(3)
    group.elect(1)
    group.isolate(3)
    group[1].hold_disk = True
    before = group.status(1).commit
    group.propose(1, b"x")
    assert group.status(2).last == group.status(1).last == before + 1
    assert group.status(2).stable == before + 1
    assert group.status(1).commit == before
    group.finish_write(1)
    assert group.status(1).commit == before + 1


def test_followers_may_commit_while_the_leader_writes():
    """Two followers are a majority without the leader, which sent before it wrote."""
    group = Group(3)
    group.elect(1)
    group[1].hold_disk = True
    before = group.status(1).commit
    group.propose(1, b"x")
    assert group.status(1).commit == before + 1
    assert group[2].state == [b"x"]
    assert group[1].state == []  # it applies only what its own disk has
    group.finish_write(1)
    assert group[1].state == [b"x"]


def test_a_follower_acknowledges_only_what_it_wrote():
    """A slow disk: the entry is in memory, the answer waits."""
    group = Group(3)
    group.elect(1)
    group.isolate(3)
    group[2].hold_disk = True
    before = group.status(1).commit
    group.propose(1, b"x")
    assert group.status(1).commit == before
    group.crash(2)
    group.restart(2)
    assert group.status(2).last == before
    group.run(1)
    assert group.status(1).commit == before + 1


def test_one_write_at_a_time_takes_all_that_came_meanwhile():
    """Group commit: proposals during a write go into the next one together."""
    group = Group(1)
    group.run(0.1)
    group[1].hold_disk = True
    group.propose(1, b"0")
    for number in range(1, 50):
        group.propose(1, b"%d" % number)
    assert len(group[1].writing[0].entries) == 1
    group.finish_write(1)
    assert len(group[1].writing[0].entries) == 49


def test_proposals_of_one_turn_leave_in_one_append():
    """Batching: nothing is sent before ``ready`` is asked for."""
    group = Group(3)
    group.elect(1)
    for number in range(100):
        group.raft(1).propose([b"%d" % number], group.now)
    group.log.clear()
    group.pump()
    sizes = [len(m.entries) for *_, m, _ in group.log if isinstance(m, Append) and m.entries]
    assert sizes == [100, 100]


def test_a_window_bounds_what_is_under_way():
    """A follower that does not answer gets a bounded number of appends, then none."""
    settings = replace(QUICK, append_entries=1, window_messages=4)
    group = Group(3, settings)
    group.elect(1)
    group.dropped = lambda source, to, message: source == 3
    group.log.clear()
    for number in range(20):
        group.propose(1, b"%d" % number)
    to_3 = [m for s, to, m, _ in group.log if to == 3 and isinstance(m, Append) and m.entries]
    assert len(to_3) == 4
    assert len(group[2].state) == 20


def test_a_window_bounds_bytes_too():
    """Large entries: the window is full after a few."""
    settings = replace(QUICK, append_bytes=1000, window_bytes=3000)
    group = Group(3, settings)
    group.elect(1)
    group.dropped = lambda source, to, message: source == 3
    for _ in range(10):
        group.propose(1, b"x" * 900)
    (peer,) = (each for each in group.status(1).peers if each.member == 3)
    assert peer.under_way == 4
    assert group.status(1).commit >= 10


def test_lost_appends_are_found_by_probing():
    """After a loss the follower rejects what comes next, and gets all of it again."""
    group = Group(3)
    group.elect(1)
    group.dropped = lambda source, to, message: to == 3 and isinstance(message, Append)
    group.propose(1, b"lost")
    group.dropped = lambda source, to, message: False
    group.propose(1, b"next")
    group.run(0.3)
    assert group[3].state == [b"lost", b"next"]
    assert {peer.mode for peer in group.status(1).peers} == {Mode.REPLICATE}


def test_a_lost_last_append_is_found_by_the_heartbeat():
    """Nothing comes after it, so the heartbeat's answer makes the leader look."""
    group = Group(3)
    group.elect(1)
    group.dropped = lambda source, to, message: to == 3 and isinstance(message, Append)
    group.propose(1, b"lost")
    group.dropped = lambda source, to, message: False
    group.run(0.3)
    assert group[3].state == [b"lost"]


def test_an_unreachable_member_is_probed():
    """RAFT-3: what was under way is taken for lost at once."""
    group = Group(3)
    group.elect(1)
    group.isolate(3)
    group.propose(1, b"a")
    group.raft(1).unreachable(3)
    peer = next(each for each in group.status(1).peers if each.member == 3)
    assert peer.mode is Mode.PROBE
    assert peer.next == peer.match + 1
    group.pump()
    group.raft(1).unreachable(3)  # reported again and again: nothing is sent meanwhile
    assert group.raft(1).ready() is None
    group.heal()
    group.run(0.3)
    assert group[3].state == [b"a"]


def test_appends_may_come_twice_and_in_any_order():
    """A doubled or late append changes nothing that is there."""
    group = Group(3)
    group.elect(1)
    group.propose(1, b"a")
    group.propose(1, b"b")
    appends = [m for s, to, m, _ in group.log if to == 2 and isinstance(m, Append)]
    entries = list(group[2].disk.entries)
    for message in reversed(appends):
        group.raft(2).step(1, message, group.now)
        group.pump()
    assert group[2].disk.entries == entries


def test_a_late_rejection_changes_nothing():
    """A rejection of something that was accepted since is old."""
    group = Group(3)
    group.elect(1)
    group.propose(1, b"a")
    term = group.status(1).term
    group.raft(1).step(2, AppendReply(term, True, 1, 0, 0), group.now)
    peer = next(each for each in group.status(1).peers if each.member == 2)
    assert peer.mode is Mode.REPLICATE
    assert peer.match == group.status(1).last


def test_a_committed_entry_is_never_replaced():
    """A leader that lacks one is no leader: the replica stops."""
    group = Group(3)
    group.elect(1)
    group.propose(1, b"a")
    commit = group.status(2).commit
    bad = Entry(commit, 99, COMMAND, b"b")
    before = group[2].disk.entries[commit - 2]
    log = group.raft(2)._core.log
    with pytest.raises(Unsafe, match="would replace a committed one"):
        log.accept([before, bad])


def test_a_heartbeat_that_counts_on_lost_data_stops_the_replica():
    """It acknowledged what its disk lost: to go on could lose committed entries."""
    group = Group(3)
    group.elect(1)
    term = group.status(1).term
    with pytest.raises(Unsafe, match="its disk lost data"):
        group.raft(2).step(1, Heartbeat(term, 99, 1), group.now)


def test_a_leader_without_quorum_refuses_rather_than_fill_its_memory():
    """Bytes that are not committed are bounded."""
    group = Group(3, replace(QUICK, uncommitted_bytes=1000))
    group.elect(1)
    group.isolate(1)
    seen = [group.propose(1, b"x" * 100) for _ in range(20)]
    assert Admission.FULL in seen
    assert seen.count(Admission.ACCEPTED) < 11
    group.heal()
    group.run(3)
    (leader,) = group.leaders()
    assert group.propose(leader, b"y") is Admission.ACCEPTED


def test_a_follower_passes_proposals_on_and_knows_when_it_cannot():
    """Proposals go to the leader, once; without one the caller is told."""
    group = Group(3)
    assert group.raft(2).propose([b"a"], group.now) is Admission.NO_LEADER
    group.elect(1)
    assert group.propose(2, b"a", b"b") is Admission.ACCEPTED
    assert group[3].state == [b"a", b"b"]


def test_a_proposal_is_not_passed_on_twice():
    """Two that take each other for the leader would pass it back and forth."""
    group = Group(3)
    group.elect(1)
    group.raft(2).step(3, Propose(group.status(2).term, (b"a",)), group.now)
    assert group.raft(2).ready() is None


def test_a_commit_is_carried_to_the_followers_at_once():
    """They do not wait for the next proposal or heartbeat."""
    group = Group(3)
    group.elect(1)
    now = group.now
    group.propose(1, b"a")
    assert group.now == now
    assert group[2].state == group[3].state == [b"a"]


def test_the_news_of_a_commit_is_not_answered():
    """One append and its answer, then the news: that is all a proposal costs each follower."""
    group = Group(3)
    group.elect(1)
    group.log.clear()
    group.propose(1, b"a")
    said = [type(message) for source, to, message, _ in group.log if 2 in (source, to)]
    assert said == [Append, AppendReply, Committed]


def test_the_news_of_a_commit_is_nothing_to_who_lacks_the_entry():
    """An entry that is not there, or is another one, is not committed by hearsay."""
    group = Group(3)
    group.elect(1)
    group.propose(1, b"a")
    before = group.status(2)
    for news in (Committed(2, before.last + 1, 2), Committed(2, before.last, 1)):
        group.raft(2).step(1, news, group.now)
    assert group.status(2).commit == before.commit == before.last
    assert group.raft(2).ready() is None


def test_applying_goes_in_bounded_batches():
    """The next batch comes only when the last was applied."""
    group = Group(1, replace(QUICK, apply_entries=10))
    group.run(0.1)
    group.raft(1).propose([b"%d" % n for n in range(25)], group.now)
    sizes = []
    raft = group.raft(1)
    while (ready := raft.ready()) is not None:
        if ready.durable:
            group[1].disk.write(ready, None)
            raft.persisted(ready, group.now)
        if ready.committed:
            sizes.append(len(ready.committed))
            assert not (raft.ready() or ready).committed or raft.ready() is None
            raft.applied(ready.committed[-1].index)
    assert sizes == [10, 10, 5]


def test_the_configuration_is_an_entry_of_the_log():
    """The founding entry holds it, and every member reads it from there."""
    group = Group(3)
    assert group[1].disk.entries[0].kind == CONFIG
    assert group.status(2).config == make_config([1, 2, 3])

"""Members that lag behind what is compacted away get a snapshot, in slices."""

from __future__ import annotations

import pytest
from cores import QUICK, Group

from meshsvc.errors import WireError
from meshsvc.raft.core import Role
from meshsvc.raft.log import Unsafe
from meshsvc.raft.messages import Append, SnapshotChunk, SnapshotReply
from meshsvc.raft.progress import Mode
from meshsvc.storage.records import SnapshotMeta

pytestmark = pytest.mark.contract("RAFT-1")


def behind(settings=QUICK, entries=100):
    """A group whose third member lacks entries that the others have compacted away."""
    group = Group(3, settings)
    group.elect(1)
    group.crash(3)
    for number in range(entries):
        group.propose(1, b"value-%d" % number)
    for me in (1, 2):
        group[me].compact()
        group.raft(me).unreachable(3)
    return group


def chunks(group):
    return [(m.number, m.done, ok) for *_, m, ok in group.log if isinstance(m, SnapshotChunk)]


def test_a_laggard_gets_a_snapshot_and_then_entries():
    """It ends with the same state, and goes on by appends."""
    group = behind()
    group.restart(3)
    group.run(0.5)
    assert group[3].state == group[1].state
    assert group[3].disk.snapshot.index == group[1].disk.snapshot.index
    group.propose(1, b"after")
    assert group[3].state[-1] == b"after"
    assert {peer.mode for peer in group.status(1).peers} == {Mode.REPLICATE}


def test_slices_are_bounded_and_one_is_under_way():
    """Each follows the answer to the one before it."""
    group = behind()
    group.log.clear()
    group.restart(3)
    group.run(0.5)
    sent = chunks(group)
    assert len(sent) > 5
    assert [number for number, *_ in sent] == list(range(len(sent)))
    assert [done for _, done, _ in sent] == [False] * (len(sent) - 1) + [True]
    order = [type(m) for *_, m, _ in group.log if isinstance(m, SnapshotChunk | SnapshotReply)]
    assert order[:4] == [SnapshotChunk, SnapshotReply] * 2


def test_a_lost_slice_is_sent_again_from_where_it_was():
    """Resumable: not from the start."""
    group = behind()
    group.log.clear()
    group.dropped = lambda source, to, message: (
        isinstance(message, SnapshotChunk) and message.number == 3
    )
    group.restart(3)
    group.run(2)
    assert group[3].state == []
    group.dropped = lambda source, to, message: False
    group.run(2)
    assert group[3].state == group[1].state
    numbers = [number for number, _, ok in chunks(group) if ok]
    assert numbers.count(0) == 1


def test_a_member_that_restarts_in_the_middle_begins_again():
    """What it had received was not durable."""
    group = behind()
    group.dropped = lambda source, to, message: (
        isinstance(message, SnapshotChunk) and message.number > 2
    )
    group.restart(3)
    group.crash(3)
    group.dropped = lambda source, to, message: False
    group.restart(3)
    group.run(3)
    assert group[3].state == group[1].state


def installing(group):
    """Let the third member receive the snapshot, up to the write of it."""
    group.dropped = lambda source, to, message: isinstance(message, SnapshotChunk)
    group.restart(3)
    group[3].hold_disk = True
    group.dropped = lambda source, to, message: False
    for _ in range(30):
        group.run(0.1)
        if group[3].writing and group[3].writing[0].snapshot:
            return
        group.finish_write(3)
    raise AssertionError("no snapshot came")


def test_a_snapshot_is_acknowledged_only_when_durable():
    """The answer waits for the write, as for entries."""
    group = behind()
    installing(group)
    assert group[3].writing[0].snapshot
    assert group.status(3).stable == 0
    (peer,) = (each for each in group.status(1).peers if each.member == 3)
    assert peer.mode is Mode.SNAPSHOT
    group.finish_write(3)
    group[3].hold_disk = False
    group.run(0.5)
    assert group[3].state == group[1].state


def test_a_member_does_not_campaign_while_it_installs():
    """Its log is not on its disk."""
    group = behind()
    installing(group)
    group.isolate(3)
    group.run(5)
    assert group.status(3).role is Role.FOLLOWER


def test_appends_wait_for_the_snapshot_before_them():
    """Entries after it come in a later write, once it is durable."""
    group = behind()
    group.restart(3)
    group.run(0.5)
    assert group[3].disk.entries == [
        e for e in group[1].disk.entries if e.index > group[3].disk.base
    ]


def test_a_snapshot_brings_the_members():
    """A new member learns from it who belongs to the group."""
    group = behind()
    group.restart(3)
    group.run(0.5)
    assert group.status(3).config == group.status(1).config


def test_a_newer_snapshot_takes_the_place_of_one_that_is_gone():
    """The slices of the old one cannot be fetched any more: begin with the new one."""
    group = behind()
    group.dropped = lambda source, to, message: (
        isinstance(message, SnapshotChunk) and message.number > 2
    )
    group.restart(3)
    group.run(0.3)
    group.propose(1, b"more")
    group[1].compact()
    group.dropped = lambda source, to, message: False
    group.run(4)
    assert group[3].state == group[1].state


def test_an_old_snapshot_is_not_installed():
    """The member is ahead of it: it says how far it is."""
    group = Group(3)
    group.elect(1)
    group.propose(1, b"a")
    term, commit = group.status(2).term, group.status(2).commit
    meta = SnapshotMeta(1, 1, group.config.encoded())
    group.raft(2).step(1, SnapshotChunk(term, meta, 0, b"x", True), group.now)
    (out,) = group.raft(2).ready().after
    assert out.message.index == commit
    assert group[2].state == [b"a"]


def test_a_late_snapshot_does_not_drop_what_was_acknowledged():
    """The log has its last entry and more after it: they stay (found by fuzz seed 8850)."""
    group = Group(3)
    group.elect(1)
    hidden = lambda source, to, message: (  # noqa: E731
        to == 2 and getattr(message, "commit", 0) > 2
    )
    group.dropped = hidden
    for data in (b"a", b"b", b"c"):
        group.raft(1).propose([data], group.now)
    group.pump()
    status = group.status(2)
    assert status.commit < status.stable == group.status(1).last
    meta = SnapshotMeta(status.commit + 1, status.term, group.config.encoded())
    late = SnapshotChunk(status.term, meta, 0, b"x", True)
    group.raft(2).step(1, late, group.now)
    group.pump()
    assert group.status(2).stable == status.stable
    assert group.status(2).commit == meta.index
    assert group.status(2).snapshot == 0


@pytest.mark.parametrize("data", [b"\xff", b"\x83\x81\x01\x80\x81\x01\x00", b"\x80"])
def test_a_snapshot_with_bad_members_is_refused(data):
    """Nothing of it is kept."""
    group = Group(3)
    group.elect(1)
    term = group.status(2).term
    message = SnapshotChunk(term, SnapshotMeta(50, term, data), 0, b"x", True)
    with pytest.raises(WireError):
        group.raft(2).step(1, message, group.now)
    assert group.status(2).last < 50


def test_compaction_keeps_a_tail_for_those_that_lag_a_little():
    """They get entries, not a snapshot."""
    group = Group(3)
    group.elect(1)
    group.isolate(3)
    for number in range(20):
        group.propose(1, b"%d" % number)
    group[1].compact(keep=30)
    group.heal()
    group.log.clear()
    group.run(2)
    assert group[3].state == group[1].state
    assert not chunks(group)


def test_only_what_is_applied_can_be_compacted():
    """Anything else would be lost."""
    group = Group(3)
    group.elect(1)
    log = group.raft(1)._core.log
    with pytest.raises(Unsafe, match="past what was applied"):
        log.compact(log.last_index + 1)


def test_a_restart_from_snapshot_and_entries():
    """The state is as of the snapshot, the rest is applied again."""
    group = Group(3)
    group.elect(1)
    group.propose(1, b"a")
    group[1].compact()
    group.propose(1, b"b")
    state = list(group[1].state)
    group.crash(1)
    group.restart(1)
    group.run(4)
    assert group[1].state == state


def test_a_chunk_is_answered_when_it_is_written():
    """The leader waits for the disk at the other end; a failed write begins anew."""
    group = behind()
    group.dropped = lambda source, to, message: isinstance(message, SnapshotChunk)
    group.restart(3)
    meta, term = group[1].disk.snapshot, group.status(1).term
    raft = group.raft(3)
    raft.step(1, SnapshotChunk(term, meta, 0, b"x", False), group.now)
    raft.step(1, SnapshotChunk(term, meta, 0, b"x", False), group.now)
    ready = raft.ready()
    assert len(ready.chunks) == 1
    assert not [m for m in ready.messages if isinstance(m.message, SnapshotReply)]
    raft.kept(ready.chunks[0], True, group.now)
    (out,) = raft.ready().messages
    assert out.message.number == 1
    raft.step(1, SnapshotChunk(term, meta, 1, b"y", False), group.now)
    raft.kept(raft.ready().chunks[0], False, group.now)
    (out,) = raft.ready().messages
    assert out.message.number == 0


def test_a_snapshot_does_not_stop_the_others():
    """While one member is fed, the others commit."""
    group = behind(entries=300)
    group.dropped = lambda source, to, message: (
        isinstance(message, SnapshotChunk) and message.number > 2
    )
    group.restart(3)
    group.propose(1, b"x")
    assert group[2].state[-1] == b"x"
    assert not [m for s, to, m, _ in group.log[-50:] if to == 3 and isinstance(m, Append)]

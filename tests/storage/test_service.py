"""Group commit: what is told when, what waits for what, and how it ends."""

from __future__ import annotations

import errno
from random import Random

import pytest
from modelled import SMALL
from writing import Rig, entries, result_of, waits

from meshsvc.errors import StartError
from meshsvc.sim.disk import SimDisk
from meshsvc.storage.failures import (
    JournalClosed,
    JournalFailed,
    NoSpace,
    NotContiguous,
    QueueFull,
    SnapshotGone,
    TooLarge,
)
from meshsvc.storage.journal import JournalSettings
from meshsvc.storage.records import HardState, SnapshotMeta
from meshsvc.storage.service import MAX_WORK, PROBE_S
from meshsvc.storage.snapshots import MAX_CHUNK
from meshsvc.storage.writer import QueueLimits


@pytest.mark.contract("LOG-1")
def test_nothing_is_told_before_the_fsync():
    """A Deferred fires when the writer came back, with the data on the disk."""
    rig = Rig().opened()
    done = rig.append(1, 1)
    assert waits(done)
    rig.writer.step()
    assert result_of(done) is None
    assert done.called
    rig.disk.crash()
    assert rig.again().service.group(1).load().entries == entries(1, 1)


@pytest.mark.contract("LOG-1")
def test_what_comes_during_an_fsync_is_joined_in_the_next():
    """Ten groups that append while the disk is busy share one batch, in their order."""
    rig = Rig().opened()
    first = rig.append(1, 1)
    told = []
    for group in range(2, 12):
        rig.append(group, 1).addCallback(lambda _, group=group: told.append(group))
    assert (rig.writer.done, told) == (1, [])  # the opening
    rig.writer.step()
    assert first.called
    assert told == []
    rig.writer.step()
    assert told == list(range(2, 12))
    assert not rig.writer.calls
    assert rig.counters.total("journal_batches_total") == 2
    assert rig.counters.total("journal_changes_total") == 11


def test_what_a_callback_submits_is_joined_too():
    """Changes submitted by those who are just told go into one batch together."""
    rig = Rig().opened()
    rig.append(9, 1)
    later = []
    for group in range(3):
        done = rig.append(group, 1)
        done.addCallback(lambda _, group=group: later.append(rig.append(group, 2)))
    rig.writer.step()
    rig.writer.step()
    rig.writer.step()
    assert [done.called for done in later] == [True] * 3
    assert not rig.writer.calls


def test_a_misfit_is_told_and_spares_the_others():
    """An append with a gap fails alone; the others of the join are durable."""
    rig = Rig().opened()
    rig.append(3, 1)
    bad, good = rig.append(1, 7), rig.append(2, 1)
    rig.writer.run()
    with pytest.raises(NotContiguous, match="entry 1 was to come next"):
        result_of(bad)
    assert good.called


def test_the_queue_is_bounded():
    """Over the bound of changes or bytes a submission fails at once, and is counted."""
    rig = Rig(limits=QueueLimits(bytes=3000, changes=4, join=1000)).opened()
    taken = [rig.append(g, 1) for g in range(5)]  # the first is with the writer
    with pytest.raises(QueueFull, match="4 changes"):
        result_of(rig.append(5, 1))
    rig.writer.run()
    assert all(done.called for done in taken)
    rig.append(6, 1)
    taken = [rig.append(g, 1, data=b"x" * 1200) for g in (7, 8)]
    with pytest.raises(QueueFull, match="bytes wait"):
        result_of(rig.append(10, 1, data=b"x" * 1200))
    rig.writer.run()
    assert all(done.called for done in taken)
    assert rig.counters.total("journal_refused_total", reason="QueueFull") == 2


def test_what_can_never_be_written_is_refused_at_once():
    """A change over what a batch holds does not even wait."""
    rig = Rig().opened()
    with pytest.raises(TooLarge, match="split it"):
        result_of(rig.append(1, 1, data=bytes(65 * 1024 * 1024)))


@pytest.mark.contract("LOG-3")
def test_a_failed_fsync_ends_it_for_all():
    """EIO: who waits is told, nothing is accepted, the node is to end with 74, once."""
    rig = Rig().opened()
    result_of(rig.append(1, 1))
    rig.writer.run()
    first, second = rig.append(1, 2), rig.append(2, 1)
    chunk = rig.service.group(1).begin_snapshot(SnapshotMeta(1, 1))
    rig.disk.fail_at = (1, errno.EIO)
    rig.writer.run()
    for done in (first, second, chunk, rig.append(3, 1)):
        with pytest.raises(JournalFailed, match="nothing more is acknowledged"):
            result_of(done)
    [(code, text)] = rig.ended
    assert (code, "check the disk" in text) == (74, True)
    rig.done(rig.service.stopService())
    assert rig.again().service.group(1).load().entries[:1] == entries(1, 1)


@pytest.mark.contract("LOG-3")
def test_a_failure_while_writing_a_snapshot_ends_it_too():
    """The disk that fails under a snapshot is the disk of the journal."""
    rig = Rig().opened()
    rig.disk.fail_at = (5, errno.EIO)
    saved = rig.service.group(1).save_snapshot(SnapshotMeta(1, 1), [b"a", b"b"])
    with pytest.raises(JournalFailed):
        rig.done(saved)
    assert [code for code, _ in rig.ended] == [74]


@pytest.mark.contract("LOG-3")
def test_an_unforeseen_error_ends_it_as_a_fault(logged_errors):
    """A fault of the code in the writer leaves nothing acknowledged either; it ends with 70."""
    rig = Rig().opened()
    rig.service.store.journal.commit = lambda changes: 1 / 0
    with pytest.raises(ZeroDivisionError):
        rig.done(rig.append(1, 1))
    assert [code for code, _ in rig.ended] == [70]
    assert logged_errors.flush(ZeroDivisionError)


ROOMY = JournalSettings(segment=2048, step=512, slice=512, reserve=4096)


def filled_disk():
    """A rig whose disk is full with an append waiting; the index of the last that is durable."""
    rig = Rig(settings=ROOMY).opened()
    rig.disk.faults.room = 9000
    last = 0
    while not rig.service.alarm:
        waiting = rig.append(1, last + 1, data=b"x" * 200)
        rig.writer.run()
        last += waiting.called
    return rig, last, waiting


@pytest.mark.contract("LOG-3")
def test_on_a_full_disk_writes_wait_and_the_alarm_clears_itself():
    """ENOSPC is no failure: appends wait in order, and go on when the probe finds room."""
    rig, last, first = filled_disk()
    second = rig.append(1, last + 2)
    assert (rig.alarms, waits(first), waits(second), rig.ended) == ([True], True, True, [])
    for _ in range(5):
        rig.clock.advance(PROBE_S)
        rig.writer.run()
    assert (rig.alarms, waits(first)) == ([True], True)
    rig.disk.faults.room = None
    rig.clock.advance(PROBE_S)
    rig.writer.run()
    assert (rig.alarms, first.called, second.called) == ([True, False], True, True)
    assert rig.service.group(1).load().entries == ()
    assert rig.clock.getDelayedCalls() == []
    rig.done(rig.service.stopService())


@pytest.mark.contract("LOG-3", "LOG-4")
def test_compaction_passes_what_waits_for_room_and_makes_it():
    """On a full disk a compaction is done at once, segments go, and the writes go on."""
    rig, last, first = filled_disk()
    log = rig.service.group(1)
    rig.disk.faults.room = 600  # what the operator freed: not enough to go on
    rig.done(log.save_snapshot(SnapshotMeta(last, 1), [b"state"]))
    assert waits(first)
    rig.disk.faults.room = 0
    compacted = log.compact(last)
    rig.writer.run()
    assert compacted.called
    assert (first.called, rig.alarms) == (True, [True, False])
    assert len(rig.service.store.journal.segments) <= 2


@pytest.mark.contract("LOG-3")
def test_compaction_without_any_room_waits_for_the_probe():
    """With the reserve used up a compaction waits as well, and is tried once a probe."""
    rig, last, first = filled_disk()
    log = rig.service.group(1)
    rig.disk.faults.room = 600
    rig.done(log.save_snapshot(SnapshotMeta(last, 1), [b"state"]))
    rig.disk.faults.room = 0
    journal = rig.service.store.journal
    journal.reserve.release()
    rig.disk.faults.room = 0
    journal._head.secure = no_room
    compacted = log.compact(last)
    for _ in range(3):
        done = rig.writer.done
        rig.clock.advance(PROBE_S)
        rig.writer.run()
        assert rig.writer.done - done <= 4
    assert waits(compacted)
    assert waits(first)
    del journal._head.secure
    rig.disk.faults.room = None
    rig.clock.advance(PROBE_S)
    rig.writer.run()
    assert compacted.called
    assert first.called


def no_room(length, step):
    raise NoSpace("no room at all")


@pytest.mark.contract("LOG-3")
def test_a_snapshot_without_room_fails_alone_and_leaves_nothing():
    """NoSpace for a snapshot: it is told, its file is gone, and the journal goes on."""
    rig = Rig().opened()
    rig.done(rig.append(1, 1))
    rig.disk.faults.room = 3000
    saved = rig.service.group(1).save_snapshot(SnapshotMeta(1, 1), [b"x" * 2000] * 2)
    with pytest.raises(NoSpace, match="no space for the snapshot at 1"):
        rig.done(saved)
    assert not [path for path in rig.disk.files() if ".snap" in path]
    assert rig.done(rig.append(1, 2)) is None
    assert rig.ended == []


def test_commits_and_chunks_take_turns():
    """A snapshot of many chunks does not hold up appends, nor they it."""
    rig = Rig().opened()
    rig.done(rig.append(1, 1))
    saved = rig.service.group(1).save_snapshot(SnapshotMeta(1, 1), [b"x"] * 20)
    done = []
    for index in range(2, 20):
        rig.append(1, index).addCallback(lambda _, index=index: done.append(index))
        rig.writer.step()
        rig.writer.step()
        assert done[-1] >= index - 1
    assert waits(saved)
    rig.done(saved)
    assert saved.called


def test_a_snapshot_whose_source_raises_leaves_nothing():
    """When the state cannot be given, the snapshot is abandoned and the error is told."""

    def chunks():
        yield b"one"
        raise RuntimeError("the state is broken")

    rig = Rig().opened()
    with pytest.raises(RuntimeError, match="broken"):
        rig.done(rig.service.group(1).save_snapshot(SnapshotMeta(1, 1), chunks()))
    with pytest.raises(TooLarge):
        rig.done(rig.service.group(1).save_snapshot(SnapshotMeta(1, 1), [bytes(MAX_CHUNK + 1)]))
    assert not [path for path in rig.disk.files() if ".snap" in path]


def test_a_snapshot_is_read_in_chunks():
    """What was saved is read back chunk by chunk, while newer ones replace it."""
    rig = Rig().opened()
    log = rig.service.group(1)
    assert rig.done(log.open_snapshot()) is None
    rig.done(rig.append(1, 1, 9))
    rig.done(log.save_snapshot(SnapshotMeta(2, 1, b"members"), [b"one", b"", b"three"]))
    source = rig.done(log.open_snapshot())
    assert (source.meta, source.chunks, source.size) == (SnapshotMeta(2, 1, b"members"), 3, 8)
    for index in (4, 6, 8):
        rig.done(log.save_snapshot(SnapshotMeta(index, 1), [b"newer"]))
    assert [rig.done(source.chunk(n)) for n in (2, 0, 1)] == [b"three", b"one", b""]
    with pytest.raises(IndexError):
        rig.done(source.chunk(3))
    rig.done(source.close())
    assert len([path for path in rig.disk.files() if path.endswith(".snap")]) == 2
    rig.done(log.compact(8))
    loaded = rig.again().service.group(1).load()
    assert loaded.snapshot == SnapshotMeta(8, 1)
    assert (loaded.compacted_index, loaded.compacted_term, loaded.entries) == (8, 1, entries(9, 1))


def test_a_received_snapshot_replaces_the_log():
    """Chunks arrive one by one; once the snapshot is durable the log is reset to it."""
    rig = Rig().opened()
    log = rig.service.group(1)
    rig.done(rig.append(1, 1, 3))
    meta = SnapshotMeta(50, 4)
    sink = rig.done(log.begin_snapshot(meta))
    rig.done(sink.add(b"state"))
    with pytest.raises(NotContiguous, match="there is none"):
        rig.done(log.reset(meta))
    rig.done(sink.finish())
    rig.done(log.reset(meta))
    rig.done(log.append(HardState(4, 0, 50), entries(51, 1, term=4)))
    loaded = rig.again().service.group(1).load()
    assert (loaded.snapshot, loaded.entries) == (meta, entries(51, 1, term=4))
    abandoned = rig.done(log.begin_snapshot(SnapshotMeta(60, 4)))
    rig.done(abandoned.abandon())
    assert not [path for path in rig.disk.files() if path.endswith(".new")]


def test_a_snapshot_that_is_begun_once_more_takes_the_place_of_itself():
    """A transfer that begins again: the earlier one is told at its next chunk, nothing is left."""
    rig = Rig().opened()
    log = rig.service.group(1)
    first = rig.done(log.begin_snapshot(SnapshotMeta(5, 1)))
    rig.done(first.add(b"half"))
    second = rig.done(log.begin_snapshot(SnapshotMeta(5, 1)))
    rig.done(second.add(b"all"))
    for late in (first.add(b"other half"), first.finish()):
        with pytest.raises(SnapshotGone, match="begun once more"):
            rig.done(late)
    rig.done(first.abandon())
    other = rig.done(log.begin_snapshot(SnapshotMeta(4, 1)))  # another does not disturb it
    rig.done(second.finish())
    rig.done(other.add(b"older"))
    rig.done(other.finish())
    source = rig.done(log.open_snapshot())
    assert rig.done(source.chunk(0)) == b"all"
    assert rig.ended == []


def test_a_stop_finishes_what_waits():
    """Stopping: what was submitted is made durable first, what comes later is refused."""
    rig = Rig().opened()
    pending = [rig.append(g, 1) for g in range(5)]
    stopped = rig.service.stopService()
    assert waits(stopped)
    rig.writer.run()
    assert stopped.called
    assert all(done.called for done in pending)
    for refused in (rig.append(1, 2), rig.service.group(1).open_snapshot()):
        with pytest.raises(JournalClosed):
            result_of(refused)
    assert rig.again().service.group(4).load().entries == entries(1, 1)


def test_a_stop_on_a_full_disk_does_not_wait_for_room():
    """What waits for room is told that the journal closed; no timer is left."""
    rig, _, waiting = filled_disk()
    rig.done(rig.service.stopService())
    with pytest.raises(JournalClosed):
        result_of(waiting)
    assert rig.clock.getDelayedCalls() == []


@pytest.mark.contract("LOG-2")
def test_a_journal_that_cannot_be_opened_is_told_and_nothing_is_accepted():
    """The opening ends with the refusal; whatever is asked afterwards does too."""
    rig = Rig().opened()
    rig.done(rig.append(1, 1))
    rig.disk.processes_ended()
    [path] = [path for path in rig.disk.files() if path.endswith(".log")]
    rig.disk.put(path, rig.disk.files()[path][:30])
    bad = Rig(rig.disk)
    opening = bad.service.open()
    bad.writer.run()
    with pytest.raises(StartError, match="is damaged at byte 30"):
        result_of(opening)
    with pytest.raises(StartError):
        result_of(bad.append(1, 1))
    bad.done(bad.service.stopService())
    before = Rig(SimDisk(Random(1)), SMALL)
    with pytest.raises(JournalClosed):
        result_of(before.append(1, 1))
    assert before.service.stopService().called


def test_other_work_is_bounded():
    """So much work may wait and no more."""
    rig = Rig().opened()
    log = rig.service.group(1)
    rig.append(1, 1)
    waiting = [log.open_snapshot() for _ in range(MAX_WORK)]
    with pytest.raises(QueueFull, match=f"{MAX_WORK} pieces"):
        result_of(log.open_snapshot())
    rig.writer.run()
    assert all(done.called for done in waiting)


def test_space_is_given_back_between_commits():
    """After a compaction segments go by themselves, a slice at a time, without a call."""
    rig = Rig().opened()
    log = rig.service.group(1)
    for index in range(1, 60):
        rig.done(rig.append(1, index, data=b"x" * 60))
    assert len(rig.service.store.journal.segments) > 5
    rig.done(log.save_snapshot(SnapshotMeta(59, 1), [b"state"]))
    rig.done(log.compact(59))
    assert len(rig.service.store.journal.segments) <= 3  # the last, and up to what counts as waste


def test_a_group_knows_which_member_it_is():
    """All groups of a shard vote as the replica of their journal."""
    rig = Rig().opened()
    replica = rig.service.group(1).replica
    assert replica == rig.service.group(2).replica != 0
    assert rig.again().service.group(1).replica == replica
    assert rig.service.group(1).replaces == 0

"""What a journal accepts, what it refuses, and what it does when the disk is full or fails."""

from __future__ import annotations

import errno
from random import Random

import pytest
from modelled import FOLDER, SMALL, Model, content, opened, some_changes

from meshsvc.errors import StartError
from meshsvc.sim.disk import SimDisk
from meshsvc.storage.failures import (
    Damaged,
    JournalClosed,
    JournalFailed,
    NoSpace,
    NotContiguous,
    TooLarge,
)
from meshsvc.storage.files import RealFileSystem
from meshsvc.storage.journal import JournalSettings
from meshsvc.storage.owner import journal_dir
from meshsvc.storage.records import Append, Compact, Entry, HardState, Reset
from meshsvc.storage.segments import name_of

TINY = JournalSettings(segment=1 << 20, step=512, slice=1 << 16, reserve=2048)


@pytest.fixture
def disk():
    return SimDisk(Random(3))


def entries(first, count, term=1, data=b"x"):
    return tuple(Entry(i, term, 0, data) for i in range(first, first + count))


def filled(disk, settings=TINY, count=5):
    journal = opened(disk, settings)
    assert journal.commit([Append(1, HardState(1, 2, 0), entries(1, count))]) == [None]
    return journal


def test_a_new_journal_is_empty_and_has_a_number_of_its_own(disk):
    """A journal that was made has no groups, and its replica is what was minted."""
    journal = opened(disk, rng=Random(1))
    assert (journal.groups(), journal.size) == ((), 0)
    assert journal.owner.replica == Random(1).getrandbits(64)
    journal.close()
    assert opened(disk, rng=Random(2)).owner == journal.owner


@pytest.mark.contract("LOG-1")
def test_one_fsync_a_batch(disk):
    """Many changes of many groups are one write and one fsync, once there is room."""
    journal = opened(disk, JournalSettings(step=1 << 16))
    before = disk.operations
    changes = [Append(g, HardState(1, 1, 1), entries(1, 20)) for g in range(30)]
    assert journal.commit(changes) == [None] * 30
    assert disk.operations - before == 2


def test_what_was_written_is_there_after_a_restart(disk):
    """Everything survives a close and a start: hard states, entries, what was compacted."""
    model = Model()
    journal = opened(disk)
    for batch in some_changes(5, 60):
        journal.commit(batch)
        for change in batch:
            model.apply(change)
    journal.close()
    assert content(opened(disk)) == model


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (Append(1, None, entries(7, 1)), "entry 6 was to come next, not 7"),
        (Append(1, None, (*entries(6, 1), *entries(8, 1))), "entry 7 was to come next, not 8"),
        (Append(1, None, entries(2, 1)), "the log was compacted up to 2"),
        (Append(1, None, (), truncate_from=1), "the log was compacted up to 2"),
        (Append(1, None, entries(5, 1), truncate_from=4), "entry 4 was to come next, not 5"),
        (Compact(1, 6), "the log ends at 5"),
    ],
)
def test_a_change_that_does_not_fit_is_refused_and_alone(disk, change, what):
    """A misfit has an error that says what fits, changes nothing, and spares its neighbours."""
    journal = filled(disk)
    journal.commit([Compact(1, 2)])
    well = Append(2, HardState(3, 3, 3), entries(1, 1))
    misfit, fine = journal.commit([change, well])
    assert isinstance(misfit, NotContiguous)
    assert what in str(misfit)
    assert fine is None
    assert (journal.group(1).last, journal.group(2).last) == (5, 1)


def test_appends_replace_what_they_overlap(disk):
    """Entries from an index on replace those that were there, as a new leader demands."""
    journal = filled(disk)
    journal.commit([Append(1, None, entries(3, 1, term=2))])
    assert (journal.group(1).last, journal.group(1).term_at(3)) == (3, 2)
    journal.commit([Append(1, None, (), truncate_from=2)])
    assert journal.group(1).last == 1
    journal.close()
    again = opened(disk, TINY)
    assert again.take_entries(1) == entries(1, 1)
    assert again.take_entries(1) == ()  # given once


def test_a_log_that_is_reset_goes_on_behind_the_snapshot(disk):
    """A snapshot from elsewhere replaces the whole log; compacting twice changes nothing."""
    journal = filled(disk)
    assert journal.commit([Reset(1, 90, 4), Compact(1, 80), Append(1, None, entries(91, 2, 4))])
    state = journal.group(1)
    assert (state.compacted, state.last, state.term_at(90), state.term_at(89)) == (
        (90, 4),
        92,
        4,
        None,
    )


def test_too_much_at_once_is_refused(disk):
    """A change over what a batch holds is refused by itself, a join over it as a whole."""
    journal = filled(disk)
    large = b"x" * (33 * 1024 * 1024)
    with pytest.raises(TooLarge, match="at once"):
        journal.commit([Append(1, None, (Entry(6, 1, 0, large), Entry(7, 1, 0, large)))])
    assert journal.group(1).last == 5
    assert journal.commit([Append(1, None, entries(6, 1))]) == [None]


def test_space_is_given_back_and_little_is_copied(disk):
    """Dead segments go, one held by few entries is emptied, and copying stays in proportion."""
    journal = opened(disk, SMALL)
    journal.commit([Append(9, HardState(1, 1, 1), entries(1, 1, data=b"old"))])
    for i in range(1, 400):
        journal.commit([Append(1, HardState(1, 1, i), entries(i, 1, data=b"x" * 60))])
        if i % 10 == 0:
            journal.commit([Compact(1, i - 5)])
        for _ in range(5):
            journal.tidy()
    assert journal.size < 6 * SMALL.segment
    assert journal.totals.segments_removed > 30
    assert journal.totals.moved < 400
    journal.close()
    again = opened(disk, SMALL)
    assert again.take_entries(9) == entries(1, 1, data=b"old")
    assert again.group(9).hard_state == HardState(1, 1, 1)


@pytest.mark.contract("LOG-3")
def test_a_full_disk_changes_nothing_and_passes(disk):
    """Without space a commit is refused whole; with space again the same commit works."""
    journal = filled(disk)
    disk.faults.room = 0
    large = Append(1, None, entries(6, 1, data=b"y" * 4000))
    small = Append(1, None, entries(6, 1))
    with pytest.raises(NoSpace):
        journal.commit([large])
    assert journal.commit([small]) == [None]  # there was room for it already
    assert journal.reserve.held
    disk.faults.room = None
    assert journal.probe()
    assert journal.commit([Append(1, None, entries(7, 1, data=b"y" * 4000))]) == [None]
    journal.close()
    assert opened(disk, TINY).group(1).last == 7


def fill_up(journal):
    """Append until there is no space; the last index that was taken."""
    for last in range(1, 1000):
        try:
            journal.commit([Append(1, HardState(1, 1, last), entries(last, 1, data=b"x" * 200))])
        except NoSpace:
            return last - 1
    raise AssertionError("the disk was never full")


def tidy_all(journal):
    while journal.tidy():
        pass


@pytest.mark.contract("LOG-3", "LOG-4")
def test_compaction_works_on_a_full_disk(disk):
    """On a full disk segments are dropped with the help of the reserve, and then there is room."""
    settings = JournalSettings(segment=2048, step=512, slice=512, reserve=4096)
    journal = opened(disk, settings)
    disk.faults.room = 9000
    last = fill_up(journal)
    journal.commit([Compact(1, last)])
    tidy_all(journal)
    assert journal.probe()
    assert journal.reserve.held
    assert journal.commit([Append(1, None, entries(last + 1, 3, data=b"x" * 200))]) == [None]


@pytest.mark.contract("LOG-3")
@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.ENXIO])
def test_after_a_failure_nothing_is_accepted(disk, number):
    """Whatever operation of a commit fails, and though the next would work: it is over."""
    for operation in (0, 1):
        disk = SimDisk(Random(1))
        journal = filled(disk)
        disk.fail_at = (operation, number)
        with pytest.raises(JournalFailed, match="nothing more is acknowledged") as caught:
            journal.commit([Append(1, None, entries(6, 1))])
        assert caught.value.exit_code == 74
        with pytest.raises(JournalFailed, match="failed before"):
            journal.commit([Append(2, HardState(1, 1, 1))])
        with pytest.raises(JournalFailed, match="failed before"):
            journal.tidy()
        before = disk.operations
        journal.close()
        assert disk.operations == before
        assert opened(disk, TINY).group(1).last in (5, 6)


@pytest.mark.contract("LOG-3")
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_an_error_at_any_operation_loses_nothing_acknowledged(number):
    """Every operation fails once: what was acknowledged is there, in this life or the next."""
    batches = some_changes(1, 40)
    point, reached, codes = 0, True, set()
    while reached:
        disk, acked = SimDisk(Random(point)), Model()
        disk.fail_at = (point, number)
        begun = acked
        try:
            journal = opened(disk)
            for batch in batches:
                begun = acked.copy()
                for change in batch:
                    begun.apply(change)
                commit(journal, batch)
                acked = begun
                tidy(journal)
            journal.close()
        except (JournalFailed, StartError) as error:
            codes.add(error.exit_code)
        reached = disk.fail_at is None
        disk.crash()
        assert content(opened(disk)) in (acked, begun), point
        point += 1
    assert (point > 100, codes) == (True, {74})


def commit(journal, batch):
    try:
        journal.commit(batch)
    except NoSpace:
        journal.commit(batch)


def tidy(journal):
    try:
        journal.tidy()
    except NoSpace:
        journal.tidy()


def test_a_closed_journal_says_so(disk):
    """After a close nothing is accepted; a second close is nothing."""
    journal = filled(disk)
    journal.close()
    journal.close()
    with pytest.raises(JournalClosed):
        journal.commit([Append(1, HardState(2, 2, 2))])


@pytest.mark.contract("LOG-2")
def test_a_segment_that_rots_while_it_is_emptied_ends_the_journal(disk):
    """Copying forward meets damage: it is named, nothing is dropped, nothing more is acked."""
    journal = opened(disk, SMALL)
    journal.commit([Append(9, HardState(1, 1, 1), entries(1, 3, data=b"old" * 30))])
    for i in range(1, 60):
        journal.commit([Append(1, HardState(1, 1, i), entries(i, 1, data=b"x" * 60))])
    path = f"{FOLDER}/{name_of(1)}"
    data = bytearray(disk.files()[path])
    data[150] ^= 1
    disk.put(path, bytes(data))
    journal.commit([Compact(1, 59)])
    with pytest.raises(JournalFailed, match=f"{path}"):
        tidy_all(journal)
    assert path in disk.files()
    disk.processes_ended()
    with pytest.raises(Damaged, match=f"{path} is damaged"):
        opened(disk, SMALL)


def test_a_start_on_a_full_disk_works_without_the_reserve(disk):
    """Without room for the reserve the journal opens, says so, and is probed for it later."""
    filled(disk, JournalSettings(reserve=0)).close()
    disk.faults.room = 100
    journal = opened(disk, TINY)
    assert "no space to keep 2048 bytes aside" in journal.warnings[0]
    assert not journal.probe()
    disk.faults.room = 5000
    assert journal.probe()


def test_a_disk_that_fails_at_the_start_is_told(disk):
    """An error while opening ends the start with 74 and leaves the journal unlocked."""
    filled(disk, JournalSettings(reserve=0)).close()
    for point in range(6):
        disk.fail_at = (point, errno.EIO)
        with pytest.raises(StartError, match="Input/output error") as caught:
            opened(disk)
        assert caught.value.exit_code == 74
        disk.fail_at = None
        opened(disk).close()


def test_a_real_disk(tmp_path):
    """The same on a real file system: roll, compact, cut a torn end, close, open."""
    fs, folder = RealFileSystem(), journal_dir(str(tmp_path), 0)
    settings = JournalSettings(segment=4096, step=1024, slice=512, reserve=4096)
    journal = opened(fs, settings, folder=folder)
    for i in range(1, 100):
        journal.commit([Append(1, HardState(1, 1, i), entries(i, 1, data=b"x" * 100))])
    journal.commit([Compact(1, 90)])
    while journal.tidy():
        pass
    newest = f"{folder}/{name_of(journal.segments[-1])}"
    journal.close()
    with open(newest, "r+b") as file:
        data = file.read().rstrip(b"\0")
        file.truncate(len(data) - 3)
    again = opened(fs, settings, folder=folder)
    assert "torn" in again.warnings[0]
    assert [e.index for e in again.take_entries(1)] == list(range(91, 100))
    with pytest.raises(StartError, match="is open in another process"):
        opened(fs, settings, folder=folder)
    again.close()
    opened(fs, settings, folder=folder).close()

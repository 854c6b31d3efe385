"""Snapshots and logs: durable together, damage named, nothing lost at any point of a crash."""

from __future__ import annotations

from random import Random

import pytest
from modelled import NODE, SMALL
from writing import entries

from meshsvc.sim.disk import PowerCut, SimDisk
from meshsvc.storage.failures import Damaged, NotContiguous
from meshsvc.storage.records import Append, Compact, HardState, Reset, SnapshotMeta
from meshsvc.storage.store import open_store

CHUNKS = [b"one" * 200, b"", b"two", b"\0" * 700]


def opened(disk, seed=5):
    mint = Random(seed)
    return open_store(disk, "/d", NODE, 0, lambda: mint.getrandbits(64), SMALL)


def save(store, group, meta, chunks):
    writer = store.begin_snapshot(group, meta)
    for chunk in chunks:
        store.add_chunk(writer, chunk)
    store.finish_snapshot(group, writer)


def content(store, group):
    reader = store.open_snapshot(group)
    return [reader.chunk(number) for number in range(reader.chunks)]


def stored():
    """A disk with one group: entries 1 to 6, a snapshot at 4, the log compacted up to 3."""
    disk = SimDisk(Random(1))
    store = opened(disk)
    store.commit([Append(1, HardState(2, 3, 4), entries(1, 6))])
    save(store, 1, SnapshotMeta(4, 1, b"members"), CHUNKS)
    store.commit([Compact(1, 3)])
    store.close()
    disk.processes_ended()
    return disk


def snapshot_path(disk, last=True):
    paths = sorted(path for path in disk.files() if path.endswith(".snap"))
    return paths[-1 if last else 0]


def test_golden_snapshot():
    """The bytes of a snapshot are those of the format's first version."""
    disk = SimDisk(Random(1))
    store = opened(disk)
    save(store, 7, SnapshotMeta(3, 2, b"cfg"), [b"abc", b"de"])
    path = "/d/shard-0/snapshots/0000000000000007/0000000000000003-0000000000000002.snap"
    assert disk.files()[path].hex() == (
        "4d535643534e5031 0000000000000007 0000000000000003 0000000000000002 00000003 636667"
        "c7c7132c 00000003 352441c2 616263 00000002 8587d865 6465"
        "ffffffff 8587d865 0000000000000002 0000000000000005 9b683fa9"
    ).replace(" ", "")


def test_what_was_saved_is_there_after_a_restart():
    """Meta, config and chunks come back; the log begins where it was compacted."""
    store = opened(stored())
    found = store.recovered(1)
    assert found.snapshot == SnapshotMeta(4, 1, b"members")
    assert (found.compacted_index, found.compacted_term) == (3, 1)
    assert (found.entries, found.hard_state) == (entries(4, 3), HardState(2, 3, 4))
    assert content(store, 1) == CHUNKS


@pytest.mark.contract("LOG-4")
def test_a_log_is_only_compacted_into_a_durable_snapshot():
    """Compacting beyond the newest snapshot is refused and changes nothing."""
    store = opened(stored())
    for change in (Compact(1, 5), Reset(1, 9, 9), Compact(2, 1)):
        [error] = store.commit([change])
        assert isinstance(error, NotContiguous)
        assert "must be in a durable snapshot" in str(error)
    assert store.journal.group(1).compacted == (3, 1)


@pytest.mark.contract("LOG-4")
def test_what_a_snapshot_contains_is_not_replaced():
    """Entries in a durable snapshot are committed: an append that replaces them is refused."""
    store = opened(stored())
    for change in (Append(1, None, entries(4, 1, 9)), Append(1, None, (), truncate_from=4)):
        [error] = store.commit([change])
        assert isinstance(error, NotContiguous)
        assert "the snapshot at 4 contains them" in str(error)
    assert store.commit([Append(1, None, entries(5, 1, 9))]) == [None]


@pytest.mark.contract("LOG-2")
def test_a_flip_of_any_byte_of_a_snapshot_is_found():
    """With any byte changed the snapshot is refused by name, and never given as it is."""
    disk = stored()
    path = snapshot_path(disk)
    data = disk.files()[path]
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << (at % 8)
        disk.put(path, bytes(flipped))
        with pytest.raises(Damaged) as caught:
            opened(disk)
        assert caught.value.path == path
        assert caught.value.offset < len(data)
        assert disk.files()[path] == flipped
    disk.put(path, data)
    assert content(opened(disk), 1) == CHUNKS


@pytest.mark.contract("LOG-2")
def test_a_cut_at_any_byte_of_a_snapshot_is_found():
    """However short the file is, and also when it is longer, it is no snapshot."""
    disk = stored()
    path = snapshot_path(disk)
    data = disk.files()[path]
    for size in range(len(data)):
        disk.put(path, data[:size])
        with pytest.raises(Damaged, match=r"\.snap is damaged"):
            opened(disk)


def test_swapped_and_repeated_chunks_are_found():
    """Chunks that are right by themselves but in other places do not fit."""
    disk = SimDisk(Random(1))
    save(opened(disk), 1, SnapshotMeta(1, 1), [b"aaa", b"bbb", b"ccc"])
    disk.processes_ended()
    path = snapshot_path(disk)
    data = disk.files()[path]
    start = data.index(b"aaa") - 8
    a, b, c = (data[start + 11 * i : start + 11 * i + 11] for i in range(3))
    for order in ((b, a, c), (a, a, c), (a, b), (a, b, c, c)):
        disk.put(path, data[:start] + b"".join(order) + data[start + 33 :])
        store = opened(disk)
        assert "damaged" in store.journal.warnings[0]
        assert store.open_snapshot(1) is None
        disk.processes_ended()


@pytest.mark.contract("LOG-2")
def test_a_damaged_snapshot_is_passed_over_while_the_log_still_has_it_all():
    """An older snapshot and the log behind it are as good: a warning, and nothing is lost."""
    disk = stored()
    store = opened(disk)
    save(store, 1, SnapshotMeta(6, 1), [b"newer"])
    store.close()
    path = snapshot_path(disk)
    disk.put(path, disk.files()[path][:-1])
    again = opened(disk)
    assert again.recovered(1).snapshot == SnapshotMeta(4, 1, b"members")
    assert again.recovered(1).compacted_index == 3
    assert path in again.journal.warnings[0]
    assert disk.files()[path]


@pytest.mark.contract("LOG-2")
def test_a_lost_snapshot_is_named():
    """A log whose beginning is in no snapshot does not open."""
    disk = stored()
    disk.remove(snapshot_path(disk))
    with pytest.raises(Damaged, match="the log of group 1 begins behind 3, and no snapshot"):
        opened(disk)
    with pytest.raises(Damaged):  # and the refusal let go of the lock
        opened(disk)


def test_only_the_last_few_are_kept():
    """Two snapshots stay; what a crash left half written goes at the next start."""
    disk = stored()
    store = opened(disk)
    for index in (5, 6):
        save(store, 1, SnapshotMeta(index, 1), [b"x"])
    store.add_chunk(store.begin_snapshot(1, SnapshotMeta(9, 1)), b"half")
    disk.processes_ended()
    assert len([path for path in disk.files() if ".snap" in path]) == 3
    opened(disk)
    names = [path.rsplit("/", 1)[1] for path in sorted(disk.files()) if ".snap" in path]
    assert [int(name[:16], 16) for name in names] == [5, 6]


@pytest.mark.contract("LOG-4")
def test_a_snapshot_that_overtook_the_log_replaces_it():
    """A crash between a received snapshot and the reset of the log: the start resets it."""
    disk = stored()
    store = opened(disk)
    save(store, 1, SnapshotMeta(40, 7), [b"theirs"])
    disk.processes_ended()
    found = opened(disk).recovered(1)
    assert (found.compacted_index, found.compacted_term, found.entries) == (40, 7, ())
    disk.processes_ended()
    store = opened(disk)
    assert store.commit([Append(1, None, entries(41, 1, 7))]) == [None]


def run(disk, progress):
    """Appends, own snapshots with compaction, and one from elsewhere; notes what is durable."""
    store = opened(disk)
    progress.check(store)
    for turn in range(progress.turn, 12):
        log = store.journal.group(1)
        if turn % 4 == 2:
            meta = SnapshotMeta(log.last, log.term_at(log.last), b"%d" % turn)
            save(store, 1, meta, [b"state %d" % meta.index] * 3)
            progress.snapshot = meta.index
            store.commit([Compact(1, meta.index - 1)])
        elif turn == 7:
            meta = SnapshotMeta(log.last + 30, 9)
            progress.next_last = meta.index
            save(store, 1, meta, [b"theirs"] * 2)
            progress.snapshot = meta.index
            store.commit([Reset(1, meta.index, meta.term)])
            progress.last = meta.index
        else:
            progress.next_last = log.last + 5
            new = entries(log.last + 1, 5, term=turn + 1, data=b"y" * 50)
            assert store.commit([Append(1, HardState(turn, 1, 1), new)]) == [None]
            progress.last = progress.next_last
        while store.journal.tidy():
            pass
        progress.turn = turn + 1
    store.close()


class Progress:
    turn = last = next_last = snapshot = 0

    def check(self, store):
        found = store.recovered(1)
        last = found.compacted_index + len(found.entries)
        assert last in (self.last, self.next_last)
        assert (found.snapshot.index if found.snapshot else 0) >= self.snapshot
        assert found.compacted_index <= (found.snapshot.index if found.snapshot else 0)
        if found.snapshot:
            assert len(content(store, 1)) in (2, 3)
        self.last = self.next_last = last
        self.snapshot = found.snapshot.index if found.snapshot else 0


@pytest.mark.contract("LOG-1", "LOG-4")
@pytest.mark.parametrize("torn", [0.3, 1.0])
def test_a_crash_at_any_step_of_snapshot_and_compaction_loses_nothing(torn):
    """The power fails at operation N, for every N; what was durable is there, and it goes on."""
    disk = SimDisk(Random(0))
    run(disk, Progress())
    total = disk.operations
    assert total > 150
    for point in range(total):
        disk, progress = SimDisk(Random(point)), Progress()
        disk.faults.torn = torn
        disk.stop_after = point
        with pytest.raises(PowerCut):
            run(disk, progress)
        disk.crash()
        run(disk, progress)
        assert progress.turn == 12

"""Files that were cut, flipped, lost or swapped: a prefix, or a refusal that names the place."""

from __future__ import annotations

import os
from random import Random

import pytest
from modelled import FOLDER, NODE, SMALL, Model, content, opened, some_changes

from meshsvc.errors import StartError
from meshsvc.sim.disk import SimDisk
from meshsvc.storage.batches import Batch, Ending, Stop, scan
from meshsvc.storage.failures import Damaged
from meshsvc.storage.journal import JournalSettings
from meshsvc.storage.records import Append, Entry, HardState
from meshsvc.storage.segments import HEADER_BYTES, SegmentHeader, name_of

WHOLE = JournalSettings(segment=1 << 20, step=4096, slice=1 << 16, reserve=0)
ONE = f"{FOLDER}/{name_of(1)}"


def written(batches, settings=WHOLE, close=False):
    """The files of a journal that took the batches, and the model after each of them."""
    disk, model, models = SimDisk(Random(0)), Model(), [Model()]
    journal = opened(disk, settings)
    for batch in batches:
        journal.commit(batch)
        journal.tidy()
        model = model.copy()
        for change in batch:
            model.apply(change)
        models.append(model)
    if close:
        journal.close()
    disk.crash()
    return disk.files(), models


def disk_with(files, **changed):
    """A disk with files; ``path=content`` replaces one, None removes it."""
    disk = SimDisk(Random(0))
    for name, data in {**files, **changed}.items():
        if data is not None:
            disk.put(name, data)
    return disk


def outcome(disk, settings=WHOLE):
    """What the journal opens to, or the refusal; a refusal leaves the files as they were."""
    before = disk.files()
    try:
        return content(opened(disk, settings))
    except Damaged as error:
        assert disk.files() == before
        return error


def thousand():
    return [[Append(1, HardState(1, 7, i), (Entry(i + 1, 1, 0, b"%d" % i),))] for i in range(500)]


@pytest.mark.contract("LOG-4")
def test_cut_at_every_byte_of_a_thousand_records_reads_as_a_prefix():
    """Wherever a segment is cut, reading gives the batches that are whole, and a torn end."""
    files, _ = written(thousand())
    data = files[ONE].rstrip(b"\0")
    header = SegmentHeader.decode(ONE, data)
    *batches, last = scan(data, HEADER_BYTES, header.place, header.salt)
    assert (sum(batch.count for batch in batches), last.ending) == (1000, Ending.CLEAN)
    place = header.place
    for batch in batches:
        # Up to this batch reading is the same for every cut, so it begins here.
        for size in range(batch.offset, batch.end):
            found = list(scan(data[:size], batch.offset, place, header.salt))
            ending = Ending.CLEAN if size == batch.offset else Ending.TORN
            assert [(type(f), f.offset, f.ending) for f in found] == [(Stop, batch.offset, ending)]
        place = batch.after


@pytest.mark.contract("LOG-2", "LOG-4")
def test_a_file_that_was_cut_opens_to_a_prefix_and_goes_on():
    """A journal cut anywhere opens to whole batches; what is appended then is there later."""
    batches = thousand()[:60]
    files, models = written(batches)
    data = files[ONE].rstrip(b"\0")
    for size in range(HEADER_BYTES, len(data) + 1, 13):
        disk = disk_with(files, **{ONE: data[:size]})
        journal = opened(disk, WHOLE)
        found = content(journal)
        assert found in models
        state = journal.group(1)
        more = Append(1, HardState(9, 9, 9), (Entry(state.last + 1, 9, 0, b"more"),))
        journal.commit([more])
        disk.crash()
        found.apply(more)
        assert content(opened(disk, WHOLE)) == found


@pytest.mark.contract("LOG-2")
@pytest.mark.parametrize("settings", [WHOLE, SMALL])
def test_a_flip_of_any_byte_never_gives_wrong_data(settings):
    """With any byte of any file changed: all of it, a prefix of it, or a refusal by name."""
    files, models = written(some_changes(3, 12, groups=2, largest=20), settings)
    rng = Random(4)
    refused = 0
    for path, data in sorted(files.items()):
        if path.endswith("reserve"):
            continue
        end = min(len(data), len(data.rstrip(b"\0")) + 40)
        for at in range(end):
            flipped = bytearray(data)
            flipped[at] ^= 1 << rng.randrange(8)
            found = outcome(disk_with(files, **{path: bytes(flipped)}), settings)
            if isinstance(found, Damaged):
                assert found.path == path or not path.endswith(".log")
                refused += 1
            else:
                assert found in models, (path, at)
    assert refused > 500


@pytest.mark.contract("LOG-2")
def test_damage_to_what_was_acknowledged_names_file_and_offset():
    """A changed byte in any batch, also in the last, is refused at that batch's offset."""
    files, _ = written(thousand()[:20])
    data = files[ONE]
    header = SegmentHeader.decode(ONE, data)
    found = scan(data, HEADER_BYTES, header.place, header.salt)
    for batch in [item for item in found if isinstance(item, Batch)]:
        for at in (batch.offset, batch.offset + 7, batch.offset + 40, batch.end - 1):
            flipped = bytearray(data)
            flipped[at] ^= 0x10
            refusal = outcome(disk_with(files, **{ONE: bytes(flipped)}))
            assert (refusal.path, refusal.offset) == (ONE, batch.offset)
            assert refusal.exit_code == 74
            assert f"{ONE} is damaged at byte {batch.offset}: " in str(refusal)
            assert "meshsvc repair" in str(refusal)


@pytest.mark.contract("LOG-2")
def test_a_torn_end_is_cut_off_and_said():
    """The last batch with a sector that never arrived is no damage: it is cut, with a warning."""
    batches = [*thousand()[:5], [Append(1, None, (Entry(6, 1, 0, b"x" * 3000),))]]
    files, models = written(batches)
    data = bytearray(files[ONE])
    data[1024:1536] = bytes(512)
    disk = disk_with(files, **{ONE: bytes(data)})
    journal = opened(disk, WHOLE)
    assert content(journal) == models[5]
    assert "torn batch" in journal.warnings[0]
    journal.close()
    assert opened(disk, WHOLE).warnings == []


@pytest.mark.contract("LOG-2")
def test_zeroes_in_the_middle_are_damage():
    """The same hole with a valid batch behind it is refused: that batch was acknowledged."""
    large = [Append(1, None, (Entry(6, 1, 0, b"x" * 3000),))]
    files, _ = written([*thousand()[:5], large, [Append(1, HardState(2, 2, 2))]])
    data = bytearray(files[ONE])
    data[1024:1536] = bytes(512)
    refusal = outcome(disk_with(files, **{ONE: bytes(data)}))
    assert "a valid batch follows" in str(refusal)


@pytest.mark.contract("LOG-2")
def test_an_orderly_end_protects_the_last_batch():
    """After a close, a hole in the last batch with entries is damage as well."""
    batches = [*thousand()[:5], [Append(1, None, (Entry(6, 1, 0, b"x" * 3000),))]]
    files, _ = written(batches, close=True)
    data = bytearray(files[ONE])
    data[1024:1536] = bytes(512)
    assert isinstance(outcome(disk_with(files, **{ONE: bytes(data)})), Damaged)


@pytest.mark.contract("LOG-2")
def test_a_client_cannot_write_a_batch():
    """A copy of valid batches as the data of an entry does not make a torn end look durable."""
    files, _ = written(thousand()[:20])
    copy = files[ONE].rstrip(b"\0")
    batches = [*thousand()[:5], [Append(1, None, (Entry(6, 1, 0, copy + b"x" * 3000),))]]
    files, models = written(batches)
    data = files[ONE].rstrip(b"\0")[:-1000]
    assert outcome(disk_with(files, **{ONE: data})) == models[5]


@pytest.mark.contract("LOG-2")
def test_a_lost_segment_is_named():
    """Any segment that is missing, the first and the last included, is refused by its name."""
    files, _ = written(some_changes(1, 60), SMALL)
    segments = sorted(path for path in files if path.endswith(".log"))
    assert len(segments) > 2
    for path in segments:
        refusal = outcome(disk_with(files, **{path: None}), SMALL)
        assert (refusal.path, refusal.offset) == (path, 0)
        assert "missing" in str(refusal)


@pytest.mark.contract("LOG-2", "LOG-5")
def test_a_lost_id_and_lost_segments_are_not_taken_for_a_new_journal():
    """Without its id, or with nothing but its id, a journal does not open as an empty one."""
    files, _ = written(thousand()[:5])
    ident = f"{FOLDER}/journal.id"
    assert outcome(disk_with(files, **{ident: None})).path == ident
    assert outcome(disk_with(files, **{ONE: None})).path == ONE


@pytest.mark.contract("LOG-2", "LOG-5")
def test_a_segment_of_another_replica_is_refused():
    """A segment copied from another journal does not continue this one."""
    files, _ = written(thousand()[:5])
    other = SimDisk(Random(0))
    journal = opened(other, WHOLE, rng=Random(99))
    journal.commit(thousand()[0])
    refusal = outcome(disk_with(files, **{ONE: other.files()[ONE]}))
    assert "it is of replica" in str(refusal)


@pytest.mark.contract("LOG-5")
@pytest.mark.parametrize(("node", "shard"), [("cd" * 16, 0), (NODE, 1)])
def test_the_journal_of_another_is_refused(node, shard):
    """A journal that was copied to another node or shard is refused (78) and not changed."""
    files, models = written(thousand()[:5])
    disk = disk_with(files)
    with pytest.raises(StartError, match="belongs to shard 0 of node abab") as caught:
        opened(disk, WHOLE, node=node, shard=shard)
    assert caught.value.exit_code == 78
    assert disk.files() == files
    assert content(opened(disk, WHOLE)) == models[5]


@pytest.mark.contract("LOG-5")
def test_one_process_at_a_time():
    """A journal that is open in another process is refused (75), naming it."""
    disk = SimDisk(Random(0))
    opened(disk)
    with pytest.raises(StartError, match="is open in another process") as caught:
        opened(disk)
    assert caught.value.exit_code == 75


def test_the_name_of_a_segment_is_its_number():
    """Files are found by name, so a swap of two shows in their headers."""
    files, _ = written(some_changes(1, 60), SMALL)
    first, second, *_ = sorted(path for path in files if path.endswith(".log"))
    refusal = outcome(disk_with(files, **{first: files[second], second: files[first]}), SMALL)
    assert (refusal.path, os.path.basename(first)) == (first, name_of(int(first[-20:-4], 16)))
    assert "it says that it is segment" in str(refusal)

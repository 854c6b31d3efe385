"""A damaged replica is named, given up whole, and comes back as another member."""

from __future__ import annotations

import json
from random import Random

import pytest
from modelled import NODE, SMALL
from writing import entries

from meshsvc.admin.cli.main import main
from meshsvc.errors import StartError
from meshsvc.node.store.record import RecordFile
from meshsvc.raft.founding_terms import JOINED, Record
from meshsvc.sim.disk import PowerCut, SimDisk
from meshsvc.storage import repair
from meshsvc.storage.failures import Damaged
from meshsvc.storage.files import RealFileSystem
from meshsvc.storage.records import Append, Compact, HardState, SnapshotMeta
from meshsvc.storage.store import open_store


def opened(fs, data_dir="/d", seed=5):
    mint = Random(seed)
    return open_store(fs, data_dir, NODE, 0, lambda: mint.getrandbits(64), SMALL)


def kept(fs, data_dir="/d"):
    """A shard with a log and a snapshot; its replica number."""
    store = opened(fs, data_dir)
    store.commit([Append(1, HardState(2, 3, 4), entries(1, 6))])
    writer = store.begin_snapshot(1, SnapshotMeta(4, 1))
    store.add_chunk(writer, b"state")
    store.finish_snapshot(1, writer)
    store.commit([Compact(1, 4)])
    store.close()
    return store.journal.owner.replica


def files_of(disk, ending):
    return sorted(path for path in disk.files() if path.endswith(ending))


def spoil(disk, path, at=100):
    data = bytearray(disk.files()[path])
    data[at] ^= 1
    disk.put(path, bytes(data))


@pytest.fixture
def disk():
    return SimDisk(Random(1))


@pytest.mark.contract("LOG-2")
def test_a_look_finds_what_a_start_finds_and_changes_nothing(disk):
    """Well, torn or damaged: as the next start would say, with no file changed."""
    replica = kept(disk)
    before = disk.files()
    assert repair.shards(disk, "/d") == (0,)
    assert repair.look(disk, "/d", 0) == repair.Finding(0, replica, 1, 2)
    for path in (*files_of(disk, ".log"), *files_of(disk, ".snap"), *files_of(disk, ".id")):
        data = disk.files()[path]
        spoil(disk, path, at=20)
        spoiled = disk.files()
        finding = repair.look(disk, "/d", 0)
        assert f"{path} at byte " in finding.damage
        assert (finding.replica, disk.files()) == (replica, spoiled)
        with pytest.raises(Damaged):
            opened(disk)
        disk.put(path, data)
    assert disk.files() == before


@pytest.mark.contract("LOG-2", "RAFT-5")
def test_a_replica_that_was_given_up_comes_back_as_another_member(disk):
    """Its files are moved aside as they are; the new one is empty and knows whom it replaces."""
    replica = kept(disk)
    spoil(disk, files_of(disk, ".log")[0])
    spoiled = {path[len("/d/shard-0") :]: data for path, data in disk.files().items()}
    given_up = repair.give_up(disk, "/d", 0)
    assert given_up == repair.GivenUp(0, "/d/quarantine/shard-0.1", replica)
    moved = disk.files().items()
    moved = {p[len(given_up.moved_to) :]: data for p, data in moved if "quarantine" in p}
    assert moved == spoiled
    store = opened(disk, seed=9)
    assert store.journal.owner.replica not in (replica, 0)
    assert store.journal.owner.replaces == replica
    found = store.recovered(1)
    assert (found.hard_state, found.snapshot, found.entries) == (HardState(), None, ())
    store.commit([Append(1, HardState(1, 1, 1))])
    store.close()
    again = opened(disk, seed=10)
    assert again.journal.owner == store.journal.owner


@pytest.mark.contract("LOG-2")
def test_the_old_number_is_found_without_the_id(disk):
    """With journal.id damaged too, the segments say which member this was."""
    replica = kept(disk)
    spoil(disk, files_of(disk, ".id")[0], at=5)
    assert repair.give_up(disk, "/d", 0).replaces == replica
    assert opened(disk, seed=9).journal.owner.node_id == NODE


def test_giving_up_twice_keeps_both(disk):
    """A second time nothing of the first is overwritten, and the member to replace is kept."""
    replica = kept(disk)
    assert repair.give_up(disk, "/d", 0).replaces == replica
    second = repair.give_up(disk, "/d", 0)
    assert (second.moved_to, second.replaces) == ("/d/quarantine/shard-0.2", replica)
    with pytest.raises(StartError, match="nothing of shard 3"):
        repair.give_up(disk, "/d", 3)


@pytest.mark.contract("LOG-2", "RAFT-5")
def test_a_crash_while_giving_up_never_brings_the_old_member_back_empty():
    """At every step: either the old replica with all its files, or a new one."""
    outcomes = set()
    for point in range(30):
        disk = SimDisk(Random(point))
        replica = kept(disk)
        disk.stop_after = point
        try:
            repair.give_up(disk, "/d", 0)
        except PowerCut:
            disk.crash()
        disk.stop_after = None
        store = opened(disk, seed=9)
        whole = bool(store.recovered(1).entries)
        assert whole == (store.journal.owner.replica == replica)
        outcomes.add(whole)
    assert outcomes == {True, False}


@pytest.fixture
def data_dir(tmp_path):
    path = str(tmp_path)
    replica = kept(RealFileSystem(), path)
    RecordFile(RealFileSystem(), path, replica).save(Record(JOINED, cluster=9))
    return tmp_path


def cli(capsys, *arguments):
    code = main(["repair", "-o", "json", *map(str, arguments)])
    out = capsys.readouterr().out
    return code, json.loads(out) if out else None


def test_the_command_checks(data_dir, capsys):
    """Without --rebuild it tells what is there: 0 when all is well, 1 when something is not."""
    code, [row] = cli(capsys, data_dir)
    assert (code, row["state"], row["groups"], row["entries"]) == (0, "well", 1, 2)
    [path] = data_dir.glob("shard-0/journal/*.log")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    code, [row] = cli(capsys, data_dir)
    assert (code, row["state"]) == (1, "damaged")
    assert row["detail"].startswith(f"{path} at byte 64: ")
    assert path.read_bytes() == data


def test_the_command_gives_up_only_what_is_damaged(data_dir, capsys):
    """With --rebuild a damaged shard is moved aside; one that is well is left alone."""
    code, [row] = cli(capsys, data_dir, "--rebuild")
    assert (code, row["state"]) == (0, "well")
    [path] = data_dir.glob("shard-0/journal/*.log")
    path.write_bytes(path.read_bytes()[:10])
    code, [row] = cli(capsys, data_dir, "--rebuild", "--shard", 0)
    assert (code, row["state"]) == (0, "to be rebuilt")
    assert row["moved_to"] == str(data_dir / "quarantine" / "shard-0.1")
    assert int(row["replaces"], 16)
    code, [row] = cli(capsys, data_dir)
    assert (code, row["state"], row["entries"]) == (0, "well", 0)


def spoil_record(data_dir, how):
    """Damage the record of the founding in one of the ways an operator meets."""
    path = data_dir / "shard-0" / "founding"
    if how == "lost":
        path.unlink()
    elif how == "cut":
        path.write_bytes(b"")
    elif how == "flipped":
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    else:
        RecordFile(RealFileSystem(), str(data_dir), 4711).save(Record(JOINED, cluster=9))
    return path


@pytest.mark.contract("LOG-2")
@pytest.mark.parametrize("how", ["lost", "cut", "flipped", "another's"])
def test_a_record_of_the_founding_that_is_not_the_journals_is_damage(data_dir, capsys, how):
    """A start refuses it, `repair` names it, and --rebuild leads out of it: with a journal that
    holds something and no record of its own, a node would found a second store of old votes."""
    path = spoil_record(data_dir, how)
    [replica] = [repair.look(RealFileSystem(), str(data_dir), 0).replica]
    with pytest.raises(StartError, match="repair --rebuild") as refused:
        RecordFile(RealFileSystem(), str(data_dir), replica, held=True).load()
    assert refused.value.exit_code == 74
    code, [row] = cli(capsys, data_dir)
    assert (code, row["state"]) == (1, "damaged")
    assert row["detail"].startswith(f"{path}: ")
    code, [row] = cli(capsys, data_dir, "--rebuild")
    assert (code, row["replaces"]) == (0, f"{replica:016x}")
    code, [row] = cli(capsys, data_dir)
    assert (code, row["state"]) == (0, "well")


def test_a_record_beside_an_empty_journal_is_no_damage(tmp_path):
    """A journal that was moved away by hand comes back under a new number, and founds anew."""
    (tmp_path / "shard-0").mkdir()
    for member in (1, 2):
        RecordFile(RealFileSystem(), str(tmp_path), 1).save(Record(JOINED, cluster=9))
        found = RecordFile(RealFileSystem(), str(tmp_path), member).load()
        assert found == (Record(JOINED, cluster=9) if member == 1 else Record())


def test_the_shard_of_another_node_is_not_given_up(data_dir, capsys):
    """78, as its start says: here it would be dropped from the groups of the node it belongs to."""
    (data_dir / "identity.json").write_text(json.dumps({"node_id": "b" * 32}))
    assert main(["repair", "--rebuild", str(data_dir)]) == 78
    assert f"belongs to shard 0 of node {NODE}" in capsys.readouterr().err
    (data_dir / "identity.json").write_text("{")
    assert main(["repair", str(data_dir)]) == 0


def test_a_directory_that_keeps_nothing_is_told_from_one_that_is_no_nodes(tmp_path, capsys):
    """64 for any old directory; a node without a store is told that it has none."""
    assert main(["repair", str(tmp_path)]) == 64
    assert "name a node's data directory" in capsys.readouterr().err
    (tmp_path / "identity.json").touch()
    assert main(["repair", str(tmp_path)]) == 0
    assert "keeps nothing for Raft" in capsys.readouterr().err


def test_the_command_wants_a_node_that_is_stopped(data_dir, capsys):
    """A directory in use is refused with 75; one that is none, or has no such shard, with 64."""
    lock = RealFileSystem().lock(str(data_dir / "lock"))
    lock.note("4711")
    assert main(["repair", str(data_dir)]) == 75
    assert "is in use by process 4711: stop that node first" in capsys.readouterr().err
    lock.release()
    assert main(["repair", str(data_dir), "--shard", "5"]) == 64
    assert main(["repair", str(data_dir / "none")]) == 64
    assert "is no directory" in capsys.readouterr().err

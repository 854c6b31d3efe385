"""A store from a saved snapshot, and a snapshot from the disk of a stopped node."""

from __future__ import annotations

from io import BytesIO

import pytest

from meshsvc.errors import StartError
from meshsvc.kv import commands, snapshot_file
from meshsvc.kv.api import Compact, DeleteRange, LeaseGrant, Put
from meshsvc.kv.machine import Machine
from meshsvc.kv.snapshot import BadSnapshot
from meshsvc.node.store.record import DEFAULT, SYSTEM, RecordFile
from meshsvc.node.store.restoring import ASIDE, restore
from meshsvc.node.store.salvaging import salvage, saved
from meshsvc.raft.core import COMMAND
from meshsvc.raft.founding_terms import JOINED
from meshsvc.raft.quorum import Config, decode_config
from meshsvc.raft.sessions import encode_command, encode_open
from meshsvc.storage.files import RealFileSystem
from meshsvc.storage.records import Append, Entry, HardState
from meshsvc.storage.store import open_store

NODE = "a" * 32
FS = RealFileSystem()


def minting():
    numbers = iter(range(0x1001, 0x2000))
    return lambda: next(numbers)


def a_machine(keys=2000):
    machine = Machine(9, 1)
    steps = [Put(b"k%d" % n, b"v") for n in range(keys)]
    steps += [DeleteRange(b"k1"), LeaseGrant(60, 7), Put(b"l", b"x", 7), Compact(100)]
    for index, step in enumerate(steps, 10):
        machine.apply(commands.encode(step), index, 5)
    return machine


def chunks_of(data):
    return snapshot_file.scan(BytesIO(data).read)


def the_file(machine):
    return b"".join(saved(machine))


@pytest.mark.contract("KV-4")
def test_a_restored_node_is_the_only_member_of_a_new_cluster(tmp_path):
    """Its journal holds the keyspace at the term and index of the snapshot, and both groups'
    one member; its record says that it belongs to the new cluster."""
    machine = a_machine()
    done = restore(FS, str(tmp_path), NODE, chunks_of(the_file(machine)), minting())
    assert (done.revision, done.keys, done.leases) == (machine.mvcc.revision, 2000, 1)
    record = RecordFile(FS, str(tmp_path), done.member).load()
    assert (record.stage, record.cluster, record.plan) == (JOINED, done.cluster, None)
    store = open_store(FS, str(tmp_path), NODE, 0, minting())
    try:
        assert store.journal.owner.replica == done.member
        keyspace, system = store.recovered(DEFAULT), store.recovered(SYSTEM)
        assert keyspace.hard_state == HardState(5, 0, machine.applied_index)
        assert (keyspace.snapshot.index, keyspace.snapshot.term) == (machine.applied_index, 5)
        assert decode_config(keyspace.snapshot.config) == Config((done.member,))
        assert decode_config(system.entries[0].data) == Config((done.member,))
    finally:
        store.close()


@pytest.mark.contract("KV-4", "LOG-2")
@pytest.mark.parametrize("cut", ["short", "flipped", "empty"])
def test_a_damaged_file_restores_nothing(tmp_path, cut):
    """Nor does it leave anything that a node would open as a store."""
    data = bytearray(the_file(a_machine()))
    if cut == "short":
        del data[-600:]
    elif cut == "flipped":
        data[len(data) // 2] ^= 1
    else:
        data.clear()
    with pytest.raises(BadSnapshot):
        restore(FS, str(tmp_path), NODE, chunks_of(bytes(data)), minting())
    assert [each.name for each in tmp_path.iterdir()] == [ASIDE]


def test_nothing_is_written_over_a_store(tmp_path):
    """A directory that holds a part of a store is refused, and left as it is."""
    restore(FS, str(tmp_path), NODE, chunks_of(the_file(a_machine(3))), minting())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StartError) as refused:
        restore(FS, str(tmp_path), NODE, chunks_of(the_file(a_machine(3))), minting())
    assert refused.value.exit_code == 73
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_store_can_be_saved_and_restored(tmp_path):
    """Also one in which nothing ever happened has a first index and term."""
    done = restore(FS, str(tmp_path), NODE, chunks_of(the_file(Machine(9, 1))), minting())
    assert (done.revision, done.keys) == (1, 0)


@pytest.mark.contract("LOG-2")
def test_what_is_on_a_disk_is_saved_without_a_quorum(tmp_path):
    """The snapshot and every entry behind it, each command once."""
    machine = a_machine(50)
    restore(FS, str(tmp_path), NODE, chunks_of(the_file(machine)), minting())
    store = open_store(FS, str(tmp_path), NODE, 0, minting())
    session, at = b"s" * 16, machine.applied_index
    late = [
        encode_open(session),
        encode_command(session, 1, 1, commands.encode(Put(b"late", b"1"))),
        encode_command(session, 1, 1, commands.encode(Put(b"late", b"1"))),
    ]
    entries = tuple(Entry(at + n, 6, COMMAND, data) for n, data in enumerate(late, 1))
    assert store.commit([Append(DEFAULT, HardState(6, 0, at), entries)]) == [None]
    store.close()
    found = salvage(FS, str(tmp_path))
    assert found.mvcc.revision == machine.mvcc.revision + 1
    assert found.mvcc.index.latest(b"late") is not None
    again = tmp_path / "again"
    again.mkdir()
    assert restore(FS, str(again), NODE, chunks_of(the_file(found)), minting()).keys == 51
    with pytest.raises(StartError):
        salvage(FS, str(tmp_path / "nothing"))

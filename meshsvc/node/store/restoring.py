"""The part of a store in a data directory, made from a saved snapshot: how a cluster begins anew.

What is made is the only founding member of a new cluster: its own cluster id and member, so
that no node of an old cluster can take it for one of its own, nor a vote be given twice. Nodes
with empty disks and the same ``[store] expect`` then join it.

The keyspace's log goes on where the snapshot ends, at its term; the ``system`` group begins
with nothing but its one member. All of it is made aside and moved into place at once, so a
restore that was interrupted leaves nothing that could be started.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from meshsvc.errors import StartError
from meshsvc.kv.machine import Machine
from meshsvc.kv.snapshot import BadSnapshot, Restore
from meshsvc.node.store.record import DEFAULT, SYSTEM, RecordFile
from meshsvc.raft.core import CONFIG, FRESH_TERM
from meshsvc.raft.disk import MACHINE
from meshsvc.raft.founding_terms import JOINED, Record
from meshsvc.raft.quorum import Config, Member
from meshsvc.storage.files import EX_IOERR, FileSystem
from meshsvc.storage.owner import shard_dir
from meshsvc.storage.records import Append, Entry, HardState, Reset, SnapshotMeta
from meshsvc.storage.store import Store, open_store

ASIDE = "restore.new"
"""Where the files are made, in the data directory; the caller removes what is left there."""

EX_CANTCREAT = 73


@dataclass(frozen=True, slots=True)
class Restored:
    """What was made: the new cluster and its member, and what the keyspace holds."""

    cluster: int
    member: Member
    revision: int
    keys: int
    leases: int


def refuse_taken(fs: FileSystem, data_dir: str) -> None:
    """Refuse a directory that holds a part of a store already.

    Raises:
        StartError: 73, saying what to do.
    """
    folder = shard_dir(data_dir, 0)
    if fs.list_dir(folder):
        raise StartError(
            f"{folder} holds a part of a store already, and nothing is written over it: move it"
            " away first, or restore into another data directory",
            EX_CANTCREAT,
        )


def restore(
    fs: FileSystem,
    data_dir: str,
    node_id: str,
    chunks: Iterable[bytes],
    mint: Callable[[], int],
) -> Restored:
    """Make a part of a store from the chunks of a snapshot.

    Args:
        fs: the disk.
        data_dir: of a node that is stopped, and locked by the caller.
        node_id: the node's.
        chunks: of the snapshot; what raises in there ends the restore, and nothing was made.
        mint: gives an unsigned 64-bit random number each time.

    Raises:
        BadSnapshot: it cannot be restored.
        StartError: 73 when there is a store already, 74 when the disk fails.
    """
    refuse_taken(fs, data_dir)
    aside = os.path.join(data_dir, ASIDE)
    fs.make_dir(aside)
    store = open_store(fs, aside, node_id, 0, mint)
    try:
        member = store.journal.owner.replica
        machine, meta = _fill(store, chunks, Config((member,)))
        config = meta.config
        term = meta.term
        for change in (
            Reset(DEFAULT, meta.index, meta.term),
            Append(DEFAULT, HardState(term, 0, meta.index)),
            Append(SYSTEM, HardState(term, 0, 1), (Entry(1, term, CONFIG, config),)),
        ):
            _commit(store, change)
    finally:
        store.close()
    cluster = (mint() & (2**63 - 1)) | 1
    RecordFile(fs, aside, member).save(Record(stage=JOINED, cluster=cluster))
    fs.rename(shard_dir(aside, 0), shard_dir(data_dir, 0))
    fs.sync_dir(data_dir)
    mvcc = machine.mvcc
    return Restored(cluster, member, mvcc.revision, len(mvcc.index), len(machine.leases))


def _fill(store: Store, chunks: Iterable[bytes], config: Config) -> tuple[Machine, SnapshotMeta]:
    """Write the snapshot of the keyspace's group; it is restored as well, to see that it can be."""
    trial = Restore(Machine())
    writer = meta = None
    whole = False
    for chunk in chunks:
        whole = trial.feed(chunk)
        if meta is None:  # the first chunk is the head, which says where the snapshot ends
            machine = trial.machine
            index, term = max(machine.applied_index, 1), max(machine.applied_term, FRESH_TERM)
            meta = SnapshotMeta(index, term, config.encoded())
            writer = store.begin_snapshot(DEFAULT, meta)
        assert writer is not None
        store.add_chunk(writer, MACHINE + chunk)
    if not whole or meta is None or writer is None:
        raise BadSnapshot("the snapshot ends too early: save it again")
    store.finish_snapshot(DEFAULT, writer)
    return trial.machine, meta


def _commit(store: Store, change: Reset | Append) -> None:
    for error in store.commit([change]):
        if error is not None:
            raise StartError(f"the journal refuses {change}: {error}", EX_IOERR) from error

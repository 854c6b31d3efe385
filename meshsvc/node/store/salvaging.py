"""The keyspace in the data directory of a stopped node, as a snapshot: when no quorum is left.

The newest snapshot on the disk, and every entry of the log behind it. Whether the last of
those were ever committed nobody can tell without a quorum, so they are taken: what was
acknowledged and reached this disk is in there, and perhaps a few writes that were not.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshsvc.errors import StartError
from meshsvc.kv.machine import Machine
from meshsvc.kv.snapshot_file import Saving
from meshsvc.node.store.record import DEFAULT
from meshsvc.raft.core import COMMAND
from meshsvc.raft.disk import MACHINE, SESSIONS
from meshsvc.raft.sessions import Sessions, Verdict, decode_command
from meshsvc.storage import owner as owners
from meshsvc.storage.files import EX_IOERR, FileSystem
from meshsvc.storage.owner import journal_dir
from meshsvc.storage.store import Store, open_store


def salvage(fs: FileSystem, data_dir: str) -> Machine:
    """The keyspace as the disk of a node has it; the directory is locked by the caller.

    Raises:
        StartError: 74 when there is no store or it is damaged, 75 when it is open.
    """
    owner = owners.load(fs, journal_dir(data_dir, 0))
    if owner is None or not owner.replica:
        raise StartError(f"{data_dir} holds no part of a store", EX_IOERR)
    store = open_store(fs, data_dir, owner.node_id, 0, lambda: owner.replica)
    try:
        machine, sessions = _newest(store)
        for entry in store.recovered(DEFAULT).entries:
            if entry.kind != COMMAND or entry.index <= machine.applied_index:
                continue
            command = decode_command(entry.data)
            if sessions.admit(command, entry.index) is Verdict.APPLY:
                machine.apply(command.data, entry.index, entry.term)
    finally:
        store.close()
    return machine


def _newest(store: Store) -> tuple[Machine, Sessions]:
    sessions, machine = Sessions(), Machine()
    reader = store.open_snapshot(DEFAULT)
    if reader is None:
        return machine, sessions
    filling = machine.restore()
    try:
        for number in range(reader.chunks):
            chunk = reader.chunk(number)
            if chunk[:1] == SESSIONS:
                sessions.feed(chunk[1:])
            elif chunk[:1] == MACHINE:
                filling.feed(chunk[1:])
    finally:
        reader.close()
    return filling.machine, sessions


def saved(machine: Machine) -> Iterator[bytes]:
    """The bytes of the file that ``meshsvc snapshot restore`` takes."""
    saving = Saving()
    yield saving.begin()
    for chunk in machine.snapshot():
        yield saving.chunk(chunk)
    yield saving.end()

"""All that a shard keeps for its Raft groups: the journal and the snapshots, as one.

They are two kinds of files and must agree: what a log no longer has, a snapshot must contain.
So a log is compacted only up to a durable snapshot, and at the start a log that a durable
snapshot has overtaken (a follower received it and crashed before it reset its log) is reset.

Every call blocks on the disk and is for one thread at a time (``service.py`` sees to that).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from meshsvc.errors import StartError
from meshsvc.storage.failures import Damaged, JournalFailed, NotContiguous
from meshsvc.storage.files import EX_IOERR, FileSystem
from meshsvc.storage.groups import GroupState
from meshsvc.storage.journal import Journal, JournalSettings
from meshsvc.storage.opening import open_journal
from meshsvc.storage.owner import journal_dir, snapshots_dir
from meshsvc.storage.records import Append, Change, Recovered, Reset, SnapshotMeta
from meshsvc.storage.snapshots import SnapshotReader, SnapshotStore, SnapshotWriter


class Store:
    """The open journal and snapshots of a shard; made by ``open_store``."""

    def __init__(self, journal: Journal, snapshots: SnapshotStore) -> None:
        self.journal = journal
        self._snapshots = snapshots
        self._newest: dict[int, SnapshotMeta] = {}
        self._writing: dict[tuple[int, int, int], SnapshotWriter] = {}

    def load(self) -> None:
        """Find the newest snapshot of each group and let the logs agree with them.

        Raises:
            Damaged: what a log no longer has is in no snapshot that is whole.
            OSError: the disk fails.
        """
        self._snapshots.sweep()
        for group in sorted({*self._snapshots.groups(), *self.journal.groups()}):
            damage: list[Damaged] = []
            newest = self._snapshots.newest(group, damage)
            self.journal.warnings += [str(error) for error in damage]
            check_begins(self.journal.folder, self.journal.group(group), newest, damage)
            if newest is not None:
                self._newest[group] = newest
                self._overtake(group, newest)

    def recovered(self, group: int) -> Recovered:
        """What a group finds; its entries are given only the first time."""
        state = self.journal.group(group)
        return Recovered(
            state.hard_state,
            self._newest.get(group),
            *state.compacted,
            self.journal.take_entries(group),
        )

    def commit(self, changes: Sequence[Change]) -> list[Exception | None]:
        """As ``Journal.commit``; a log without the snapshot it needs is not compacted."""
        refused = [self._refusal(change) for change in changes]
        if not any(refused):
            return self.journal.commit(changes)
        allowed = [change for change, no in zip(changes, refused, strict=True) if no is None]
        done = iter(self.journal.commit(allowed))
        return [next(done) if no is None else no for no in refused]

    def begin_snapshot(self, group: int, meta: SnapshotMeta) -> SnapshotWriter:
        """Begin to write a snapshot; the same one, if it is being written, is abandoned.

        Raises:
            NoSpace: the disk is full.
            JournalFailed: the disk failed.
        """
        with self.journal.guard():
            before = self._writing.pop((group, meta.index, meta.term), None)
            if before is not None:
                before.abandon()
            writer = self._snapshots.begin(group, meta)
            self._writing[group, meta.index, meta.term] = writer
            return writer

    def add_chunk(self, writer: SnapshotWriter, data: bytes) -> None:
        """Write one chunk; raises as ``begin_snapshot``."""
        with self.journal.guard():
            writer.add(data)

    def finish_snapshot(self, group: int, writer: SnapshotWriter) -> None:
        """Make a snapshot durable and remove older ones; raises as ``begin_snapshot``."""
        with self.journal.guard():
            writer.finish()
            del self._writing[group, writer.meta.index, writer.meta.term]
            newest = self._newest.get(group)
            if newest is None or newest.index <= writer.meta.index:
                self._newest[group] = writer.meta
            self._snapshots.prune(group, self._newest[group])

    def abandon_snapshot(self, writer: SnapshotWriter) -> None:
        """Leave nothing of a snapshot that is not wanted."""
        with self.journal.guard():
            writer.abandon()
            for key in [key for key, each in self._writing.items() if each is writer]:
                del self._writing[key]

    def open_snapshot(self, group: int) -> SnapshotReader | None:
        """The newest snapshot of a group, open; None when there is none.

        Raises:
            Damaged: it is no longer as it was written.
            OSError: it cannot be read.
        """
        newest = self._newest.get(group)
        return None if newest is None else self._snapshots.open(group, newest)

    def close(self) -> None:
        """Close the journal in an orderly way."""
        self.journal.close()

    # --- within --------------------------------------------------------------------------

    def _overtake(self, group: int, newest: SnapshotMeta) -> None:
        state = self.journal.group(group)
        if newest.index < state.compacted[0] or state.term_at(newest.index) == newest.term:
            return
        self.journal.take_entries(group)
        self.journal.commit([Reset(group, newest.index, newest.term)])

    def _refusal(self, change: Change) -> Exception | None:
        newest = self._newest.get(change.group)
        if newest is None and isinstance(change, Append):
            return None
        have = newest.index if newest is not None else 0
        if isinstance(change, Append):
            cut = _replaced_from(change)
            if cut is None or cut > have:
                return None
            return NotContiguous(
                f"group {change.group}: entries from {cut} on were to be replaced, but the"
                f" snapshot at {have} contains them, so they are committed: this is a fault of"
                " the caller"
            )
        if change.index <= have:
            return None
        return NotContiguous(
            f"group {change.group} cannot forget entries up to {change.index}: they must be in a"
            f" durable snapshot, and {f'the newest is at {have}' if have else 'there is none'}"
        )


def _replaced_from(change: Append) -> int | None:
    if change.truncate_from is not None:
        return change.truncate_from
    return change.entries[0].index if change.entries else None


def check_begins(
    folder: str, state: GroupState, newest: SnapshotMeta | None, damage: list[Damaged]
) -> None:
    """See that what a log no longer has is in the newest snapshot that is whole.

    Raises:
        Damaged: it is not: what is wrong with the snapshots, else that there is none.
    """
    index, _ = state.compacted
    if index == 0 or (newest is not None and newest.index >= index):
        return
    if damage:
        raise damage[0]
    what = f"the log of group {state.group} begins behind {index}, and no snapshot contains that"
    raise Damaged(folder, 0, what)


def open_store(
    fs: FileSystem,
    data_dir: str,
    node_id: str,
    shard: int,
    mint: Callable[[], int],
    settings: JournalSettings | None = None,
) -> Store:
    """Open, or make, what a shard keeps in a node's data directory.

    Args:
        fs: the disk.
        data_dir: absolute path.
        node_id: the node's id.
        shard: the number of the shard.
        mint: gives an unsigned 64-bit random number each time.
        settings: sizes.

    Raises:
        StartError: as ``opening.open_journal``.
    """
    journal = open_journal(fs, journal_dir(data_dir, shard), node_id, shard, mint, settings)
    store = Store(journal, SnapshotStore(fs, snapshots_dir(data_dir, shard)))
    try:
        store.load()
    except StartError:
        journal.abort()
        raise
    except (OSError, JournalFailed) as error:
        journal.abort()
        where = os.path.dirname(journal.folder)
        raise StartError(f"{where} cannot be opened: {error}: check the disk", EX_IOERR) from error
    return store

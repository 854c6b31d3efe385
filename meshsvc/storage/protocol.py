"""What Raft may ask of storage: the log and the snapshots of one group.

Whatever fires a Deferred here is durable, in this order: what was submitted first is durable
first, for all groups of a shard. Errors they end with:

- ``JournalFailed``: the disk failed. Nothing more is acknowledged by this process, which is
  about to end with 74. What was being written may or may not be there after the restart.
- ``NotContiguous``: the caller's fault; nothing was changed.
- ``QueueFull``, ``TooLarge``: nothing was changed; come back later, or with less.
- ``JournalClosed``: the service stopped first.

A full disk is none of them: appends wait (and the alarm is on) until there is room again.
Only a snapshot that is being written ends with ``NoSpace``, or with ``SnapshotGone`` when
the same one was begun once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred

from meshsvc.storage.records import (
    Append,
    Change,
    Compact,
    Entry,
    HardState,
    Recovered,
    Reset,
    SnapshotMeta,
)
from meshsvc.storage.snapshots import SnapshotReader, SnapshotWriter
from meshsvc.storage.store import Store

T = TypeVar("T")


class SnapshotSink(Protocol):
    """A snapshot on its way to the disk. Ends with ``finish`` or ``abandon``."""

    def add(self, data: bytes) -> Deferred[None]:
        """The next chunk, of at most ``snapshots.MAX_CHUNK`` bytes; fires when it is written.

        Wait for it before the next: that is what bounds memory.
        """

    def finish(self) -> Deferred[None]:
        """All chunks are there: fires when the snapshot is durable."""

    def abandon(self) -> Deferred[None]:
        """It is not wanted any more: leave nothing behind."""


class SnapshotSource(Protocol):
    """A durable snapshot that is being read. Close it; newer ones do not disturb it."""

    meta: SnapshotMeta
    chunks: int
    size: int

    def chunk(self, number: int) -> Deferred[bytes]:
        """The data of a chunk, from 0, checked; ``Damaged`` when it is not as written."""

    def close(self) -> Deferred[None]:
        """Let go of the file."""


class ReplicaLog(Protocol):
    """The log, the hard state and the snapshots of one group."""

    @property
    def replica(self) -> int:
        """The member as which this disk votes: an unsigned 64-bit number, never 0.

        It is minted with the journal, so it changes exactly when the votes are lost.
        """

    @property
    def replaces(self) -> int:
        """The member that this one was before its journal was given up; 0 for none."""

    def load(self) -> Recovered:
        """What was durable when the process started. The entries are given only once."""

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry] = (),
        truncate_from: int | None = None,
    ) -> Deferred[None]:
        """Make a hard state and entries durable, together.

        Entries that overlap the log replace it from their first index on. Fires after the
        fsync: only then may the vote, the term or the acknowledgement leave the node.
        """

    def save_snapshot(self, meta: SnapshotMeta, chunks: Iterable[bytes]) -> Deferred[None]:
        """Write a snapshot, a chunk at a time; fires when it is durable.

        ``chunks`` is asked for the next one in the reactor thread, only when the one before
        is written; so it must give each within a few milliseconds, and must not be disturbed
        by what is applied meanwhile.
        """

    def begin_snapshot(self, meta: SnapshotMeta) -> Deferred[SnapshotSink]:
        """Begin to write a snapshot whose chunks arrive one by one."""

    def open_snapshot(self) -> Deferred[SnapshotSource | None]:
        """The newest durable snapshot, None when there is none."""

    def compact(self, index: int) -> Deferred[None]:
        """Forget entries up to ``index``, which the newest durable snapshot contains."""

    def reset(self, meta: SnapshotMeta) -> Deferred[None]:
        """Forget all entries: the durable snapshot ``meta`` replaces the whole log."""


class Writing(Protocol):
    """What a group needs of the service that owns the store."""

    @property
    def store(self) -> Store:
        """The open store."""

    def submit(self, change: Change) -> Deferred[None]:
        """Make a change durable."""

    def in_writer(self, call: Callable[..., T], *args: Any) -> Deferred[T]:
        """Do ``call(store, *args)`` in the writer thread."""


class GroupLog:
    """The ``ReplicaLog`` of a group, over the journal of its shard."""

    def __init__(self, service: Writing, group: int) -> None:
        self.group = group
        self._service = service

    @property
    def replica(self) -> int:
        """The member as which this disk votes."""
        return self._service.store.journal.owner.replica

    @property
    def replaces(self) -> int:
        """The member that this one was before its journal was given up; 0 for none."""
        return self._service.store.journal.owner.replaces

    def load(self) -> Recovered:
        """What was durable when the process started."""
        return self._service.store.recovered(self.group)

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry] = (),
        truncate_from: int | None = None,
    ) -> Deferred[None]:
        """Make a hard state and entries durable, together."""
        change = Append(self.group, hard_state, tuple(entries), truncate_from)
        return self._service.submit(change)

    def compact(self, index: int) -> Deferred[None]:
        """Forget entries up to ``index``."""
        return self._service.submit(Compact(self.group, index))

    def reset(self, meta: SnapshotMeta) -> Deferred[None]:
        """Forget all entries: a durable snapshot replaces the log."""
        return self._service.submit(Reset(self.group, meta.index, meta.term))

    def save_snapshot(self, meta: SnapshotMeta, chunks: Iterable[bytes]) -> Deferred[None]:
        """Write a snapshot, a chunk at a time."""
        return Deferred.fromCoroutine(self._save(meta, chunks))

    def begin_snapshot(self, meta: SnapshotMeta) -> Deferred[SnapshotSink]:
        """Begin to write a snapshot whose chunks arrive one by one."""
        service = self._service
        begun = service.in_writer(Store.begin_snapshot, self.group, meta)
        return begun.addCallback(lambda writer: _Sink(service, self.group, writer))

    def open_snapshot(self) -> Deferred[SnapshotSource | None]:
        """The newest durable snapshot."""
        service = self._service
        opened = service.in_writer(Store.open_snapshot, self.group)
        return opened.addCallback(lambda r: None if r is None else _Source(service, r))

    async def _save(self, meta: SnapshotMeta, chunks: Iterable[bytes]) -> None:
        sink = await self.begin_snapshot(meta)
        try:
            for chunk in chunks:
                await sink.add(chunk)
        except Exception:
            await sink.abandon().addErrback(lambda _: None)  # what ended it counts
            raise
        await sink.finish()


class _Sink:
    """A snapshot on its way to the disk."""

    def __init__(self, service: Writing, group: int, writer: SnapshotWriter) -> None:
        self._service, self._group, self._writer = service, group, writer

    def add(self, data: bytes) -> Deferred[None]:
        return self._service.in_writer(Store.add_chunk, self._writer, data)

    def finish(self) -> Deferred[None]:
        return self._service.in_writer(Store.finish_snapshot, self._group, self._writer)

    def abandon(self) -> Deferred[None]:
        return self._service.in_writer(Store.abandon_snapshot, self._writer)


class _Source:
    """A durable snapshot that is being read."""

    def __init__(self, service: Writing, reader: SnapshotReader) -> None:
        self._service, self._reader = service, reader
        self.meta, self.chunks, self.size = reader.meta, reader.chunks, reader.size

    def chunk(self, number: int) -> Deferred[bytes]:
        return self._service.in_writer(lambda _: self._reader.chunk(number))

    def close(self) -> Deferred[None]:
        return self._service.in_writer(lambda _: self._reader.close())

"""A snapshot: the whole store as a stream of records, made in slices while writes go on.

It needs no copy, because the store keeps its history: versions are never changed, and a pin
keeps compaction from taking any while they are read. First come the keys as they were before
the oldest change that is kept, in key order, then the changes since, revision by revision up
to the one at which the snapshot began; to restore it is to do them again.

A chunk is a CBOR array of records; every record is an array that begins with its kind.
``HEAD`` is first and ``END`` is last, with a CRC over all that came before it. A revision that
changed very much comes as any number of ``PART`` and ends with the next ``CHANGES``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast
from zlib import crc32

from meshsvc.errors import RemoteError, WireError
from meshsvc.kv.index import VALUE, Version
from meshsvc.kv.upkeep import AlarmAction, AlarmRequest
from meshsvc.wire.codec import decode, encode

if TYPE_CHECKING:
    from meshsvc.kv.machine import Machine

FORMAT = 1
HEAD, LEASES, BASE, CHANGES, END, PART = 1, 2, 3, 4, 5, 6

SLICE_RECORDS = 500
"""Records looked at for one chunk: 2 ms to write them, 4 ms to restore them."""

CHUNK_BYTES = 256 * 1024
"""At which a chunk is ended early, so that with the largest value it stays below 4 MiB."""


class BadSnapshot(RemoteError):
    """A snapshot is damaged, incomplete or of a format that this version does not know."""


def chunks(machine: Machine) -> Iterator[bytes]:
    """The store as of now, in chunks. Each step looks at a bounded number of records.

    The pin is taken at once, not at the first step; closing the iterator gives it back.
    """
    mvcc = machine.mvcc
    head = [
        *(HEAD, FORMAT, machine.applied_index, machine.applied_term),
        *(mvcc.revision, mvcc.compact_revision, mvcc.first_change),
        [list(row) for row in machine.alarms.rows()],
    ]
    leases = [(lease.lease_id, lease.ttl_s, lease.remaining_s) for lease in machine.leases]
    mvcc.pin()
    return _Chunks(machine, _sealed(head, leases, machine))


class _Chunks(Iterator[bytes]):
    """The generator, and the pin also when it never ran."""

    def __init__(self, machine: Machine, steps: Iterator[bytes]) -> None:
        self._mvcc, self._steps, self._pinned = machine.mvcc, steps, True

    def __next__(self) -> bytes:
        try:
            return next(self._steps)
        except StopIteration:
            self.close()
            raise

    def close(self) -> None:
        """Stop early, or again."""
        if self._pinned:
            self._pinned = False
            self._mvcc.unpin()

    __del__ = close


def _sealed(head: list[Any], leases: list[Any], machine: Machine) -> Iterator[bytes]:
    crc = 0
    for chunk in _parts(head, leases, machine):
        crc = crc32(chunk, crc)
        yield chunk
    yield encode([[END, crc]])


def _parts(head: list[Any], leases: list[Any], machine: Machine) -> Iterator[bytes]:
    revision, first_change = head[4], head[6]
    yield encode([head])
    for start in range(0, len(leases), SLICE_RECORDS):
        yield encode([[LEASES, leases[start : start + SLICE_RECORDS]]])
    yield from _base(machine, first_change)
    yield from _changes(machine, first_change, revision)


def _changes(machine: Machine, first_change: int, revision: int) -> Iterator[bytes]:
    records: list[object] = []
    size = looked = 0
    for main in range(first_change, revision + 1):
        changes = machine.mvcc.changes(main)
        if len(changes) > SLICE_RECORDS:
            # Many changes of one revision are deletes of a range, or of a lease: all small.
            if records:
                yield encode([[CHANGES, records]])
                records, size, looked = [], 0, 0
            for start in range(0, len(changes) - SLICE_RECORDS, SLICE_RECORDS):
                yield encode([[PART, changes[start : start + SLICE_RECORDS]]])
            changes = changes[start + SLICE_RECORDS :]
        records.append(changes)
        looked += len(changes)
        size += sum([len(version[0]) + len(version[VALUE]) for version in changes])
        if looked >= SLICE_RECORDS or size >= CHUNK_BYTES:
            yield encode([[CHANGES, records]])
            records, size, looked = [], 0, 0
    if records:
        yield encode([[CHANGES, records]])


def _base(machine: Machine, first_change: int) -> Iterator[bytes]:
    """Keys as they were before the first change; empty chunks are steps without a find."""
    index, cursor = machine.mvcc.index, b""
    if first_change <= 2:
        return  # everything that ever happened is among the changes
    while True:
        records: list[Version] = []
        size = 0
        for looked, key in enumerate(index.keys((cursor, None)), 1):
            version = index.at(key, first_change - 1)
            if version is not None:
                records.append(version)
                size += len(key) + len(version[VALUE])
            if looked >= SLICE_RECORDS or size >= CHUNK_BYTES:
                break
        else:
            yield encode([[BASE, records]])
            return
        cursor = key + b"\x00"
        yield encode([[BASE, records]])


class Restore:
    """A machine being filled from chunks; it is whole once ``feed`` has returned True."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._crc = 0
        self._revision = -1
        self._done = False

    def feed(self, chunk: bytes) -> bool:
        """Take the next chunk, in order.

        Returns:
            whether it was the last.

        Raises:
            BadSnapshot: what was restored so far is of no use.
        """
        if self._done:
            raise BadSnapshot("a chunk follows the end of the snapshot")
        try:
            for record in cast("Any", decode(chunk)):
                self._take(record)
        except (WireError, TypeError, ValueError, IndexError, KeyError) as error:
            raise BadSnapshot(f"a chunk of a snapshot is damaged: {error}") from error
        self._crc = crc32(chunk, self._crc)
        return self._done

    def _take(self, record: list[Any]) -> None:
        mvcc = self.machine.mvcc
        kind = record[0]
        if self._revision < 0 and kind != HEAD:
            raise BadSnapshot("a snapshot does not begin with its head")
        if kind == HEAD:
            self._head(*record[1:])
        elif kind == LEASES:
            for lease_id, ttl_s, remaining_s in record[1]:
                self.machine.leases.restore(lease_id, ttl_s, remaining_s)
        elif kind == BASE:
            for version in record[1]:
                mvcc.restore_base(tuple(version))
        elif kind == CHANGES:
            for changes in record[1]:
                mvcc.restore_change(tuple([tuple(version) for version in changes]))
        elif kind == PART:
            mvcc.restore_part(tuple([tuple(version) for version in record[1]]))
        elif kind == END:
            self._end(record[1])
        else:
            raise BadSnapshot(f"a snapshot holds a record of kind {kind!r}, which is unknown")

    def _head(self, number: int, index: int, term: int, revision: int, *rest: Any) -> None:
        compact_revision, first_change, alarms = rest
        if number != FORMAT:
            raise BadSnapshot(f"snapshot format {number}: this version reads format {FORMAT}")
        self.machine.applied_index, self.machine.applied_term = index, term
        self._revision = revision
        self.machine.mvcc.restore_start(revision, compact_revision, first_change)
        for member_id, alarm in alarms:
            self.machine.alarms.apply(AlarmRequest(AlarmAction.ACTIVATE, member_id, alarm))

    def _end(self, crc: int) -> None:
        revision = self.machine.mvcc.revision
        if crc != self._crc or revision != self._revision:
            raise BadSnapshot(
                f"the snapshot ends at revision {revision} of {self._revision}, with checksum"
                f" {self._crc:08x} instead of {crc:08x}: fetch it again"
            )
        self._done = True

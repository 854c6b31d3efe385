"""Bugs in the journal: no scenario has one in its shards, so all are for the rules."""

from __future__ import annotations

from planting import bug, swap

from meshsvc.storage.batches import frame
from meshsvc.storage.changes import BatchBuilder
from meshsvc.storage.failures import NoSpace
from meshsvc.storage.journal import Journal
from meshsvc.storage.segments import Segment
from meshsvc.storage.service import JournalService
from meshsvc.storage.snapshots import SnapshotWriter
from meshsvc.storage.store import Store
from meshsvc.storage.writer import CommitQueue


@bug(rules="journal")
def a_batch_is_told_before_it_is_synced():
    """The write is not followed by an fsync (LOG-1)."""

    def append(self, body, count):
        header, after = frame(body, count, self.place, self.header.salt, self.end)
        self._file.write_at(self.end, header + body)
        self.end += len(header) + len(body)
        self.place = after

    with swap(Segment, "append", append):
        yield


@bug(rules="journal")
def what_is_read_back_is_taken_for_durable():
    """What a killed process wrote and never synced is not made durable by the next (LOG-1)."""
    with swap(Segment, "settle", lambda self, last, read: None):
        yield


@bug(rules="journal")
def a_failed_disk_is_taken_for_a_full_one():
    """After EIO the same batch is tried again, and the node goes on (LOG-3)."""
    with swap(Journal, "failed", lambda self, error: NoSpace(str(error))):
        yield


@bug(rules="journal")
def a_full_disk_is_taken_for_a_failed_one():
    """ENOSPC ends the node (LOG-3)."""

    def short(self):
        self._fatal(74, "no space")

    with swap(JournalService, "_space_is_short", short):
        yield


@bug(rules="journal")
def the_alarm_stays():
    """Nobody looks whether a full disk has room again (LOG-3)."""
    with swap(JournalService, "_ask_for_room", lambda self: None):
        yield


@bug(rules="journal")
def what_had_no_room_is_forgotten():
    """Changes that met a full disk are not kept for later (LOG-3)."""
    with swap(CommitQueue, "put_back", lambda self, items: None):
        yield


@bug(rules="journal")
def a_log_is_compacted_without_a_snapshot():
    """Nothing looks whether a durable snapshot has what is forgotten (LOG-4)."""
    with swap(Store, "_refusal", lambda self, change: None):
        yield


@bug(rules="journal")
def a_snapshot_gets_its_name_before_it_is_synced():
    """The rename reaches the disk and the content does not (LOG-4)."""

    def finish(self):
        file = self._open()
        with swap(type(file), "sync", lambda self: None):
            right(self)

    with swap(SnapshotWriter, "finish", finish) as right:
        yield


@bug(rules="journal")
def a_segment_is_dropped_while_it_counts():
    """The oldest segment goes although a hard state or an entry stands in it (LOG-4)."""

    def untidy(self):
        return len(self._bytes) > 2

    def move(self, number):
        self._drop(number)

    with swap(Journal, "untidy", property(untidy)), swap(Journal, "_move", move):
        yield


@bug(rules="journal")
def an_overlap_is_appended_behind():
    """The entries that new ones replace are not marked as void (LOG-2)."""

    def put(self, data):
        if data[4] == 4:  # TRUNCATED
            return 0
        return right(self, data)

    with swap(BatchBuilder, "_put", put) as right:
        yield

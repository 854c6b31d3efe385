"""One journal for all groups of a shard: batches into segments, one fsync a batch.

Rules:
- What ``commit`` returned from is durable; nothing else may be acted upon.
- Space is secured before a batch is begun, so running out of it changes nothing. Any other
  failure of the disk ends this journal for good (``JournalFailed``): after a failed fsync
  nobody knows what is on the disk, and a second one that succeeds proves nothing.
- A log is compacted in this order: the snapshot is durable (the caller's part), the marker
  is durable, then segments in which nothing counts any more are removed, oldest first, each
  after a record that says so. So every crash leaves a journal that opens.
- A segment that few entries keep alive is emptied by copying them forward, in slices. That
  happens only while more than half of the journal is dead, so it at most doubles what is
  written.

Every call blocks on the disk and is for one thread at a time (``service.py`` sees to that).
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from meshsvc.storage import records
from meshsvc.storage.batches import HEADER_BYTES as BATCH_HEADER_BYTES
from meshsvc.storage.batches import MAX_BODY
from meshsvc.storage.changes import BatchBuilder, size_of
from meshsvc.storage.failures import Damaged, JournalClosed, JournalFailed, NoSpace, TooLarge
from meshsvc.storage.files import FileSystem, Lock
from meshsvc.storage.groups import SEGMENT_SHIFT, GroupState
from meshsvc.storage.owner import Owner
from meshsvc.storage.records import NUMBER_RECORD_MAX, Append, Change, Entry, entry_record_size
from meshsvc.storage.recovery import Recovery, live_entries
from meshsvc.storage.reserve import Reserve
from meshsvc.storage.segments import HEADER_BYTES, Segment, SegmentHeader, name_of


@dataclass(frozen=True, slots=True)
class JournalSettings:
    """Sizes of a journal, in bytes.

    ``segment`` is when a new segment is begun: small enough to be read at once and to give
    space back soon. ``step`` is how far a segment is zeroed ahead. ``slice`` is how much
    ``tidy`` copies at once: some milliseconds of a slow disk. ``reserve`` is kept aside so
    that compaction works on a full disk: a few steps, as it writes markers and, at worst,
    begins a segment.
    """

    segment: int = 16 * 1024 * 1024
    step: int = 1024 * 1024
    slice: int = 256 * 1024
    reserve: int = 4 * 1024 * 1024


@dataclass(slots=True)
class Totals:
    """What a journal did in this life."""

    batches: int = 0
    bytes: int = 0
    moved: int = 0
    segments_removed: int = 0


class Journal:
    """An open journal; made by ``opening.open_journal``."""

    def __init__(
        self,
        fs: FileSystem,
        folder: str,
        owner: Owner,
        lock: Lock,
        settings: JournalSettings,
        salt: Callable[[], int],
    ) -> None:
        self.folder, self.owner = folder, owner
        self.totals = Totals()
        self.warnings: list[str] = []
        self.reserve = Reserve(fs, os.path.join(folder, "reserve"), settings.reserve)
        self._fs, self._lock, self._settings, self._salt = fs, lock, settings, salt
        self._failure = ""
        self._closed = False
        self._live: Counter[int] = Counter()
        self._groups: dict[int, GroupState] = {}
        self._entries: dict[int, tuple[Entry, ...]] = {}
        self._bytes: dict[int, int] = {}
        self._moving: Iterator[tuple[int, Entry]] | None = None
        self._head: Segment

    def load(self, found: Recovery) -> None:
        """Take over what recovery found, once it is durable, and go on behind it.

        Raises:
            Damaged: entries are missing.
            OSError: the disk fails.
        """
        assert found.newest is not None
        path = os.path.join(self.folder, name_of(found.newest.number))
        for state, entries in found.groups(path, self._live):
            self._groups[state.group], self._entries[state.group] = state, entries
        self._bytes = dict(found.bytes)
        self._head = Segment(self._fs.open(path), path, found.newest, found.end, found.place)
        if found.torn:
            self.warnings.append(f"{path} ended in a torn batch at byte {found.end}: {found.torn}")
            self._head.cut()
        self._head.settle(found.last, found.tail)
        self._fs.sync_dir(self.folder)
        for number in found.numbers:
            if number < found.floor:
                self._remove(number)

    # --- what is there -------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes that batches take in all segments."""
        return sum(self._bytes.values())

    @property
    def segments(self) -> tuple[int, ...]:
        """The numbers of the segments that are there, ascending."""
        return tuple(self._bytes)

    @property
    def failure(self) -> str:
        """Why nothing is accepted any more; empty while all is well."""
        return self._failure

    @property
    def untidy(self) -> bool:
        """Whether ``tidy`` has something to do."""
        oldest = next(iter(self._bytes))
        if oldest == self._head.number:
            return False
        return not self._live[oldest] or self._wasteful()

    def group(self, group: int) -> GroupState:
        """What is known of a group; a new one is empty. Not to be changed by the caller."""
        state = self._groups.get(group)
        if state is None:
            state = self._groups[group] = GroupState(group, self._live)
        return state

    def groups(self) -> tuple[int, ...]:
        """The groups that have anything here."""
        return tuple(sorted(self._groups))

    def take_entries(self, group: int) -> tuple[Entry, ...]:
        """The entries that were read at the start; given once, then no longer held."""
        return self._entries.pop(group, ())

    # --- writing -------------------------------------------------------------------------

    def commit(self, changes: Sequence[Change]) -> list[Exception | None]:
        """Make changes durable, in order, with one fsync; one outcome for each.

        A change that does not fit its log has its error as the outcome and changes nothing;
        the others are not touched by that. Compaction may use up the reserve.

        Raises:
            NoSpace: none of them was begun.
            TooLarge: together they are more than a batch may hold; none was begun.
            JournalFailed: the disk failed, now or before.
        """
        spare = not any(isinstance(change, Append) for change in changes)
        size = sum(map(size_of, changes))
        with self.guard():
            builder = self._begin(size, spare)
            outcomes = [builder.add(change) for change in changes]
            self._write(builder)
        return outcomes

    def tidy(self) -> bool:
        """One slice of giving space back; True when there may be more to do.

        Raises:
            NoSpace: even with the reserve there is no room to copy; try again later.
            JournalFailed: the disk failed, now or before.
        """
        with self.guard():
            if not self.untidy:
                return False
            oldest = next(iter(self._bytes))
            if self._live[oldest]:
                self._move(oldest)
            else:
                self._drop(oldest)
            return self.untidy

    def probe(self) -> bool:
        """Whether there is space again: the reserve is whole, and the next batch has room.

        Raises:
            JournalFailed: the disk failed, now or before.
        """
        with self.guard():
            try:
                self.reserve.restore()
                self._make_room(self._settings.step // 2)
            except NoSpace:
                return False
            return True

    def close(self) -> None:
        """Mark the end as orderly and let go: a later flip in the last batch is then known."""
        if self._closed:
            return
        if not self._failure:
            try:
                builder = self._begin(NUMBER_RECORD_MAX, spare=True)
                builder.say(records.SEALED)
                self._write(builder)
            except (OSError, NoSpace) as error:
                self.warnings.append(f"the end of the journal could not be marked: {error}")
        self.abort()

    def abort(self) -> None:
        """Let go of the files without another write."""
        if not self._closed:
            self._closed = True
            self._head.close()
            self._lock.release()

    def guard(self) -> _Guard:
        """Around all that writes here or beside the journal.

        Raises:
            JournalFailed: the disk failed in there, or before.
            JournalClosed: the journal was closed.
        """
        return _Guard(self)

    # --- within --------------------------------------------------------------------------

    def check_open(self) -> None:
        """Raise when nothing is accepted any more.

        Raises:
            JournalFailed: the disk failed before.
            JournalClosed: it was closed.
        """
        if self._failure:
            raise JournalFailed(
                f"the journal in {self.folder} failed before ({self._failure}): restart the"
                " node once its disk is well"
            )
        if self._closed:
            raise JournalClosed(f"the journal in {self.folder} is closed")

    def failed(self, error: OSError | Damaged) -> JournalFailed:
        """The disk failed: remember it, and give what to raise."""
        self._failure = str(error)
        return JournalFailed(
            f"the disk failed under the journal in {self.folder} ({error}): nothing more is"
            " acknowledged; check the disk, then restart the node"
        )

    def _begin(self, size: int, spare: bool) -> BatchBuilder:
        if size > MAX_BODY:
            raise TooLarge(f"{size} bytes of changes at once, and a batch holds {MAX_BODY}")
        try:
            self._make_room(size)
        except NoSpace:
            if not (spare and self.reserve.release()):
                raise
            self._make_room(size)
        return BatchBuilder(self.group, self._head.next_place)

    def _make_room(self, size: int) -> None:
        length = BATCH_HEADER_BYTES + size
        limit = self._settings.segment
        if self._head.end > HEADER_BYTES and not self._head.fits(length, limit):
            self._roll(length)
        self._head.secure(length, self._settings.step)

    def _roll(self, length: int) -> None:
        old = self._head
        header = SegmentHeader(old.number + 1, self.owner.replica, old.place, self._salt())
        room = max(length, min(self._settings.step, self._settings.segment))
        self._head = Segment.create(self._fs, self.folder, header, room)
        self._bytes[self._head.number] = 0
        builder = BatchBuilder(self.group, old.next_place)
        builder.say(records.ROLLED, self._head.number)
        try:
            old.secure(BATCH_HEADER_BYTES + NUMBER_RECORD_MAX, self._settings.step)
            old.append(builder.body, builder.count)
        except NoSpace as error:
            # It only helps to notice that a newer segment was lost.
            self.warnings.append(f"the end of {old.path} could not be marked: {error}")
        old.close()

    def _write(self, builder: BatchBuilder) -> None:
        if not builder.count:
            return
        body = builder.body
        self._head.append(body, builder.count)
        self._bytes[self._head.number] = self._head.end - HEADER_BYTES
        self.totals.batches += 1
        self.totals.bytes += len(body)

    def _drop(self, number: int) -> None:
        builder = self._begin(NUMBER_RECORD_MAX, spare=True)
        builder.say(records.DROPPED, number + 1)
        self._write(builder)
        self._remove(number)

    def _remove(self, number: int) -> None:
        # One at a time, each with its own sync: what a crash leaves then has no hole.
        self._fs.remove(os.path.join(self.folder, name_of(number)))
        self._fs.sync_dir(self.folder)
        self._bytes.pop(number, None)
        self._live.pop(number, None)
        self._moving = None
        self.totals.segments_removed += 1

    def _wasteful(self) -> bool:
        live = sum(state.live_bytes for state in self._groups.values())
        return self.size > 2 * live + 2 * self._settings.segment

    def _move(self, number: int) -> None:
        """Copy one slice of what counts in the oldest segment to the end of the journal."""
        if self._moving is None:
            self._moving = live_entries(self._fs, self.folder, number, self.group)
        chosen, size, ended = self._next_slice()
        if ended:
            size += 2 * NUMBER_RECORD_MAX * len(self._groups)
        try:
            builder = self._begin(size, spare=True)
        except NoSpace:
            self._moving = None  # what was chosen is looked for again
            raise
        for group, entry in chosen:
            builder.move(group, entry)
        self.totals.moved += len(chosen)
        if ended:
            for state in self._groups.values():
                builder.restate(state, (number + 1) << SEGMENT_SHIFT)
            self._moving = None
        self._write(builder)
        if ended and self._live[number]:
            path = os.path.join(self.folder, name_of(number))
            raise OSError(errno.EIO, "entries in it can no longer be read", path)

    def _next_slice(self) -> tuple[list[tuple[int, Entry]], int, bool]:
        assert self._moving is not None
        chosen: list[tuple[int, Entry]] = []
        size = 0
        for group, entry in self._moving:
            chosen.append((group, entry))
            size += entry_record_size(entry)
            if size >= self._settings.slice:
                return chosen, size, False
        return chosen, size, True


class _Guard:
    """Around all that writes: a disk that fails, or lost what it had, ends the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __enter__(self) -> None:
        self._journal.check_open()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError | Damaged):
            raise self._journal.failed(error) from error

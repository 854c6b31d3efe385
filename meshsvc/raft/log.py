"""The log as one member sees it: what is in memory, how far it is durable and committed.

Indices rise along the way an entry takes: ``applying`` <= ``stable`` and ``applying`` <=
``commit`` <= ``last_index``; ``base_index`` is the last entry that is gone because a
snapshot stands for it. An entry is identified by (index, term): two logs that have the same
pair have the same entries up to it (the Log Matching property).
"""

from __future__ import annotations

from collections.abc import Sequence

from meshsvc.errors import LocalError
from meshsvc.storage.records import Entry

ENTRY_OVERHEAD = 24
"""What an entry takes on the wire beside its data, for limits in bytes."""


class Unsafe(LocalError):
    """Going on would break what Raft promises: a bug, or a damaged disk. Stop the replica."""


class RaftLog:
    """Entries after ``base_index``, in memory, and the heads."""

    def __init__(self) -> None:
        self.base_index = 0
        self.base_term = 0
        self.entries: list[Entry] = []
        self.stable = 0
        self.handed = 0
        self.commit = 0
        self.applying = 0
        self.applied = 0

    # --- looking -------------------------------------------------------------------------

    @property
    def last_index(self) -> int:
        """The index of the last entry; that of the snapshot when there is none."""
        return self.base_index + len(self.entries)

    @property
    def last_term(self) -> int:
        """The term of the last entry."""
        return self.entries[-1].term if self.entries else self.base_term

    def term_at(self, index: int) -> int | None:
        """The term of an entry, None when it is compacted away or not there yet."""
        offset = index - self.base_index
        if offset == 0:
            return self.base_term
        return self.entries[offset - 1].term if 0 < offset <= len(self.entries) else None

    def matches(self, index: int, term: int) -> bool:
        """Whether this log has that entry."""
        return self.term_at(index) == term

    def up_to_date(self, index: int, term: int) -> bool:
        """Whether a log that ends so is at least as up to date as this one (paper, 5.4.1)."""
        return (term, index) >= (self.last_term, self.last_index)

    def last_not_after(self, index: int, term: int) -> int:
        """The last entry up to ``index`` whose term is at most ``term``, ``base_index`` when
        there is none: where two logs may agree at best, found with one round trip a term.
        """
        at = min(index, self.last_index)
        while at > self.base_index and self.entries[at - self.base_index - 1].term > term:
            at -= 1
        return at

    def slice(self, first: int, max_bytes: int, max_entries: int) -> tuple[Entry, ...]:
        """Entries from ``first`` on, within limits, but at least one when there is one."""
        start = first - self.base_index - 1
        window = self.entries[start : start + max_entries]
        size = 0
        for count, entry in enumerate(window):
            size += len(entry.data) + ENTRY_OVERHEAD
            if size > max_bytes and count:
                return tuple(window[:count])
        return tuple(window)

    def span(self, first: int, last: int) -> list[Entry]:
        """The entries from ``first`` to ``last``, both included."""
        return self.entries[first - self.base_index - 1 : last - self.base_index]

    # --- growing -------------------------------------------------------------------------

    def append(self, term: int, kind: int, data: bytes) -> Entry:
        """Put a leader's new entry at the end."""
        entry = Entry(self.last_index + 1, term, kind, data)
        self.entries.append(entry)
        return entry

    def accept(self, entries: Sequence[Entry]) -> int | None:
        """Take a leader's entries, which follow one that this log has.

        What is here already stays; at the first conflict the rest is replaced.

        Returns:
            the index of the first entry that was added, None when all were here.

        Raises:
            Unsafe: when a committed entry would have to go.
        """
        for offset, entry in enumerate(entries):
            if entry.index <= self.base_index or self.matches(entry.index, entry.term):
                continue
            if entry.index <= self.commit:
                raise Unsafe(
                    f"entry {entry.index} of term {entry.term} would replace a committed one of"
                    f" term {self.term_at(entry.index)}: this replica must not go on"
                )
            self._truncate(entry.index - 1)
            self.entries.extend(entries[offset:])
            return entry.index
        return None

    def _truncate(self, last: int) -> None:
        del self.entries[last - self.base_index :]
        self.stable = min(self.stable, last)
        self.handed = min(self.handed, last)

    # --- moving the heads ----------------------------------------------------------------

    def hand_out(self) -> tuple[Entry, ...]:
        """The entries that storage was not given yet."""
        fresh = tuple(self.entries[self.handed - self.base_index :])
        self.handed = self.last_index
        return fresh

    def persisted(self, index: int, term: int) -> None:
        """That entry and all before it are durable; of no effect if it was replaced since."""
        if index > self.stable and self.matches(index, term):
            self.stable = index

    def commit_to(self, index: int) -> bool:
        """Raise the commit index; True when it moved."""
        if index <= self.commit:
            return False
        if index > self.last_index:
            raise Unsafe(f"entry {index} is committed and the log ends at {self.last_index}")
        self.commit = index
        return True

    def take_committed(self, max_bytes: int, max_entries: int) -> tuple[Entry, ...]:
        """The next committed, durable entries to apply; none while some are being applied."""
        end = min(self.commit, self.stable)
        if self.applying != self.applied or end <= self.applied:
            return ()
        batch = self.slice(self.applied + 1, max_bytes, min(max_entries, end - self.applied))
        self.applying = batch[-1].index
        return batch

    # --- snapshots -----------------------------------------------------------------------

    def compact(self, index: int) -> None:
        """Drop the entries up to ``index``, for which a durable snapshot stands.

        Raises:
            Unsafe: when they are not all applied.
        """
        if index <= self.base_index:
            return
        if index > self.applied:
            raise Unsafe(f"compaction to {index} is past what was applied, {self.applied}")
        term = self.term_at(index)
        assert term is not None
        del self.entries[: index - self.base_index]
        self.base_index, self.base_term = index, term

    def restore(self, index: int, term: int) -> None:
        """Begin anew after a snapshot that is ahead of this log; it is not durable yet."""
        self.entries.clear()
        self.base_index, self.base_term = index, term
        self.handed = self.commit = self.applying = self.applied = index
        self.stable = 0

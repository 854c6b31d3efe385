"""What a journal knows of one group's log: which entries there are, and where each stands.

Two forms, because replay meets records in an order that the life of a log never has. An
entry that was copied forward (MOVED) may come after newer ones, once the segment it first
stood in is gone. ``Replay`` therefore takes records in any order that writing can have left
and checks at the end that no entry is missing; ``GroupState`` is the dense form for the rest
of the journal's life, 20 bytes an entry.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from meshsvc.storage import records
from meshsvc.storage.failures import NotContiguous
from meshsvc.storage.records import Append, Entry, HardState, Record

SEGMENT_SHIFT = 32


class Gap(ValueError):
    """Entries are missing between others of a group."""


@dataclass(slots=True)
class GroupState:
    """One group's log as it is on disk.

    ``compacted`` is (index, term) of the last entry that was forgotten; the log begins behind
    it. A place is ``segment << 32 | offset``; ``hard_place`` and ``marker_place`` say where
    the records of the hard state and of ``compacted`` stand, 0 for nowhere. ``live`` counts,
    for all groups of a journal, the records that count in each segment.
    """

    group: int
    live: Counter[int] = field(default_factory=Counter)
    hard_state: HardState = field(default_factory=HardState)
    hard_place: int = 0
    compacted: tuple[int, int] = (0, 0)
    marker_place: int = 0
    live_bytes: int = 0
    terms: array[int] = field(default_factory=lambda: array("Q"))
    places: array[int] = field(default_factory=lambda: array("Q"))
    sizes: array[int] = field(default_factory=lambda: array("L"))

    @property
    def last(self) -> int:
        """The index of the last entry; that of the last forgotten one when there is none."""
        return self.compacted[0] + len(self.terms)

    def term_at(self, index: int) -> int | None:
        """The term of an entry, None when it is not known here."""
        if index == self.compacted[0]:
            return self.compacted[1]
        at = index - self.compacted[0] - 1
        return self.terms[at] if 0 <= at < len(self.terms) else None

    def add(self, entry: Entry, place: int, size: int) -> None:
        """The next entry stands at a place."""
        self.terms.append(entry.term)
        self.places.append(place)
        self.sizes.append(size)
        self.live_bytes += size
        self.live[place >> SEGMENT_SHIFT] += 1

    def moved(self, index: int, place: int) -> None:
        """An entry was copied and now stands elsewhere."""
        at = index - self.compacted[0] - 1
        self.live[self.places[at] >> SEGMENT_SHIFT] -= 1
        self.live[place >> SEGMENT_SHIFT] += 1
        self.places[at] = place

    def set_hard_state(self, hard_state: HardState, place: int) -> None:
        """The hard state as the record at a place says."""
        self.hard_state = hard_state
        self.hard_place = self._stands(self.hard_place, place)

    def set_marker(self, index: int, term: int, place: int) -> None:
        """The last forgotten entry as the record at a place says."""
        self.compacted = (index, term)
        self.marker_place = self._stands(self.marker_place, place)

    def is_at(self, index: int, place: int) -> bool:
        """Whether the record at a place is what counts for an index."""
        at = index - self.compacted[0] - 1
        return 0 <= at < len(self.places) and self.places[at] == place

    def truncate(self, index: int) -> None:
        """Forget the entries from ``index`` on."""
        self._cut(slice(max(0, index - self.compacted[0] - 1), None))

    def compact(self, index: int, term: int, place: int) -> None:
        """Forget the entries up to ``index``."""
        self._cut(slice(0, max(0, index - self.compacted[0])))
        self.set_marker(index, term, place)

    def reset(self, index: int, term: int, place: int) -> None:
        """Forget everything; the log goes on behind ``index``."""
        self._cut(slice(0, None))
        self.set_marker(index, term, place)

    def _stands(self, before: int, place: int) -> int:
        old, new = before >> SEGMENT_SHIFT, place >> SEGMENT_SHIFT
        if old != new:
            if before:
                self.live[old] -= 1
            if place:
                self.live[new] += 1
        return place

    def _cut(self, which: slice) -> None:
        self.live_bytes -= sum(self.sizes[which])
        for place in self.places[which]:
            self.live[place >> SEGMENT_SHIFT] -= 1
        del self.terms[which], self.places[which], self.sizes[which]


def check_append(state: GroupState, change: Append) -> int | None:
    """From which index a change truncates the log, None when it does not.

    Raises:
        NotContiguous: when the change does not fit the log.
    """
    group, first, last = state.group, state.compacted[0] + 1, state.last
    cut = change.truncate_from
    entries = change.entries
    if cut is None and len(entries) == 1 and entries[0].index == last + 1:
        return None
    if cut is None and entries and entries[0].index <= last:
        cut = entries[0].index
    if cut is not None and cut < first:
        raise NotContiguous(
            f"group {group}: entries from {cut} on were to be replaced, but the log was"
            f" compacted up to {first - 1}, which is committed: this is a fault of the caller"
        )
    end = last if cut is None or cut > last else cut - 1
    for number, entry in enumerate(entries, end + 1):
        if entry.index != number:
            raise NotContiguous(
                f"group {group}: entry {number} was to come next, not {entry.index}: append"
                " entries without gaps"
            )
    return None if cut is None or cut > last else cut


@dataclass(slots=True)
class Replay:
    """One group while its records are read back."""

    group: int
    hard_state: HardState = field(default_factory=HardState)
    hard_place: int = 0
    compacted: tuple[int, int] = (0, 0)
    marker_place: int = 0
    entries: dict[int, tuple[Entry, int, int]] = field(default_factory=dict)
    last: int = 0

    def apply(self, record: Record, place: int) -> None:
        """One record, in the order of the journal."""
        if record.entry is not None:
            index = record.entry.index
            self.entries[index] = (record.entry, place, record.size)
            self.last = max(self.last, index)
        elif record.kind == records.HARD_STATE:
            self.hard_state, self.hard_place = HardState(*record.numbers), place
        elif record.kind == records.TRUNCATED:
            self._forget(range(record.numbers[0], self.last + 1))
            self.last = record.numbers[0] - 1
        elif record.kind == records.COMPACTED:
            index, term = record.numbers
            self._forget(range(self.compacted[0] + 1, index + 1))
            self.compacted, self.marker_place = (index, term), place
            self.last = max(self.last, index)
        else:
            index, term = record.numbers
            self.entries.clear()
            self.compacted, self.marker_place, self.last = (index, term), place, index

    def finish(self, live: Counter[int]) -> tuple[GroupState, tuple[Entry, ...]]:
        """The group as it was when the last batch was written, and its entries.

        Raises:
            Gap: when an entry is missing.
        """
        state = GroupState(self.group, live)
        state.set_hard_state(self.hard_state, self.hard_place)
        state.set_marker(*self.compacted, self.marker_place)
        for index in self._indices():
            entry, place, size = self.entries[index]
            state.add(entry, place, size)
        return state, tuple(self.entries[index][0] for index in self._indices())

    def _indices(self) -> Iterator[int]:
        first = self.compacted[0] + 1
        expected = range(first, self.last + 1)
        if len(self.entries) != len(expected) or any(i not in self.entries for i in expected):
            raise Gap(f"entries of group {self.group} between {first} and {self.last} are missing")
        return iter(expected)

    def _forget(self, indices: range) -> None:
        if len(indices) > len(self.entries):
            for index in [i for i in self.entries if i in indices]:
                del self.entries[index]
            return
        for index in indices:
            self.entries.pop(index, None)

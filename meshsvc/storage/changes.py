"""From changes to the records of one batch, and to what the groups are afterwards."""

from __future__ import annotations

from collections.abc import Callable

from meshsvc.storage import records
from meshsvc.storage.failures import NotContiguous
from meshsvc.storage.groups import GroupState, check_append
from meshsvc.storage.records import (
    ENTRY_RECORD_FIXED,
    NUMBER_RECORD_MAX,
    Append,
    Change,
    Compact,
    Entry,
    Reset,
    entry_record,
    hard_state_record,
    number_record,
)


def size_of(change: Change) -> int:
    """How many bytes the records of a change take at most."""
    if isinstance(change, Append):
        size = 2 * NUMBER_RECORD_MAX
        for entry in change.entries:
            size += ENTRY_RECORD_FIXED + len(entry.data)
        return size
    return NUMBER_RECORD_MAX


class BatchBuilder:
    """Collects records, and changes the groups as it goes.

    That is safe before the records are durable because space was secured: what can still
    fail ends the journal. ``place`` is where the first record will stand.
    """

    def __init__(self, group: Callable[[int], GroupState], place: int) -> None:
        self.count = 0
        self._group = group
        self._place = place
        self._pieces: list[bytes] = []

    @property
    def body(self) -> bytes:
        """The records, one after the other."""
        return b"".join(self._pieces)

    def add(self, change: Change) -> Exception | None:
        """Take a change in; when it does not fit its log, say why and take nothing."""
        state = self._group(change.group)
        try:
            if isinstance(change, Append):
                self._append(state, change)
            elif isinstance(change, Compact):
                self._compact(state, change)
            else:
                self._reset(state, change)
        except NotContiguous as error:
            return error
        return None

    def move(self, group: int, entry: Entry) -> None:
        """Copy an entry that counts to here."""
        data = entry_record(group, entry, records.MOVED)
        self._group(group).moved(entry.index, self._put(data))

    def restate(self, state: GroupState, segment_end: int) -> None:
        """Say again what a group's hard state and marker are, if said before ``segment_end``."""
        if 0 < state.hard_place < segment_end:
            hard = state.hard_state
            state.set_hard_state(hard, self._put(hard_state_record(state.group, hard)))
        if 0 < state.marker_place < segment_end:
            data = number_record(records.COMPACTED, state.group, *state.compacted)
            state.set_marker(*state.compacted, self._put(data))

    def say(self, kind: int, *numbers: int) -> None:
        """A record that is of no group."""
        self._put(number_record(kind, 0, *numbers))

    def _append(self, state: GroupState, change: Append) -> None:
        cut = check_append(state, change)
        if cut is not None:
            self._put(number_record(records.TRUNCATED, state.group, cut))
            state.truncate(cut)
        hard = change.hard_state
        if hard is not None:
            state.set_hard_state(hard, self._put(hard_state_record(state.group, hard)))
        group, place, put = state.group, self._place, self._pieces.append
        for entry in change.entries:  # as ``_put`` does, which would double what this costs
            data = entry_record(group, entry)
            put(data)
            state.add(entry, place, len(data))
            place += len(data)
        self._place = place
        self.count += len(change.entries)

    def _compact(self, state: GroupState, change: Compact) -> None:
        if change.index <= state.compacted[0]:
            return
        term = state.term_at(change.index)
        if term is None:
            raise NotContiguous(
                f"group {state.group}: the log ends at {state.last} and cannot be compacted up"
                f" to {change.index}: reset it to the snapshot instead"
            )
        data = number_record(records.COMPACTED, state.group, change.index, term)
        state.compact(change.index, term, self._put(data))

    def _reset(self, state: GroupState, change: Reset) -> None:
        data = number_record(records.RESET, state.group, change.index, change.term)
        state.reset(change.index, change.term, self._put(data))

    def _put(self, data: bytes) -> int:
        place = self._place
        self._pieces.append(data)
        self._place += len(data)
        self.count += 1
        return place

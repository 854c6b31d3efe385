"""From changes to the records of one batch, and to what the groups are afterwards."""

from __future__ import annotations

from collections.abc import Callable

from meshsvc.storage import records
from meshsvc.storage.batches import MAX_BODY
from meshsvc.storage.failures import NotContiguous, TooLarge
from meshsvc.storage.groups import GroupState, check_append
from meshsvc.storage.records import (
    NUMBER_RECORD_MAX,
    Append,
    Change,
    Compact,
    Entry,
    Reset,
    entry_record,
    entry_record_size,
    number_record,
)


def size_of(change: Change) -> int:
    """How many bytes the records of a change take at most."""
    if isinstance(change, Append):
        return sum(map(entry_record_size, change.entries)) + 2 * NUMBER_RECORD_MAX
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
        except (NotContiguous, TooLarge) as error:
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
            data = number_record(records.HARD_STATE, state.group, hard.term, hard.vote, hard.commit)
            state.set_hard_state(hard, self._put(data))
        if 0 < state.marker_place < segment_end:
            data = number_record(records.COMPACTED, state.group, *state.compacted)
            state.set_marker(*state.compacted, self._put(data))

    def say(self, kind: int, *numbers: int) -> None:
        """A record that is of no group."""
        self._put(number_record(kind, 0, *numbers))

    def _append(self, state: GroupState, change: Append) -> None:
        if size_of(change) > MAX_BODY:
            raise TooLarge(
                f"group {state.group}: {len(change.entries)} entries are {size_of(change)} bytes,"
                f" and a batch holds {MAX_BODY}: append fewer at once"
            )
        cut = check_append(state, change)
        if cut is not None:
            self._put(number_record(records.TRUNCATED, state.group, cut))
            state.truncate(cut)
        hard = change.hard_state
        if hard is not None:
            numbers = (hard.term, hard.vote, hard.commit)
            data = number_record(records.HARD_STATE, state.group, *numbers)
            state.set_hard_state(hard, self._put(data))
        group = state.group
        for entry in change.entries:
            data = entry_record(group, entry)
            state.add(entry, self._put(data), len(data))

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

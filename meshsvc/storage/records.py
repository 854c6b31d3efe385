"""What a Raft group keeps on disk, what a journal is told to do, and the records it writes.

``Entry``, ``HardState`` and ``SnapshotMeta`` are the vocabulary between storage and Raft. To
storage an entry's data and a snapshot's config are opaque bytes; only indices and terms mean
something to it. Checksums are not here but on the batch a record stands in (``batches.py``),
because the batch is what a crash can tear.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple


class Entry(NamedTuple):
    """One entry of a group's log; a tuple, for there are very many of them.

    Args:
        index: position in the log, from 1, without gaps.
        term: the term in which a leader appended it, from 1; never falls along the log.
        kind: 0 to 255, what the data is; storage gives it back and does not look at it.
        data: opaque.
    """

    index: int  # type: ignore[assignment]  # nobody looks for a value in an entry
    term: int
    kind: int
    data: bytes


@dataclass(frozen=True, slots=True)
class HardState:
    """What a replica must remember before it answers anybody.

    Args:
        term: the current term, 0 before the first.
        vote: the member voted for in that term, 0 for none: an unsigned 64-bit number.
        commit: the highest index known to be committed; a hint that may lag.
    """

    term: int = 0
    vote: int = 0
    commit: int = 0


@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """Which prefix of the log a snapshot stands for.

    Args:
        index: the last entry it contains.
        term: the term of that entry.
        config: the membership as of that entry, as Raft encodes it; opaque here.
    """

    index: int
    term: int
    config: bytes = b""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a group finds on its disk when it starts.

    Args:
        hard_state: as it was made durable last.
        snapshot: the newest snapshot, None when there is none.
        compacted_index: the last entry that the log no longer has; 0 when it has all.
        compacted_term: the term of that entry.
        entries: what follows it, without gaps. When there is a snapshot, it contains at least
            what was compacted, and the log agrees with it.
    """

    hard_state: HardState
    snapshot: SnapshotMeta | None
    compacted_index: int
    compacted_term: int
    entries: tuple[Entry, ...]


# --- what a journal is told to do ---------------------------------------------------------


class Append(NamedTuple):
    """Make a hard state and entries of a group durable, together.

    Entries from ``truncate_from`` on are forgotten first; entries that overlap the log do
    that by themselves, from their first index on.
    """

    group: int
    hard_state: HardState | None = None
    entries: tuple[Entry, ...] = ()
    truncate_from: int | None = None


@dataclass(frozen=True, slots=True)
class Compact:
    """Forget the entries of a group up to ``index``, which a durable snapshot contains."""

    group: int
    index: int


@dataclass(frozen=True, slots=True)
class Reset:
    """Replace the whole log of a group by a durable snapshot that ends at ``index``."""

    group: int
    index: int
    term: int


Change = Append | Compact | Reset

# --- records ------------------------------------------------------------------------------
# A record: length of the payload (4), kind (1), group (8), payload. All numbers big-endian.

ENTRY = 1
MOVED = 2
"""An entry that was copied forward, so that the segment it stood in can be dropped."""
HARD_STATE = 3
TRUNCATED = 4
COMPACTED = 5
RESET = 6
DROPPED = 7
"""Segments below this number are gone on purpose; of no group."""
ROLLED = 8
"""The journal goes on in the segment of this number; of no group."""
SEALED = 9
"""The journal was closed in an orderly way here; of no group."""

PREFIX = Struct(">IBQ")
_ENTRY = Struct(">IBQQQB")
_HARD_STATE = Struct(">IBQQQQ")
_ENTRY_FIXED = _ENTRY.size - PREFIX.size
_NUMBERS = {
    HARD_STATE: Struct(">QQQ"),
    TRUNCATED: Struct(">Q"),
    COMPACTED: Struct(">QQ"),
    RESET: Struct(">QQ"),
    DROPPED: Struct(">Q"),
    ROLLED: Struct(">Q"),
    SEALED: Struct(">"),
}
_HEAD = Struct(">QQB")


class Undecodable(ValueError):
    """Bytes under a valid checksum that are no records: a newer version wrote them, or a fault."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record as read: where it stands in its body, how long it is, and what it says.

    ``entry`` is there for ENTRY and MOVED, ``numbers`` for all others.
    """

    kind: int
    group: int
    at: int
    size: int
    entry: Entry | None
    numbers: tuple[int, ...]


def entry_record(group: int, entry: Entry, kind: int = ENTRY) -> bytes:
    """The record of an entry."""
    data = entry.data
    return (
        _ENTRY.pack(_ENTRY_FIXED + len(data), kind, group, entry.index, entry.term, entry.kind)
        + data
    )


ENTRY_RECORD_FIXED = _ENTRY.size
"""Bytes of an entry's record beside its data."""


def entry_record_size(entry: Entry) -> int:
    """How many bytes ``entry_record`` gives."""
    return ENTRY_RECORD_FIXED + len(entry.data)


def hard_state_record(group: int, state: HardState) -> bytes:
    """``number_record`` of a hard state: there is one with nearly every append."""
    return _HARD_STATE.pack(24, HARD_STATE, group, state.term, state.vote, state.commit)


def number_record(kind: int, group: int, *numbers: int) -> bytes:
    """The record of anything but an entry."""
    payload = _NUMBERS[kind].pack(*numbers)
    return PREFIX.pack(len(payload), kind, group) + payload


NUMBER_RECORD_MAX = PREFIX.size + 24


def read_records(body: bytes | memoryview, count: int) -> Iterator[Record]:
    """The records of a body whose checksum was right.

    Raises:
        Undecodable: when they are not ``count`` records that fill the body exactly.
    """
    at = 0
    for _ in range(count):
        if at + PREFIX.size > len(body):
            raise Undecodable(f"a record is cut short at byte {at}")
        length, kind, group = PREFIX.unpack_from(body, at)
        start, end = at + PREFIX.size, at + PREFIX.size + length
        if end > len(body):
            raise Undecodable(f"the record at byte {at} is longer than its batch")
        yield _read(kind, group, at, body[start:end])
        at = end
    if at != len(body):
        raise Undecodable(f"{len(body) - at} bytes follow the last record")


def _read(kind: int, group: int, at: int, payload: bytes | memoryview) -> Record:
    size = PREFIX.size + len(payload)
    if kind in (ENTRY, MOVED):
        if len(payload) < _ENTRY_FIXED:
            raise Undecodable(f"the entry at byte {at} is cut short")
        index, term, entry_kind = _HEAD.unpack_from(payload)
        entry = Entry(index, term, entry_kind, bytes(payload[_ENTRY_FIXED:]))
        return Record(kind, group, at, size, entry, ())
    form = _NUMBERS.get(kind)
    if form is None or form.size != len(payload):
        raise Undecodable(f"the record at byte {at} is of unknown kind {kind}")
    return Record(kind, group, at, size, None, form.unpack(payload))

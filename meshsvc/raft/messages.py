"""What the members of a group tell each other: frozen messages and their bytes.

Each carries its sender's term. On the wire a message is one CBOR array of positions,
``[kind, term, ...]`` with a kind of one byte; a byte more or less is a news fragment. Who sent
it is known from the way it came. A message may be lost, doubled, delayed and overtaken.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from meshsvc.errors import WireError
from meshsvc.storage.records import Entry, SnapshotMeta
from meshsvc.wire.codec import decode, encode

MAX_U64 = 2**64 - 1


@dataclass(frozen=True, slots=True)
class VoteRequest:
    """Would you vote for me (``pre``), or: vote for me. ``forced``: the leader asked me to."""

    term: int
    last_index: int
    last_term: int
    pre: bool
    forced: bool


@dataclass(frozen=True, slots=True)
class VoteReply:
    """The answer; ``term`` repeats the request's when granted, else it is the sender's own.

    ``removed``: a leader says that the candidate belongs to the group no more. It is a hint
    for the candidate's operator and changes nothing in the core.
    """

    term: int
    granted: bool
    pre: bool
    removed: bool


@dataclass(frozen=True, slots=True)
class Append:
    """Entries that follow (prev_index, prev_term), and how far the log is committed."""

    term: int
    prev_index: int
    prev_term: int
    commit: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class AppendReply:
    """Accepted: everything up to ``index`` is durable here. Rejected: I lack ``index``, and
    may agree with you at (hint_index, hint_term) at best.
    """

    term: int
    rejected: bool
    index: int
    hint_index: int
    hint_term: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """I lead; ``round`` rises with each question whether I still do."""

    term: int
    commit: int
    round: int


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """You do, as of that round."""

    term: int
    round: int


@dataclass(frozen=True, slots=True)
class SnapshotChunk:
    """Chunk ``number`` of a snapshot, from 0; ``done`` with the last one."""

    term: int
    meta: SnapshotMeta
    number: int
    data: bytes
    done: bool


@dataclass(frozen=True, slots=True)
class SnapshotReply:
    """Of the snapshot at ``index`` I want chunk ``number`` next."""

    term: int
    index: int
    number: int


@dataclass(frozen=True, slots=True)
class Propose:
    """Proposals that a member passes on to its leader."""

    term: int
    proposals: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """How far must I have applied to read now? ``read`` is the asker's own number."""

    term: int
    read: int


@dataclass(frozen=True, slots=True)
class ReadReply:
    """Up to ``index``."""

    term: int
    read: int
    index: int


@dataclass(frozen=True, slots=True)
class TimeoutNow:
    """Campaign at once: I hand leadership to you."""

    term: int


@dataclass(frozen=True, slots=True)
class TransferRequest:
    """A member asks its leader to hand leadership to ``to``."""

    term: int
    to: int


@dataclass(frozen=True, slots=True)
class Committed:
    """Everything up to the entry (commit, commit_term), if you have that. It is not answered."""

    term: int
    commit: int
    commit_term: int


Message = (
    VoteRequest
    | VoteReply
    | Append
    | AppendReply
    | Heartbeat
    | HeartbeatReply
    | SnapshotChunk
    | SnapshotReply
    | Propose
    | ReadRequest
    | ReadReply
    | TimeoutNow
    | TransferRequest
    | Committed
)

_KINDS: tuple[type[Any], ...] = (
    *(VoteRequest, VoteReply, Append, AppendReply, Heartbeat, HeartbeatReply),
    *(SnapshotChunk, SnapshotReply, Propose, ReadRequest, ReadReply, TimeoutNow),
    *(TransferRequest, Committed),
)
_NUMBERS = {cls: number for number, cls in enumerate(_KINDS)}
_FIELDS = {cls: tuple(each.name for each in fields(cls)) for cls in _KINDS}
_GETTERS = {
    cls: attrgetter(*names) if len(names) > 1 else lambda message: (message.term,)
    for cls, names in _FIELDS.items()
}
_TYPES = {cls: tuple(str(each.type) for each in fields(cls)) for cls in _KINDS}


def encode_message(message: Message) -> bytes:
    """A message as bytes."""
    cls = type(message)
    if cls is Append:
        return _encode_append(message)  # type: ignore[arg-type]
    row = [_NUMBERS[cls], *_GETTERS[cls](message)]
    if cls is SnapshotChunk:
        meta: SnapshotMeta = row[2]
        row[2] = [meta.index, meta.term, meta.config]
    return encode(row)


def _encode_append(message: Append) -> bytes:
    flat: list[Any] = []
    for entry in message.entries:
        flat += (entry.term, entry.kind, entry.data)
    head = (message.term, message.prev_index, message.prev_term, message.commit)
    return encode([_NUMBERS[Append], *head, flat])


def decode_message(data: bytes) -> Message:
    """What ``encode_message`` made.

    Raises:
        WireError: when the bytes are anything else; nothing in it is to be trusted then.
    """
    row = decode(data)
    if not isinstance(row, list) or not row or type(row[0]) is not int:
        raise WireError("a Raft message is not a list that begins with its kind")
    if not 0 <= row[0] < len(_KINDS):
        raise WireError(f"no Raft message has the kind {row[0]}")
    cls = _KINDS[row[0]]
    values = row[1:]
    if len(values) != len(_FIELDS[cls]):
        raise WireError(f"a Raft {cls.__name__} has {len(values)} fields")
    if cls is Append:
        values[4] = _entries(values[1], values[2], values[0], values[4])
    elif cls is SnapshotChunk:
        values[1] = _meta(values[1])
    elif cls is Propose:
        values[1] = _proposals(values[1])
    for value, kind, name in zip(values, _TYPES[cls], _FIELDS[cls], strict=True):
        if not _fits(value, kind):
            raise WireError(f"{name} of a Raft {cls.__name__} is no {kind}: {value!r:.60}")
    return cls(*values)  # type: ignore[no-any-return]


def _fits(value: object, kind: str) -> bool:
    if kind == "int":
        return type(value) is int and 0 <= value <= MAX_U64
    if kind == "bool":
        return type(value) is bool
    return type(value) is bytes if kind == "bytes" else True


def _entries(prev_index: object, prev_term: object, term: object, flat: object) -> Any:
    """Entries from their flat form; indices follow from the position, terms may not fall."""
    if not (isinstance(flat, list) and len(flat) % 3 == 0):
        raise WireError("the entries of a Raft Append are no triples")
    if not (type(prev_index) is int and type(prev_term) is int and type(term) is int):
        raise WireError("a Raft Append has no place for its entries")
    made, index, last = [], prev_index, prev_term
    for at in range(0, len(flat), 3):
        entry_term, kind, data = flat[at : at + 3]
        index += 1
        if not (type(entry_term) is int and last <= entry_term <= term):
            raise WireError(f"entry {index} of a Raft Append has no possible term")
        if not (type(kind) is int and 0 <= kind < 256 and type(data) is bytes):
            raise WireError(f"entry {index} of a Raft Append has no kind or no data")
        last = entry_term
        made.append(Entry(index, entry_term, kind, data))
    return tuple(made)


def _meta(row: object) -> SnapshotMeta:
    if not (isinstance(row, list) and len(row) == 3):
        raise WireError("a Raft SnapshotChunk does not say of which snapshot")
    index, term, config = row
    if not (_fits(index, "int") and _fits(term, "int") and type(config) is bytes):
        raise WireError("a Raft SnapshotChunk names an impossible snapshot")
    return SnapshotMeta(index, term, config)


def _proposals(row: object) -> tuple[bytes, ...]:
    if not (isinstance(row, list) and all(type(data) is bytes for data in row)):
        raise WireError("a Raft Propose holds no proposals")
    return tuple(row)

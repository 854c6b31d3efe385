"""What the core wants done: the one thing that crosses from it to its driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from meshsvc.raft.messages import Message
from meshsvc.raft.quorum import Member
from meshsvc.storage.records import Entry, HardState, SnapshotMeta


class Outgoing(NamedTuple):
    """A message and where it goes."""

    to: Member
    message: Message


@dataclass(frozen=True, slots=True)
class ReadState:
    """Read number ``read`` may be served once ``index`` is applied."""

    read: int
    index: int


class ChunkWanted(NamedTuple):
    """Fetch a chunk of a snapshot and hand it to ``Raft.chunk``."""

    to: Member
    meta: SnapshotMeta
    number: int


class ChunkReceived(NamedTuple):
    """A chunk of a leader's snapshot: write it, then say ``Raft.kept``. Number 0 begins a new
    snapshot; what there was of another one is not wanted any more.
    """

    meta: SnapshotMeta
    number: int
    data: bytes
    done: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """What is to be done now, in the order of the fields.

    Args:
        chunks: of an incoming snapshot, to be written and kept until ``snapshot`` names it.
        snapshot: install this received snapshot, durably, before ``entries``.
        hard_state: make it durable, None when nothing in it must be.
        entries: make them durable; what the log has from the first one's index on goes.
        after: messages that may leave only when the three above are durable.
        messages: messages that may leave at once.
        committed: entries to apply, in order.
        reads: reads that were confirmed.
        wanted: chunks of our own snapshot that members need.
    """

    chunks: tuple[ChunkReceived, ...] = ()
    snapshot: SnapshotMeta | None = None
    hard_state: HardState | None = None
    entries: tuple[Entry, ...] = ()
    after: tuple[Outgoing, ...] = ()
    messages: tuple[Outgoing, ...] = ()
    committed: tuple[Entry, ...] = ()
    reads: tuple[ReadState, ...] = ()
    wanted: tuple[ChunkWanted, ...] = ()

    @property
    def durable(self) -> bool:
        """Whether something is to be made durable, and ``Raft.persisted`` called then."""
        return bool(self.snapshot or self.hard_state or self.entries)

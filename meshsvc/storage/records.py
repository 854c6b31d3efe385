"""What a Raft group keeps on disk: its entries, its hard state, and where its snapshot stands.

These three are the vocabulary between storage and Raft. To storage an entry's data and a
snapshot's config are opaque bytes; only indices and terms mean something to it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a group's log.

    Args:
        index: position in the log, from 1, without gaps.
        term: the term in which a leader appended it, from 1; never falls along the log.
        kind: 0 to 255, what the data is; storage gives it back and does not look at it.
        data: opaque.
    """

    index: int
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

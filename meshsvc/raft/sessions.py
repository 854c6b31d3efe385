"""Exactly once: what was applied is known, so a proposal may be made again without harm.

A proposal can be lost, and one that was not answered may have been ordered all the same. So
each carries an id that nobody else ever uses: a session (128 random bits, one for each life of
a proposer) and a sequence number in it. The table of what was applied is part of the replicated
state: every replica skips the same doubles. A bare counter as an id would let one node's
answer end another's call.

A session is opened by an entry of its own and is forgotten when it has been silent while
``MAX_SESSIONS`` others were opened. A command of a session that is not open is refused
everywhere, never applied again: that is what an old double would be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from struct import Struct
from typing import Any

from meshsvc.errors import WireError
from meshsvc.wire.codec import decode, encode

SESSION_BYTES = 16

MAX_SESSIONS = 4096
"""Each life of each proposer has one; dozens of nodes, restarted for weeks, stay below."""

ROWS_PER_CHUNK = 512
"""Sessions in one chunk of a snapshot: some tens of kilobytes."""

OPEN, COMMAND = 0, 1
_HEAD = Struct(f">B{SESSION_BYTES}sQQ")


@dataclass(frozen=True, slots=True)
class Command:
    """A proposal. ``low``: its proposer no longer waits for any sequence number below it."""

    session: bytes
    sequence: int
    low: int
    data: bytes


def encode_command(session: bytes, sequence: int, low: int, data: bytes) -> bytes:
    """A command as the data of an entry."""
    return _HEAD.pack(COMMAND, session, sequence, low) + data


def encode_open(session: bytes) -> bytes:
    """The entry that opens a session."""
    return _HEAD.pack(OPEN, session, 0, 0)


def decode_command(data: bytes) -> Command:
    """What an entry holds; sequence 0 is the opening of the session.

    Raises:
        WireError: when it holds nothing of the kind; the replica must not go on then, as the
            others may be able to read it.
    """
    if len(data) < _HEAD.size:
        raise WireError(f"an entry of {len(data)} bytes holds no command")
    kind, session, sequence, low = _HEAD.unpack_from(data)
    if kind not in (OPEN, COMMAND) or (kind == OPEN) != (sequence == 0):
        raise WireError(f"an entry holds a command of the unknown kind {kind}")
    return Command(session, sequence, low, data[_HEAD.size :])


class Verdict(IntEnum):
    """What is to become of a command."""

    APPLY = 0
    DOUBLE = 1
    UNKNOWN_SESSION = 2


@dataclass(slots=True)
class _Session:
    last_index: int
    low: int = 1
    done: set[int] = field(default_factory=set)

    def raise_low(self, low: int) -> None:
        if low - self.low > len(self.done):
            self.done = {number for number in self.done if number >= low}
        else:
            for number in range(self.low, low):
                self.done.discard(number)
        self.low = max(self.low, low)


class Sessions:
    """The table. It depends on the entries before it and on nothing else."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, _Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, session: bytes) -> bool:
        return session in self._sessions

    def admit(self, command: Command, index: int) -> Verdict:
        """Enter the command of the entry at ``index``."""
        known = self._sessions.get(command.session)
        if command.sequence == 0:
            self._open(command.session, index)
            return Verdict.DOUBLE
        if known is None:
            return Verdict.UNKNOWN_SESSION
        known.last_index = index
        if command.sequence < known.low or command.sequence in known.done:
            return Verdict.DOUBLE
        known.done.add(command.sequence)
        if command.low > known.low:
            known.raise_low(min(command.low, command.sequence))
        return Verdict.APPLY

    def was_applied(self, session: bytes, sequence: int) -> bool:
        """Whether a command was applied, for one that waits and installed a snapshot."""
        known = self._sessions.get(session)
        return known is not None and (sequence < known.low or sequence in known.done)

    def _open(self, session: bytes, index: int) -> None:
        if session in self._sessions:
            return
        if len(self._sessions) >= MAX_SESSIONS:
            oldest = min(self._sessions, key=lambda each: self._sessions[each].last_index)
            del self._sessions[oldest]
        self._sessions[session] = _Session(index)

    # --- snapshots -----------------------------------------------------------------------

    def chunks(self) -> Iterator[bytes]:
        """The table as of now, in chunks."""
        rows = [
            [session, known.last_index, known.low, sorted(known.done)]
            for session, known in self._sessions.items()
        ]
        for start in range(0, len(rows), ROWS_PER_CHUNK):
            yield encode(rows[start : start + ROWS_PER_CHUNK])

    def feed(self, chunk: bytes) -> None:
        """Take a chunk of ``chunks`` into a new table.

        Raises:
            WireError: when it is none.
        """
        rows = decode(chunk)
        if not isinstance(rows, list):
            raise WireError("a chunk of a snapshot holds no sessions")
        for row in rows:
            session, last_index, low, done = _checked(row)
            self._sessions[session] = _Session(last_index, low, set(done))


def _checked(row: Any) -> tuple[bytes, int, int, list[int]]:
    good = isinstance(row, list) and [type(each) for each in row] == [bytes, int, int, list]
    if not (good and len(row[0]) == SESSION_BYTES and all(type(n) is int for n in row[3])):
        raise WireError("a chunk of a snapshot holds something that is no session")
    return row[0], row[1], row[2], row[3]

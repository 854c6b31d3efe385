"""The ``system`` group's state: the mesh that was minted last, and members that were removed.

Small, and changed seldom: its snapshot is one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshsvc.errors import WireError
from meshsvc.mesh import roster as rosters
from meshsvc.mesh.elected import MintedMesh
from meshsvc.raft.quorum import Member
from meshsvc.wire.codec import decode, encode

MINT, REMOVE, ADMIT = range(1, 4)

MAX_REMOVED = 1024
"""Removed members that are remembered; the oldest may come back if it still exists by then."""


def mint(roster: Any) -> bytes:
    """The command that a controller saves an epoch with; applying it tells whether it may."""
    epoch = roster.epoch
    return encode([MINT, epoch.term, epoch.attempt, list(rosters.rows(roster.members))])


def remove(member: Member) -> bytes:
    """The command that keeps a member from coming back by itself."""
    return encode([REMOVE, member])


def admit(member: Member) -> bytes:
    """The command that lets a removed member come back."""
    return encode([ADMIT, member])


class SystemState:
    """The state machine."""

    def __init__(self) -> None:
        self.mesh = MintedMesh()
        self.removed: dict[Member, None] = {}

    def apply(self, data: bytes, index: int, term: int) -> bool:
        """Do a command; False when an epoch may not be used."""
        kind, *fields = _row(data)
        if kind == MINT:
            return self.mesh.mint(rosters.from_wire(*fields))
        if kind == REMOVE:
            self.removed[fields[0]] = None
            while len(self.removed) > MAX_REMOVED:
                del self.removed[next(iter(self.removed))]
        elif kind == ADMIT:
            self.removed.pop(fields[0], None)
        return True

    def snapshot(self) -> Iterator[bytes]:
        """All of it."""
        roster = self.mesh.last
        epoch = roster.epoch
        rows = list(rosters.rows(roster.members))
        yield encode([epoch.term, epoch.attempt, rows, list(self.removed)])

    def restore(self) -> _Restoration:
        """Begin to take over a snapshot."""
        return _Restoration(self)


class _Restoration:
    def __init__(self, state: SystemState) -> None:
        self._state = state
        self._data = b""

    def feed(self, chunk: bytes) -> None:
        """The only chunk there is."""
        self._data += chunk

    def finish(self) -> None:
        """Take its place."""
        term, attempt, rows, removed = _row(self._data)
        state = self._state
        state.mesh = MintedMesh(rosters.from_wire(term, attempt, rows)) if term else MintedMesh()
        state.removed = dict.fromkeys(removed)


def _row(data: bytes) -> list[Any]:
    row = decode(data)
    if not isinstance(row, list) or not row:
        raise WireError("a command of the system group is not a list")
    return row

"""The ``system`` group's state: the mesh that was minted last, which members were removed, and
where each member lives.

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

MINT, REMOVE, ADMIT, HOUSE = range(1, 5)

MAX_REMOVED = 1024
"""Removed members that are remembered; the oldest may come back if it still exists by then."""

MAX_HOUSED = 1024
"""Members whose node is remembered, the oldest forgotten first: there are a few at a time."""

House = tuple[str, str, str, str]
"""Where a member lives: id and name of its node, its peer address, its client address."""


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


def house(member: Member, where: House) -> bytes:
    """The command that remembers where a member lives, also when nobody can ask it any more."""
    return encode([HOUSE, member, list(where)])


class SystemState:
    """The state machine."""

    def __init__(self) -> None:
        self.mesh = MintedMesh()
        self.removed: dict[Member, None] = {}
        self.houses: dict[Member, House] = {}

    def apply(self, data: bytes, index: int, term: int) -> bool:
        """Do a command; False when an epoch may not be used."""
        kind, *fields = _row(data)
        if kind == MINT:
            return self.mesh.mint(rosters.from_wire(*fields))
        if kind == REMOVE:
            _enter(self.removed, fields[0], None, MAX_REMOVED)
        elif kind == ADMIT:
            self.removed.pop(fields[0], None)
        elif kind == HOUSE:
            _enter(self.houses, fields[0], _house(fields[1]), MAX_HOUSED)
        return True

    def snapshot(self) -> Iterator[bytes]:
        """All of it."""
        roster = self.mesh.last
        epoch = roster.epoch
        rows = list(rosters.rows(roster.members))
        houses = [[member, list(where)] for member, where in self.houses.items()]
        yield encode([epoch.term, epoch.attempt, rows, list(self.removed), houses])

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
        term, attempt, rows, removed, *later = _row(self._data)
        state = self._state
        state.mesh = MintedMesh(rosters.from_wire(term, attempt, rows)) if term else MintedMesh()
        state.removed = dict.fromkeys(removed)
        houses = later[0] if later else []
        state.houses = {member: _house(where) for member, where in houses}


def _enter(table: dict[Member, Any], member: Member, value: object, most: int) -> None:
    table.pop(member, None)
    table[member] = value
    while len(table) > most:
        del table[next(iter(table))]


def _house(row: Any) -> House:
    node, name, peer, client = row
    return str(node), str(name), str(peer), str(client)


def _row(data: bytes) -> list[Any]:
    row = decode(data)
    if not isinstance(row, list) or not row:
        raise WireError("a command of the system group is not a list")
    return row

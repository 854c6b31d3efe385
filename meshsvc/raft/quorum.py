"""Who belongs to a group, and what a quorum of it has reached or decided.

While a change of members is under way the configuration is *joint*: it has old and new
voters, and everything takes a majority of each (Raft paper, section 6).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from meshsvc.errors import WireError
from meshsvc.wire.codec import decode, encode

Member = int
"""A replica's id: 64 bits, never 0, never used again by a replica that lost its disk."""

NOBODY: Member = 0

MAX_MEMBERS = 64
"""A group beyond some dozens of members is a mistake; a bound for what is decoded."""


class Tally(IntEnum):
    """What a vote has come to."""

    PENDING = 0
    WON = 1
    LOST = 2


@dataclass(frozen=True, slots=True)
class Config:
    """The members of a group; each tuple is sorted.

    Args:
        voters: who votes; while the configuration is joint, the new voters.
        outgoing: the old voters while the configuration is joint, else empty.
        learners: who gets the log and has no vote. One that is still in ``outgoing``
            votes until the joint configuration is left.
    """

    voters: tuple[Member, ...] = ()
    outgoing: tuple[Member, ...] = ()
    learners: tuple[Member, ...] = ()

    @property
    def joint(self) -> bool:
        """Whether a change of voters is under way."""
        return bool(self.outgoing)

    @property
    def members(self) -> tuple[Member, ...]:
        """Everybody who gets the log, sorted."""
        return tuple(sorted({*self.voters, *self.outgoing, *self.learners}))

    @property
    def all_voters(self) -> tuple[Member, ...]:
        """Old and new voters, sorted."""
        return tuple(sorted({*self.voters, *self.outgoing})) if self.outgoing else self.voters

    def votes(self, member: Member) -> bool:
        """Whether a member has a vote."""
        return member in self.voters or member in self.outgoing

    def left(self) -> Config:
        """This configuration without the old voters."""
        return Config(self.voters, (), self.learners)

    def encoded(self) -> bytes:
        """As a positional CBOR array, for the log and for snapshots."""
        return encode([list(self.voters), list(self.outgoing), list(self.learners)])


def make_config(voters: object, learners: object = (), outgoing: object = ()) -> Config:
    """A configuration from members in any order.

    Raises:
        WireError: when something in it is no member id, listed twice, or too many.
    """
    return Config(_members(voters), _members(outgoing), _members(learners))


def decode_config(data: bytes) -> Config:
    """What ``Config.encoded`` made; no bytes at all are the empty configuration.

    Raises:
        WireError: when the bytes are anything else.
    """
    if not data:
        return Config()
    row = decode(data)
    if not isinstance(row, list) or len(row) != 3:
        raise WireError("a Raft configuration is not a list of three lists of members")
    return make_config(row[0], row[2], row[1])


def _members(value: object) -> tuple[Member, ...]:
    if not isinstance(value, list | tuple | set | frozenset) or len(value) > MAX_MEMBERS:
        raise WireError(f"a Raft configuration lists no members, or more than {MAX_MEMBERS}")
    if not all(type(member) is int and 0 < member < 2**64 for member in value):
        raise WireError("a Raft configuration lists something that is no member id")
    if len(set(value)) != len(value):
        raise WireError("a Raft configuration lists a member twice")
    return tuple(sorted(value))


def _majority(voters: tuple[Member, ...], value_of: Callable[[Member], float]) -> float:
    values = sorted(map(value_of, voters))
    return values[(len(values) - 1) // 2]


def reached(config: Config, value_of: Callable[[Member], float]) -> float:
    """The greatest value that a quorum has reached; no voters have reached infinity.

    Args:
        config: old and new voters each need a majority.
        value_of: what a member has: an index, a round, a time.
    """
    if not config.voters:
        return float("inf")
    value = _majority(config.voters, value_of)
    return min(value, _majority(config.outgoing, value_of)) if config.outgoing else value


def tally(config: Config, votes: Mapping[Member, bool]) -> Tally:
    """What the votes so far (True for granted) have come to."""
    halves = [_half(config.voters, votes)]
    if config.outgoing:
        halves.append(_half(config.outgoing, votes))
    if Tally.LOST in halves:
        return Tally.LOST
    return Tally.PENDING if Tally.PENDING in halves else Tally.WON


def _half(voters: tuple[Member, ...], votes: Mapping[Member, bool]) -> Tally:
    granted = sum(votes.get(voter) is True for voter in voters)
    denied = sum(votes.get(voter) is False for voter in voters)
    needed = len(voters) // 2 + 1
    if granted >= needed:
        return Tally.WON
    return Tally.LOST if len(voters) - denied < needed else Tally.PENDING

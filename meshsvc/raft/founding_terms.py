"""What the founding of a group is spoken of in: ballots, plans, records, answers, effects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from meshsvc.errors import WireError
from meshsvc.raft.quorum import Config, Member

FRESH, PROMISED, REFUSED, SETTLED, JOINED = range(5)
"""Stages of a node: bound to nothing; bound to a plan; bound, and refusing it for good; bound
to a plan that all have promised; a member of a group."""

PREPARE, COMMIT, LOOK = range(3)
"""What is asked: promise this plan; it is settled; can anything still come of it?"""

MAX_FOUNDERS = 9
"""More voters make every write slower and survive no more that happens in earnest."""


class Ballot(NamedTuple):
    """Which attempt a plan is; ``node`` is the one that proposed it."""

    number: int
    node: str


NO_BALLOT = Ballot(0, "")


class Founder(NamedTuple):
    """A node, and the member that its disk votes as."""

    node: str
    member: Member


@dataclass(frozen=True, slots=True)
class Plan:
    """These members, in the order of their nodes, are to found ``cluster``."""

    ballot: Ballot
    cluster: int
    founders: tuple[Founder, ...]

    @property
    def config(self) -> Config:
        """The configuration that the group begins with."""
        return Config(tuple(sorted(founder.member for founder in self.founders)))

    def row(self) -> list[object]:
        """As it is written and sent."""
        return [list(self.ballot), self.cluster, [list(each) for each in self.founders]]

    @classmethod
    def read(cls, row: Any) -> Plan:
        """What ``row`` gave.

        Raises:
            WireError: when it is anything else.
        """
        try:
            (number, node), cluster, founders = row
            plan = cls(
                Ballot(_whole(number), _text(node)),
                _whole(cluster),
                tuple(Founder(_text(each), _whole(member)) for each, member in founders),
            )
        except (TypeError, ValueError) as error:
            raise WireError(f"this is no plan to found a store: {error}") from None
        members = {founder.member for founder in plan.founders}
        if not 0 < len(members) == len(plan.founders) <= MAX_FOUNDERS or not plan.cluster:
            raise WireError(f"a plan has 1 to {MAX_FOUNDERS} different members and a cluster")
        return plan


@dataclass(frozen=True, slots=True)
class Record:
    """What a node has on disk of it. ``top`` is the highest ballot it has had to do with."""

    stage: int = FRESH
    plan: Plan | None = None
    top: Ballot = NO_BALLOT
    cluster: int = 0

    def row(self) -> list[object]:
        """As it is written."""
        plan = None if self.plan is None else self.plan.row()
        return [self.stage, plan, list(self.top), self.cluster]

    @classmethod
    def read(cls, row: Any) -> Record:
        """What ``row`` gave.

        Raises:
            WireError: when it is anything else.
        """
        try:
            stage, plan, (number, node), cluster = row
            read = None if plan is None else Plan.read(plan)
            return cls(_stage(stage), read, Ballot(_whole(number), _text(node)), _whole(cluster))
        except (TypeError, ValueError) as error:
            raise WireError(f"this is no record of a founding: {error}") from None


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a node that holds a part of the store tells everybody of itself.

    ``cluster`` is 0 until it is a member; ``expect`` is its config's.
    """

    member: Member
    stage: int
    cluster: int
    expect: int

    def row(self) -> list[object]:
        """As it is gossiped."""
        return [self.member, self.stage, self.cluster, self.expect]

    @classmethod
    def read(cls, row: Any) -> Announcement | None:
        """What ``row`` gave; None for anything else."""
        try:
            member, stage, cluster, expect = row
            return cls(_whole(member), _stage(stage), _whole(cluster), _whole(expect))
        except (TypeError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class Answer:
    """Where the one who was asked stands with a ballot.

    ``refused`` is for good: it will never start by that plan.
    """

    stage: int
    refused: bool
    objection: str = ""

    def row(self) -> list[object]:
        """As it is sent."""
        return [self.stage, self.refused, self.objection]

    @classmethod
    def read(cls, row: Any) -> Answer:
        """What ``row`` gave.

        Raises:
            WireError: when it is anything else.
        """
        try:
            stage, refused, objection = row
            return cls(_stage(stage), refused is True, _text(objection))
        except (TypeError, ValueError) as error:
            raise WireError(f"this is no answer about a plan: {error}") from None


@dataclass(frozen=True, slots=True)
class Persist:
    """Make the record durable; what follows waits for that."""

    record: Record


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask a node; its answer goes to ``Founding.answered``."""

    node: str
    kind: int
    plan: Plan


@dataclass(frozen=True, slots=True)
class Start:
    """Take part in the group ``cluster``; ``config`` is None for who joins it."""

    cluster: int
    config: Config | None


@dataclass(frozen=True, slots=True)
class Conflict:
    """There are several groups where one is meant to be."""

    clusters: Sequence[int]


Effect = Persist | Ask | Start | Conflict


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**64:
        raise ValueError(f"{value!r} is no unsigned 64-bit number")
    return value


def _stage(value: object) -> int:
    if value not in range(JOINED + 1):
        raise ValueError(f"{value!r} is no stage")
    return _whole(value)


def _text(value: object) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r} is no text")
    return value

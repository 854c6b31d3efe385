"""How a group comes to be: N nodes without data agree on one member set, then begin.

Why it is hard: counting peers until there are N is not enough. Nodes see different peers, so
two of them could each count to N with other ones and found two clusters, or all see more
than N and nobody founds any. And a node may be killed between any two steps.

The rules (single-decree Paxos whose quorum is everybody in the set):

1. Of the candidates that a node sees, the N with the smallest ids are its *choice*. The first
   of them proposes it, when the others of it see the same, under a *ballot* (attempt, node).
2. A candidate accepts a set that names it by writing it to its disk, then says so. It accepts
   only under ballots higher than any before.
3. A set that all of it accepted is *agreed*. That is written down before anybody acts on it.
4. Who accepted a set leaves it only when it can never be agreed: one of it has skipped that
   ballot for a higher one. So of two sets with a common member at most one is agreed, as long
   as disks keep what they were told.
5. Who hears of an agreed set is a member of it, or joins it as a learner. So are more than N.

Two sets of N always have a member in common when there are fewer than 2N candidates. With
more, two halves that never see each other could found a group each: choose N for that.

A founder that loses its disk before all have agreed holds the founding up, because nobody can
know whether it had accepted. ``waits_for`` names it. Nothing is lost by deleting the data of
the others then: there is none yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from hashlib import sha256

from meshsvc.errors import WireError
from meshsvc.raft.quorum import Member
from meshsvc.wire.codec import decode, encode

REPEAT_S = 0.25
"""How often a candidate says where it stands: a founding takes a few of these."""

FORGET_S = 2.0
"""A candidate that was silent for so long is not proposed: it may be gone."""

MAX_CANDIDATES = 256
"""Seen at once; as many nodes as a mesh has."""

MAX_BALLOTS = 1024
"""Accepted by one node: each takes a coordinator that vanished at the wrong moment."""


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """A node that could be a member: ``node`` is its id, ``member`` that of its disk."""

    node: str
    member: Member


Founders = tuple[Candidate, ...]
Ballot = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Stand:
    """Where a node stands: what it says, and what it keeps on its disk.

    Args:
        me: who says so.
        expect: N; only those with the same N found a group together.
        accepted: the set it has accepted last, empty for none.
        ballots: under which it has accepted sets, in their order.
        agreed: whether the last of them is agreed.
        sees: its choice; not kept.
    """

    me: Candidate
    expect: int
    accepted: Founders = ()
    ballots: tuple[Ballot, ...] = ()
    agreed: bool = False
    sees: Founders = ()

    @property
    def ballot(self) -> Ballot:
        """The highest ballot."""
        return self.ballots[-1] if self.ballots else (0, "")


def cluster_id(founders: Founders) -> int:
    """The id of the cluster that these found: 64 bits, never 0, the same for all of them."""
    text = "".join(f"{each.node}/{each.member:016x};" for each in founders)
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") or 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it: the founders of the group, and whether this node is one of them."""

    founders: Founders
    member: bool

    @property
    def cluster_id(self) -> int:
        """The id of the cluster."""
        return cluster_id(self.founders)


@dataclass(slots=True)
class Bootstrap:
    """One node's part in the founding of a group.

    Feed it ``heard`` and ``tick``. Whenever ``to_save`` is not None make that durable, then say
    ``saved``; what was not saved is not said. It is done when there is an ``outcome``, but must
    go on to be fed: the others have to hear of it.

    Args:
        me: this node.
        expect: how many found the group together.
        stored: what was saved in an earlier life, None for nothing.
    """

    me: Candidate
    expect: int
    stored: Stand | None = None
    outcome: Outcome | None = None
    to_save: Stand | None = None
    _mine: Stand = field(init=False)
    _seen: dict[str, tuple[Stand, float]] = field(default_factory=dict)
    _say_at: float = float("-inf")

    def __post_init__(self) -> None:
        kept = self.stored is not None and self.stored.me == self.me
        self._mine = self.stored if kept and self.stored else Stand(self.me, self.expect)
        self._conclude()

    # --- in ------------------------------------------------------------------------------

    def heard(self, stand: Stand, now: float) -> None:
        """Another node said where it stands."""
        node = stand.me.node
        if node == self.me.node or (node not in self._seen and len(self._seen) >= MAX_CANDIDATES):
            return
        self._seen[node] = (stand, now)
        self._step(now)

    def tick(self, now: float) -> bool:
        """Time has passed; True when ``stand`` is to be said to everybody."""
        self._step(now)
        if now < self._say_at:
            return False
        self._say_at = now + REPEAT_S
        return True

    def deadline(self) -> float:
        """When ``tick`` is next wanted."""
        return self._say_at

    def saved(self, stand: Stand, now: float) -> None:
        """A ``to_save`` is durable: from now on it is said, and at once."""
        self._mine, self.to_save, self._say_at = stand, None, now
        self._conclude()
        self._step(now)

    # --- out -----------------------------------------------------------------------------

    def stand(self, now: float) -> Stand:
        """What to say to the others."""
        return replace(self._mine, sees=self._choice(now))

    def waits_for(self, now: float) -> str:
        """Why there is no group yet, for people; empty when there is."""
        if self.outcome is not None:
            return ""
        lost = [each.node[:8] for each in self._mine.accepted if self._has_lost_its_disk(each)]
        if lost:
            return (
                f"{', '.join(lost)} lost its disk while the group was being founded: delete the"
                " data of the other founders, which hold nothing yet, and start them again"
            )
        missing = [each.node[:8] for each in self._mine.accepted if not self._accepts(each)]
        if missing:
            return f"waiting for {', '.join(missing)} to accept the members"
        fresh = self._fresh(now)
        if len(fresh) < self.expect:
            return f"{len(fresh)} of {self.expect} nodes without data are here"
        return "the nodes do not see the same others yet"

    # --- deciding ------------------------------------------------------------------------

    def _step(self, now: float) -> None:
        if self.outcome is not None or self.to_save is not None or self._join_what_exists():
            return
        mine = self._mine
        if mine.accepted and not self._impossible():
            if all(self._accepts(each) for each in mine.accepted):
                self.to_save = replace(mine, agreed=True)
            return
        ballot, founders = max(self._offers(), default=((0, ""), ()))
        if not founders:
            founders = self._alike(now)
            ballot = (1 + self._highest_attempt(), self.me.node)
        if founders and len(mine.ballots) < MAX_BALLOTS:
            self.to_save = replace(mine, accepted=founders, ballots=(*mine.ballots, ballot))

    def _join_what_exists(self) -> bool:
        for stand, _ in self._seen.values():
            if stand.agreed and self.me in stand.accepted:
                ballots = (*self._mine.ballots, max(stand.ballot, self._mine.ballot))
                self.to_save = replace(
                    self._mine, accepted=stand.accepted, ballots=ballots, agreed=True
                )
                return True
            if stand.agreed:
                self.outcome = Outcome(stand.accepted, False)
                return True
        return False

    def _offers(self) -> list[tuple[Ballot, Founders]]:
        """Sets that name me, under ballots that I may still accept."""
        return [
            (stand.ballot, stand.accepted)
            for stand, _ in self._seen.values()
            if self.me in stand.accepted and stand.ballot > self._mine.ballot
        ]

    def _impossible(self) -> bool:
        """Whether one of the set that I accepted skipped its ballot for a higher one."""
        mine = self._mine
        stands = [self._seen[each.node][0] for each in mine.accepted if each.node in self._seen]
        return any(
            stand.me in mine.accepted
            and stand.ballot > mine.ballot
            and mine.ballot not in stand.ballots
            for stand in stands
        )

    def _accepts(self, candidate: Candidate) -> bool:
        """Whether a candidate has, at any time, accepted what I accepted last."""
        if candidate == self.me:
            return True
        stand, _ = self._seen.get(candidate.node, (None, 0.0))
        return stand is not None and stand.me == candidate and self._mine.ballot in stand.ballots

    def _has_lost_its_disk(self, candidate: Candidate) -> bool:
        stand, _ = self._seen.get(candidate.node, (None, 0.0))
        return stand is not None and stand.me != candidate

    def _highest_attempt(self) -> int:
        attempts = [stand.ballot[0] for stand, _ in self._seen.values()]
        return max([self._mine.ballot[0], *attempts])

    def _alike(self, now: float) -> Founders:
        """My choice, if I am the first of it and the others of it would choose the same."""
        choice = self._choice(now)
        if not choice or choice[0] != self.me:
            return ()
        same = all(self._seen[each.node][0].sees == choice for each in choice[1:])
        return choice if same else ()

    def _choice(self, now: float) -> Founders:
        fresh = self._fresh(now)
        return fresh[: self.expect] if len(fresh) >= self.expect > 0 else ()

    def _fresh(self, now: float) -> Founders:
        """The candidates that are here, smallest first."""
        here = [
            stand.me
            for stand, at in self._seen.values()
            if now - at <= FORGET_S and stand.expect == self.expect
        ]
        return tuple(sorted([self.me, *here]))

    def _conclude(self) -> None:
        if self._mine.agreed:
            self.outcome = Outcome(self._mine.accepted, True)


# --- bytes -------------------------------------------------------------------------------


def encode_stand(stand: Stand) -> bytes:
    """A stand as a positional CBOR array, for the disk and for others."""
    ballots = [list(ballot) for ballot in stand.ballots]
    head = [_row(stand.me), stand.expect, _rows(stand.accepted), ballots]
    return encode([*head, stand.agreed, _rows(stand.sees)])


def decode_stand(data: bytes) -> Stand:
    """What ``encode_stand`` made.

    Raises:
        WireError: when the bytes are anything else.
    """
    row = decode(data)
    if not isinstance(row, list) or len(row) != 6:
        raise WireError("a founding message is not a list of six")
    me, expect, accepted, ballots, agreed, sees = row
    if type(expect) is not int or type(agreed) is not bool:
        raise WireError("a founding message has a field of a wrong type")
    return Stand(
        _candidate(me), expect, _candidates(accepted), _ballots(ballots), agreed, _candidates(sees)
    )


def _ballots(rows: object) -> tuple[Ballot, ...]:
    if not isinstance(rows, list) or len(rows) > MAX_BALLOTS:
        raise WireError("a founding message lists no ballots, or too many")
    for row in rows:
        if not (isinstance(row, list) and [type(each) for each in row] == [int, str]):
            raise WireError("a founding message lists something that is no ballot")
    return tuple((row[0], row[1]) for row in rows)


def _row(candidate: Candidate) -> list[object]:
    return [candidate.node, candidate.member]


def _rows(founders: Iterable[Candidate]) -> list[list[object]]:
    return [_row(each) for each in founders]


def _candidate(row: object) -> Candidate:
    if not (isinstance(row, list) and len(row) == 2 and type(row[0]) is str):
        raise WireError("a founding message names no candidate")
    if type(row[1]) is not int or not 0 < row[1] < 2**64:
        raise WireError("a founding message names a candidate without a member id")
    return Candidate(row[0], row[1])


def _candidates(rows: object) -> Founders:
    if not isinstance(rows, list) or len(rows) > MAX_CANDIDATES:
        raise WireError("a founding message lists no candidates, or too many")
    found = tuple(_candidate(row) for row in rows)
    if len(set(found)) != len(found):
        raise WireError("a founding message lists a candidate twice")
    return found

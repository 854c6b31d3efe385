"""Discovery of one node: what backends found, who came and went, and what is still missing.

Pure: facts come in with the time in seconds, effects come out of ``take_effects``, and
``deadline`` says when ``tick`` is wanted. What was found last stays in force while a backend
fails (DISC-3). The start time of a peer is its generation, which gossip carries anyway: the
same one after it was down is a healed split, a greater one a restart (DISC-6).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from meshsvc.discovery import phases
from meshsvc.discovery.addresses import Answer, read_answer
from meshsvc.discovery.phases import Phases
from meshsvc.discovery.places import Place, Standing
from meshsvc.discovery.tables import Join, JoinState
from meshsvc.gossip.events import (
    Alive,
    AnyEvent,
    Dead,
    Joined,
    Left,
    Removed,
    Restarted,
    Resync,
)
from meshsvc.gossip.members import Member
from meshsvc.model import Address, NodeId
from meshsvc.retry import Occasion

MAX_HISTORY = 64
"""Entries kept: the last losses and returns of a cluster that has a bad day."""

MAX_SHOWN = 10
"""Missing things named in one text; the rest is counted."""

NEVER = "no check has ended yet"


@dataclass(frozen=True, slots=True)
class Contacts:
    """These addresses were found; they are to be kept in contact, and others no longer."""

    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Failing:
    """Checks fail from here on, or fail for another reason than before."""

    reason: str


@dataclass(frozen=True, slots=True)
class Working:
    """A check succeeded after others had failed."""


@dataclass(frozen=True, slots=True)
class Returned:
    """A node is back after ``down_s`` seconds: in the same life, or ``restarted``."""

    member: Member
    down_s: float
    restarted: bool


@dataclass(frozen=True, slots=True)
class Reach:
    """Nodes came up: joins between reachable nodes can be tried."""


Effect = phases.Effect | Contacts | Failing | Working | Returned | Reach


@dataclass(frozen=True, slots=True)
class Happened:
    """One line of the history; ``at`` is in seconds."""

    at: float
    node: str
    what: str


class Discovery:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.phases = Phases()
        self.addresses: tuple[Address, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.refused = 0
        self.reason: str | None = NEVER
        self.checked_at: float | None = None
        self.history: deque[Happened] = deque(maxlen=MAX_HISTORY)
        self._starts: dict[NodeId, int] = {}
        self._down: dict[NodeId, tuple[int, float]] = {}
        self._out: list[Effect] = []

    @property
    def works(self) -> bool:
        """Whether the last check that ended succeeded."""
        return self.reason is None

    # --- checks --------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin with a check."""
        self.phases.start(now)

    def check(self, now: float) -> None:
        """Check now, or once more after the check that runs."""
        self.phases.check(now)

    def answered(self, run: int, answer: Any, now: float) -> None:
        """A check brought an answer, of whatever kind."""
        read = read_answer(answer)
        if read.useless:
            self.failed(run, "; ".join(read.notes), now)
        elif self.phases.ended(run, now, failed=False):
            self._take(read, now)

    def failed(self, run: int, reason: str, now: float) -> None:
        """A check failed: what was found before stays."""
        if self.phases.ended(run, now, failed=True):
            if self.reason != reason:
                self._out.append(Failing(reason))
            self.reason, self.checked_at = reason, now

    def _take(self, answer: Answer, now: float) -> None:
        if self.reason not in (None, NEVER):
            self._out.append(Working())
        self.reason, self.checked_at = None, now
        self.addresses, self.notes = answer.addresses, answer.notes
        self.refused += answer.refused
        self._out.append(Contacts(answer.addresses))

    def stop(self) -> None:
        """Look no more."""
        self.phases.stop()
        self._out.clear()

    # --- members -------------------------------------------------------------------------

    def member_event(self, event: AnyEvent, now: float) -> None:
        """Something happened to another node; events of this one are not for here."""
        match event:
            case Joined() | Alive():
                self._up(event.member, now)
            case Dead() | Left():
                self._gone(event.member, event.name, now)
            case Removed():
                self._starts.pop(event.node_id, None)
                self._down.pop(event.node_id, None)
                self._note(now, event.member.name, "removed")
            case Restarted(_, _, old):
                # Its return is told once it has proven itself: with Joined.
                if old.node_id in self._starts and old.node_id not in self._down:
                    self._down[old.node_id] = (old.generation, now)
            case Resync(view):
                self._resync(view, now)

    def _resync(self, view: Sequence[Member], now: float) -> None:
        for member in view:
            gone = member.node_id in self._down
            same = self._starts.get(member.node_id) == member.generation
            if member.alive and (gone or not same):
                self._up(member, now)
            elif not member.alive:
                self._gone(member, member.status.value, now)

    def _up(self, member: Member, now: float) -> None:
        node, start = member.node_id, member.generation
        self.phases.peer_met(now)
        down = self._down.pop(node, None)
        known = self._starts.get(node)
        self._starts[node] = start
        if down is not None or (known is not None and known != start):
            down_s = now - down[1] if down is not None else 0.0
            restarted = known != start
            self._out.append(Returned(member, down_s, restarted))
            self._note(now, member.name, "restarted" if restarted else "split healed")
        elif known is None:
            self._note(now, member.name, "up")
        else:
            return  # suspected for a moment: nobody is back
        self.phases.check(now)
        self._out.append(Reach())

    def _gone(self, member: Member, what: str, now: float) -> None:
        if member.node_id in self._starts and member.node_id not in self._down:
            self._down[member.node_id] = (member.generation, now)
            self._note(now, member.name, what)
            self.phases.node_down(now)

    def _note(self, now: float, node: str, what: str) -> None:
        self.history.append(Happened(now, node, what))

    # --- what is missing -----------------------------------------------------------------

    def missing(
        self, places: Sequence[Place], joins: Sequence[Join], name: Callable[[NodeId], str]
    ) -> tuple[str, ...]:
        """What this node waits for before it is ready, in words; nothing when it is.

        An address that is known to be unavailable is waited for no more, and a join counts
        once it succeeded, not once it was tried (DISC-4).
        """
        out = []
        if self.reason is not None:
            out.append(f"discovery does not work: {self.reason}")
        unknown = [place.name for place in places if place.standing is Standing.UNKNOWN]
        if unknown:
            out.append(f"no answer yet, and none refused, from {listed(unknown)}")
        open_joins = [join for join in joins if join.state is not JoinState.JOINED]
        return (*out, *_joins_missing(open_joins, name))

    # --- time ----------------------------------------------------------------------------

    def occasion(self, now: float) -> Occasion:
        """Why the next check is due."""
        return self.phases.occasion(now)

    def deadline(self) -> float | None:
        """When ``tick`` is wanted, in seconds, or None."""
        return self.phases.deadline()

    def tick(self, now: float) -> None:
        """Do what is due at ``now``."""
        self.phases.tick(now)

    def take_effects(self) -> list[Effect]:
        """What is to be done, in order: what was learned, then what to look for next."""
        out: list[Effect] = [*self._out, *self.phases.take_effects()]
        self._out.clear()
        return out


def listed(names: Sequence[str]) -> str:
    """Some names in one text, and how many more there are."""
    shown = ", ".join(names[:MAX_SHOWN])
    more = len(names) - MAX_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _joins_missing(joins: Sequence[Join], name: Callable[[NodeId], str]) -> list[str]:
    texts = [
        f"table {join.table} has not joined {name(join.node)}"
        + (f": {join.reason}" if join.reason else "")
        for join in joins[:MAX_SHOWN]
    ]
    more = len(joins) - MAX_SHOWN
    return [*texts, f"{more} more joins"] if more > 0 else texts

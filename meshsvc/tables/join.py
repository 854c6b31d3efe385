"""How far one table is with one other node: apart, about to be joined, joined, or waiting.

Two nodes *join* a table when they first hold it together, and again after they lost each
other: what happened meanwhile on either side is brought together, conflicts are resolved once,
and from then on each waits for the other's answer to its writes. Of each pair the node with
the lower id leads; the other follows and needs no machine.

Why it is hard: either side may vanish at any step, and both may be asked by others at once.
So nothing is merged before everything is there (``STAGING``), the lock that keeps two joins
from resolving the same conflict twice is leased, and whatever goes wrong leads to ``WAITING``,
whose end begins again from the first question. Nobody's writes are ever paused: rows carry
versions, so live writes may overtake the rows that a join brings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from automat import TypeMachineBuilder

from meshsvc.retry import Policy, Retry

STABLE_S = 30.0
"""A join that lasted this long starts a new row of waits when it is lost."""


class Phase(StrEnum):
    """Where a join is; see the module's docstring."""

    APART = "apart"
    ASKING = "asking"
    LOCKING = "locking"
    STAGING = "staging"
    COMMITTING = "committing"
    JOINED = "joined"
    WAITING = "waiting"


class Step(StrEnum):
    """What is to be done: each is one effect, and its end one input."""

    ASK = "ask"
    LOCK = "lock"
    STAGE = "stage"
    COMMIT = "commit"
    ABANDON = "abandon"
    CELEBRATE = "celebrate"
    PART = "part"


class _Join(Protocol):
    """What happens to a join."""

    def met(self, now: float) -> None:
        """Both nodes hold the table and reach each other."""

    def equal(self, now: float) -> None:
        """The copies are equal."""

    def differ(self) -> None:
        """They are not."""

    def granted(self) -> None:
        """The lock is ours."""

    def staged(self) -> None:
        """Both sides hold what they lack, unmerged."""

    def committed(self, now: float) -> None:
        """Both sides merged."""

    def failed(self, now: float) -> None:
        """A step ended otherwise: refused, busy, lost or raised."""

    def due(self, now: float) -> None:
        """The wait is over."""

    def lost(self) -> None:
        """The other node is out of reach, lives anew, or does not hold the table."""


@dataclass
class _Core:
    retry: Retry
    steps: list[Step] = field(default_factory=list)
    phase: Phase = Phase.APART
    until: float | None = None

    def enter(self, phase: Phase, *steps: Step) -> None:
        """Note a phase and what it begins with."""
        self.phase, self.until = phase, None
        self.steps += steps


def _ask(machine: _Join, core: _Core, now: float) -> None:
    core.retry.start(now)
    core.enter(Phase.ASKING, Step.ASK)


def _ask_again(machine: _Join, core: _Core, now: float) -> None:
    due_at = core.retry.deadline()
    core.retry.tick(now if due_at is None else max(now, due_at))
    core.enter(Phase.ASKING, Step.ASK)


def _lock(machine: _Join, core: _Core) -> None:
    core.enter(Phase.LOCKING, Step.LOCK)


def _stage(machine: _Join, core: _Core) -> None:
    core.enter(Phase.STAGING, Step.STAGE)


def _commit(machine: _Join, core: _Core) -> None:
    core.enter(Phase.COMMITTING, Step.COMMIT)


def _celebrate(machine: _Join, core: _Core, now: float) -> None:
    core.retry.succeeded(now)
    core.enter(Phase.JOINED, Step.CELEBRATE)


def _wait(machine: _Join, core: _Core, now: float) -> None:
    core.retry.failed(now)
    core.enter(Phase.WAITING, Step.ABANDON)
    core.until = core.retry.deadline()


def _part(machine: _Join, core: _Core) -> None:
    core.retry.stop()
    core.enter(Phase.APART, Step.PART)


def _abandon(machine: _Join, core: _Core) -> None:
    core.retry.stop()
    core.enter(Phase.APART, Step.ABANDON)


def _build_join() -> Callable[[_Core], _Join]:
    builder = TypeMachineBuilder(_Join, _Core)
    apart = builder.state("apart")
    asking = builder.state("asking")
    locking = builder.state("locking")
    staging = builder.state("staging")
    committing = builder.state("committing")
    joined = builder.state("joined")
    waiting = builder.state("waiting")
    everywhere = (apart, asking, locking, staging, committing, joined, waiting)

    # They meet again and again; what is under way goes on.
    for state in (asking, locking, staging, committing, joined, waiting):
        state.upon(_Join.met).loop().returns(None)
    # How a step ended that was abandoned meanwhile is news to nobody.
    for state in everywhere:
        if state is not asking:
            state.upon(_Join.equal).loop().returns(None)
            state.upon(_Join.differ).loop().returns(None)
        if state is not locking:
            state.upon(_Join.granted).loop().returns(None)
        if state is not staging:
            state.upon(_Join.staged).loop().returns(None)
        if state is not committing:
            state.upon(_Join.committed).loop().returns(None)
        if state not in (asking, locking, staging, committing):
            state.upon(_Join.failed).loop().returns(None)
        if state is not waiting:
            state.upon(_Join.due).loop().returns(None)
    # Lost before it was met.
    apart.upon(_Join.lost).loop().returns(None)

    apart.upon(_Join.met).to(asking)(_ask)
    waiting.upon(_Join.due).to(asking)(_ask_again)
    asking.upon(_Join.equal).to(joined)(_celebrate)
    asking.upon(_Join.differ).to(locking)(_lock)
    locking.upon(_Join.granted).to(staging)(_stage)
    staging.upon(_Join.staged).to(committing)(_commit)
    committing.upon(_Join.committed).to(joined)(_celebrate)
    for state in (asking, locking, staging, committing):
        state.upon(_Join.failed).to(waiting)(_wait)
        state.upon(_Join.lost).to(apart)(_abandon)
    waiting.upon(_Join.lost).to(apart)(_abandon)
    joined.upon(_Join.lost).to(apart)(_part)
    return builder.build()


JoinMachine = _build_join()


class Join:
    """The face of ``JoinMachine`` for one table and one other node."""

    def __init__(self, policy: Policy) -> None:
        self._core = _Core(Retry(policy, None, STABLE_S))
        self._machine = JoinMachine(self._core)
        self.why = ""
        self.since = 0.0
        self.moved = self.of = 0

    @property
    def has_steps(self) -> bool:
        """Whether something is to be done."""
        return bool(self._core.steps)

    @property
    def phase(self) -> Phase:
        """Where it is."""
        return self._core.phase

    @property
    def tries(self) -> int:
        """Failures in a row."""
        return self._core.retry.failures

    def met(self, now: float) -> None:
        """Both nodes hold the table and reach each other."""
        self._machine.met(now)

    def equal(self, now: float) -> None:
        """The copies are equal."""
        self.why = ""
        self._machine.equal(now)

    def differ(self) -> None:
        """They are not."""
        self._machine.differ()

    def granted(self) -> None:
        """The lock is ours."""
        self._machine.granted()

    def staged(self) -> None:
        """Both sides hold what they lack."""
        self._machine.staged()

    def begun(self, rows: int) -> None:
        """About so many rows are looked at in this try; ``moved`` of them so far."""
        self.moved, self.of = 0, rows

    def committed(self, now: float) -> None:
        """Both sides merged."""
        self.why = ""
        self._machine.committed(now)

    def failed(self, why: str, now: float) -> None:
        """A step ended otherwise."""
        self.why = why
        self._machine.failed(now)

    def lost(self, why: str) -> None:
        """The other node is out of reach."""
        self.why = why
        self._machine.lost()

    def deadline(self) -> float | None:
        """When ``tick`` is wanted, in seconds, or None."""
        return self._core.until

    def tick(self, now: float) -> None:
        """Begin again when the wait is over."""
        if self._core.until is not None and now >= self._core.until:
            self._machine.due(now)

    def hurry(self, now: float) -> None:
        """Wait no longer: somebody has a reason to think that it works now."""
        if self._core.until is not None:
            self._core.until = now

    def take_steps(self) -> list[Step]:
        """What is to be done, in order."""
        steps, self._core.steps = self._core.steps, []
        return steps

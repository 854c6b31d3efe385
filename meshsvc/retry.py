"""When to try again: one small machine, and policies that are pure functions.

A policy maps the number of failures in a row (from 1) to seconds. Randomness is an argument,
so that a seeded run repeats. The machine counts failures, forgets them once a run has proven
stable, and gives up after a configured number; it holds no timer, it says when one is due.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from automat import TypeMachineBuilder

Policy = Callable[[int], float]
"""Failures in a row (from 1) to seconds until the next attempt."""


def fixed(delay_s: float) -> Policy:
    """The same delay after every failure."""
    return lambda attempt: delay_s


def exponential(
    initial_s: float, factor: float, cap_s: float, jitter: Callable[[], float]
) -> Policy:
    """``initial_s``, multiplied by ``factor`` for each further failure, at most ``cap_s``.

    ``jitter`` answers numbers in [0, 1); the delay lies between half the value and all of
    it, so that those who failed together do not come back together.
    """

    def policy(attempt: int) -> float:
        # 64 doublings exceed any cap; the bound keeps the power from overflowing.
        delay = min(cap_s, initial_s * factor ** min(attempt - 1, 64))
        return delay / 2 + delay / 2 * jitter()

    return policy


class Occasion(Enum):
    """Why discovery looks again; the value is the delay in seconds."""

    AFTER_ERROR = 1.0
    INITIAL = 5.0
    AFTER_NODEDOWN = 30.0
    REGULAR = 300.0


def occasion(*, failed: bool, initial: bool, node_down: bool) -> Occasion:
    """The occasion that takes precedence: an error, then the first phase, then a lost node."""
    if failed:
        return Occasion.AFTER_ERROR
    if initial:
        return Occasion.INITIAL
    return Occasion.AFTER_NODEDOWN if node_down else Occasion.REGULAR


def four_way(kind: Callable[[], Occasion]) -> Policy:
    """The delay of the occasion that ``kind`` names at the time of asking (as CETS does)."""
    return lambda attempt: kind().value


class _Retry(Protocol):
    """What happens to the thing that is tried."""

    def start(self, now: float) -> None:
        """Somebody wants it to run."""

    def succeeded(self, now: float) -> None:
        """The run reached what it was started for."""

    def failed(self, now: float) -> None:
        """The run ended, before or after it succeeded."""

    def due(self) -> None:
        """The wait is over."""

    def stop(self) -> None:
        """Nobody wants it to run any more."""

    def _gave_up(self) -> None:
        """The failure just counted was one too many."""


@dataclass
class _Core:
    policy: Policy
    max_attempts: int | None
    stable_after_s: float
    failures: int = 0
    succeeded_at: float | None = None
    due_at: float | None = None
    exhausted: bool = False

    def in_a_row(self, now: float) -> int:
        """How many failures there are in a row with one at ``now``."""
        good = self.succeeded_at
        stable = good is not None and now - good >= self.stable_after_s
        return 1 if stable else self.failures + 1

    def count_failure(self, now: float) -> None:
        """Note a failure and when the next attempt is due."""
        self.failures = self.in_a_row(now)
        self.succeeded_at = None
        self.due_at = now + self.policy(self.failures)

    def forget(self) -> None:
        """Back to how it was made."""
        self.failures = 0
        self.succeeded_at = self.due_at = None
        self.exhausted = False


def _build_retry() -> Callable[[_Core], _Retry]:
    builder = TypeMachineBuilder(_Retry, _Core)
    idle = builder.state("idle")
    running = builder.state("running")
    waiting = builder.state("waiting")
    exhausted = builder.state("exhausted")

    idle.upon(_Retry.start).to(running).returns(None)
    waiting.upon(_Retry.due).to(running).returns(None)

    # A second start changes nothing: the run is on, or its wait is there for a reason.
    running.upon(_Retry.start).loop().returns(None)
    waiting.upon(_Retry.start).loop().returns(None)
    # Giving up is undone by stop and start, so that somebody decided it.
    exhausted.upon(_Retry.start).loop().returns(None)

    # The end of a run that was stopped meanwhile, told late, is news to nobody.
    for state in (idle, waiting, exhausted):
        state.upon(_Retry.succeeded).loop().returns(None)
        state.upon(_Retry.failed).loop().returns(None)
        state.upon(_Retry._gave_up).loop().returns(None)
    # A timer that fired just before it was cancelled.
    for state in (idle, running, exhausted):
        state.upon(_Retry.due).loop().returns(None)

    @running.upon(_Retry.succeeded).loop()
    def note_success(machine: _Retry, core: _Core, now: float) -> None:
        core.succeeded_at = now

    @running.upon(_Retry.failed).to(waiting)
    def wait(machine: _Retry, core: _Core, now: float) -> None:
        core.count_failure(now)

    @running.upon(_Retry._gave_up).to(exhausted)
    def give_up(machine: _Retry, core: _Core) -> None:
        core.due_at = None
        core.exhausted = True

    @idle.upon(_Retry.stop).to(idle)
    @running.upon(_Retry.stop).to(idle)
    @waiting.upon(_Retry.stop).to(idle)
    @exhausted.upon(_Retry.stop).to(idle)
    def forget(machine: _Retry, core: _Core) -> None:
        core.forget()

    return builder.build()


RetryMachine = _build_retry()


class Retry:
    """The face of ``RetryMachine``: tell it what happened, ask it when to run again.

    Args:
        policy: failures in a row to seconds.
        max_attempts: how many failures in a row are followed by another attempt; None for
            no end. The one after that leaves it ``exhausted``, until ``stop``.
        stable_after_s: a run that lived this long after ``succeeded`` starts a new row.
    """

    def __init__(
        self, policy: Policy, max_attempts: int | None = None, stable_after_s: float = 60.0
    ) -> None:
        self._core = _Core(policy, max_attempts, stable_after_s)
        self._machine = RetryMachine(self._core)

    @property
    def failures(self) -> int:
        """Failures in a row."""
        return self._core.failures

    @property
    def exhausted(self) -> bool:
        """Whether it gave up."""
        return self._core.exhausted

    def start(self, now: float) -> None:
        """Begin; the caller runs at once, a wait that is under way goes on."""
        self._machine.start(now)

    def succeeded(self, now: float) -> None:
        """The run reached what it was started for."""
        self._machine.succeeded(now)

    def failed(self, now: float) -> None:
        """The run ended: ``deadline`` is when the next is due, or it is ``exhausted``."""
        limit = self._core.max_attempts
        if limit is not None and self._core.in_a_row(now) > limit:
            self._machine._gave_up()
        else:
            self._machine.failed(now)

    def hasten(self, at: float) -> None:
        """Let a wait that is under way end at ``at``, unless it ends sooner anyway."""
        if self._core.due_at is not None:
            self._core.due_at = min(self._core.due_at, at)

    def stop(self) -> None:
        """No more attempts; failures are forgotten."""
        self._machine.stop()

    def deadline(self) -> float | None:
        """When ``tick`` will say to run, or None while nothing is waited for."""
        return self._core.due_at

    def tick(self, now: float) -> bool:
        """Whether to run now; true once for each wait."""
        due_at = self._core.due_at
        if due_at is None or now < due_at:
            return False
        self._core.due_at = None
        self._machine.due()
        return True

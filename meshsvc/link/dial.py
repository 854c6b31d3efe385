"""Keeps a link to one target: dials, waits after failures, and leaves a live link alone.

A link that is up serves the target whoever dialed it, so of two nodes that dial each other
neither goes on dialing when one link is left (LINK-6). A refusal that cannot heal by itself
is followed by a long wait (LINK-2), other failures by short, growing ones, and the loss of a
link that lived long by a dial at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from automat import TypeMachineBuilder

from meshsvc.retry import Policy, Retry

STABLE_AFTER_S = 60.0
"""A link that lived this long was good: its loss is answered by a dial at once."""

LONG_WAIT_S = 60.0
"""After a refusal that only a person can undo; they will not mind a minute."""

DUPLICATE_WAIT_S = 1.0
"""The peer says there is a link. Its Confirm is on the way, or it has yet to notice that the
link is dead, which takes it 5 s at most."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Begin a dial now."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """Give up the dial that is under way."""


Effect = Connect | Abandon


class _Dial(Protocol):
    """What happens to the target and to the dials to it."""

    def keep(self, now: float) -> None:
        """A link to the target is wanted."""

    def linked(self, now: float) -> None:
        """A link to the target is up, whoever dialed it."""

    def failed(self, now: float) -> None:
        """The dial under way came to nothing."""

    def refused(self, now: float) -> None:
        """The dial under way was refused for a reason that lasts."""

    def duplicate(self, now: float) -> None:
        """The dial under way was refused because there is a link already."""

    def link_lost(self, now: float) -> None:
        """The last link to the target is gone."""

    def due(self, now: float) -> None:
        """The wait is over."""

    def forget(self) -> None:
        """No link to the target is wanted any more."""

    def _old_link_lost(self, now: float) -> None:
        """As ``link_lost``, of a link that had lived long."""

    def _link_barred(self, now: float) -> None:
        """As ``link_lost``, for a reason that lasts."""


@dataclass
class _Core:
    retry: Retry
    effects: list[Effect] = field(default_factory=list)
    linked_at: float = 0.0
    until: float | None = None

    def run(self, now: float) -> None:
        """A run of the retry is on, whether it was due or came early."""
        self.until = None
        due_at = self.retry.deadline()
        if due_at is None:
            self.retry.start(now)
        else:
            self.retry.tick(max(now, due_at))

    def connect(self, now: float) -> None:
        """Begin a dial."""
        self.run(now)
        self.effects.append(Connect())

    def back_off(self, now: float, at_least_s: float = 0.0) -> None:
        """Count a failure and wait as the policy says, or longer."""
        self.retry.failed(now)
        policy_until = self.retry.deadline()
        self.until = max(now + at_least_s, policy_until if policy_until is not None else now)


def _dial_afresh(machine: _Dial, core: _Core, now: float) -> None:
    core.retry.stop()
    core.connect(now)


def _dial_again(machine: _Dial, core: _Core, now: float) -> None:
    core.connect(now)


def _rest(machine: _Dial, core: _Core, now: float) -> None:
    core.linked_at = now
    core.run(now)
    core.retry.succeeded(now)


def _wait(machine: _Dial, core: _Core, now: float) -> None:
    core.back_off(now)


def _wait_long(machine: _Dial, core: _Core, now: float) -> None:
    core.back_off(now, LONG_WAIT_S)


def _wait_for_the_other(machine: _Dial, core: _Core, now: float) -> None:
    core.until = now + DUPLICATE_WAIT_S


def _stop(machine: _Dial, core: _Core) -> None:
    core.until = None
    core.retry.stop()


def _abandon(machine: _Dial, core: _Core) -> None:
    _stop(machine, core)
    core.effects.append(Abandon())


def _build_dial() -> Callable[[_Core], _Dial]:
    builder = TypeMachineBuilder(_Dial, _Core)
    idle = builder.state("idle")
    dialing = builder.state("dialing")
    up = builder.state("up")
    waiting = builder.state("waiting")
    stopped = builder.state("stopped")

    # Wanting what is wanted already.
    for state in (dialing, up, waiting):
        state.upon(_Dial.keep).loop().returns(None)
    # How a dial ended that was abandoned, or that another link made needless.
    for state in (idle, up, waiting, stopped):
        state.upon(_Dial.failed).loop().returns(None)
        state.upon(_Dial.refused).loop().returns(None)
        state.upon(_Dial.duplicate).loop().returns(None)
    # Another link to the same node went; this target did not count on it.
    for state in (idle, dialing, waiting, stopped):
        state.upon(_Dial.link_lost).loop().returns(None)
        state.upon(_Dial._old_link_lost).loop().returns(None)
        state.upon(_Dial._link_barred).loop().returns(None)
    # A timer that fired just before it was cancelled.
    for state in (idle, dialing, up, stopped):
        state.upon(_Dial.due).loop().returns(None)
    # A link nobody wants is not ours to judge, and a second one changes nothing.
    stopped.upon(_Dial.linked).loop().returns(None)
    up.upon(_Dial.linked).loop().returns(None)
    # Forgotten twice.
    stopped.upon(_Dial.forget).loop().returns(None)

    idle.upon(_Dial.keep).to(dialing)(_dial_afresh)
    stopped.upon(_Dial.keep).to(dialing)(_dial_afresh)
    waiting.upon(_Dial.due).to(dialing)(_dial_again)
    for state in (idle, dialing, waiting):
        state.upon(_Dial.linked).to(up)(_rest)
    dialing.upon(_Dial.failed).to(waiting)(_wait)
    dialing.upon(_Dial.refused).to(waiting)(_wait_long)
    dialing.upon(_Dial.duplicate).to(waiting)(_wait_for_the_other)
    up.upon(_Dial.link_lost).to(waiting)(_wait)
    up.upon(_Dial._old_link_lost).to(dialing)(_dial_afresh)
    up.upon(_Dial._link_barred).to(waiting)(_wait_long)
    for state in (idle, up, waiting):
        state.upon(_Dial.forget).to(stopped)(_stop)
    dialing.upon(_Dial.forget).to(stopped)(_abandon)
    return builder.build()


DialMachine = _build_dial()


class Dial:
    """The face of ``DialMachine`` for one target."""

    def __init__(self, policy: Policy) -> None:
        self._core = _Core(Retry(policy, None, STABLE_AFTER_S))
        self._machine = DialMachine(self._core)

    def keep(self, now: float) -> None:
        """A link is wanted from here on."""
        self._machine.keep(now)

    def linked(self, now: float) -> None:
        """A link to the target is up, whoever dialed it."""
        self._machine.linked(now)

    def failed(self, now: float) -> None:
        """The dial came to nothing."""
        self._machine.failed(now)

    def refused(self, now: float) -> None:
        """The dial was refused for a reason that lasts."""
        self._machine.refused(now)

    def duplicate(self, now: float) -> None:
        """The dial was refused because there is a link."""
        self._machine.duplicate(now)

    def link_lost(self, now: float, *, heals: bool = True) -> None:
        """The last link to the target is gone, for a reason that heals or that lasts."""
        if not heals:
            self._machine._link_barred(now)
        elif now - self._core.linked_at > STABLE_AFTER_S:
            self._machine._old_link_lost(now)
        else:
            self._machine.link_lost(now)

    def forget(self) -> None:
        """No link is wanted any more."""
        self._machine.forget()

    def deadline(self) -> float | None:
        """When ``tick`` is wanted, in seconds, or None."""
        return self._core.until

    def tick(self, now: float) -> None:
        """Dial when the wait is over."""
        if self._core.until is not None and now >= self._core.until:
            self._core.until = None
            self._machine.due(now)

    def take_effects(self) -> list[Effect]:
        """What is to be done, in order."""
        effects, self._core.effects = self._core.effects, []
        return effects

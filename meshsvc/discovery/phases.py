"""When discovery looks for peers: its two phases, its checks, and the waits between them.

Rules, after CETS' discovery and its known races:

* a check that is asked for while one runs causes exactly one more, at once after it, however
  often it was asked. The wish is a state of the machine, not a message in a queue, so that
  no timer that is armed in between can take it along;
* the wait after a check is chosen when the check ends: 1 s after an error, else 5 s in the
  first phase, else 30 s when a node went down within the last 30 s, else 5 min;
* a node that goes down shortens a wait that is armed already: nothing is looked for later
  than 30 s after a loss, whatever was decided before it;
* the first phase is over after 5 min, or once a running peer was met.

Time is an argument, in seconds. Effects come out of ``take_effects``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from automat import TypeMachineBuilder

from meshsvc.retry import Occasion, Retry, four_way, occasion

FIRST_PHASE_S = 300.0
"""By then a cluster that starts has started; as in CETS."""

NODE_DOWN_S = Occasion.AFTER_NODEDOWN.value
"""How long a loss counts as recent: one look at where a replacement may be."""


@dataclass(frozen=True, slots=True)
class Check:
    """Ask the backend now; report the end of this ``run`` with ``ended``."""

    run: int


@dataclass(frozen=True, slots=True)
class Settled:
    """No check runs, and none follows at once."""


Effect = Check | Settled


class _Discovery(Protocol):
    """What happens to discovery."""

    def start(self, now: float) -> None:
        """Begin: the first check is due at once."""

    def check(self, now: float) -> None:
        """Somebody wants to know what the backend says now."""

    def ended(self, now: float) -> None:
        """The check under way ended, well or not."""

    def due(self, now: float) -> None:
        """The wait between two checks is over."""

    def node_down(self, now: float) -> None:
        """A node that was there is gone."""

    def settle(self, now: float) -> None:
        """The cluster is past its start."""

    def stop(self) -> None:
        """Look no more."""


@dataclass
class _Core:
    retry: Retry = field(init=False)
    effects: list[Effect] = field(default_factory=list)
    run: int = 0
    now: float = 0.0
    checking: bool = False
    initial: bool = True
    failed: bool = False
    down_at: float | None = None

    def __post_init__(self) -> None:
        self.retry = Retry(four_way(self.kind))

    def kind(self) -> Occasion:
        """Why the next check is due, if a wait began now."""
        recent = self.down_at is not None and self.now - self.down_at < NODE_DOWN_S
        return occasion(failed=self.failed, initial=self.initial, node_down=recent)

    def begin(self, now: float) -> None:
        """A check runs from here on, whether its wait was over or not."""
        self.retry.start(now)
        self.retry.hasten(now)
        self.retry.tick(now)
        self.run += 1
        self.checking = True
        self.effects.append(Check(self.run))

    def end(self, now: float) -> None:
        """The check is over; a wait begins."""
        self.now = now
        if not self.failed:
            self.retry.succeeded(now)
        self.retry.failed(now)

    def forget(self) -> None:
        """Nothing is waited for, and the end of a check under way is news to nobody."""
        self.retry.stop()
        self.effects.clear()
        self.checking, self.initial, self.failed, self.down_at = False, True, False, None


def _begin(machine: _Discovery, core: _Core, now: float) -> None:
    core.begin(now)


def _rest(machine: _Discovery, core: _Core, now: float) -> None:
    core.end(now)
    core.checking = False
    core.effects.append(Settled())


def _again(machine: _Discovery, core: _Core, now: float) -> None:
    core.end(now)
    core.begin(now)


def _note_loss(machine: _Discovery, core: _Core, now: float) -> None:
    core.down_at = now


def _hasten(machine: _Discovery, core: _Core, now: float) -> None:
    core.down_at = now
    core.retry.hasten(now + NODE_DOWN_S)


def _settle(machine: _Discovery, core: _Core, now: float) -> None:
    core.initial = False


def _forget(machine: _Discovery, core: _Core) -> None:
    core.forget()


def _build_discovery() -> Callable[[_Core], _Discovery]:
    builder = TypeMachineBuilder(_Discovery, _Core)
    off = builder.state("off")
    initial_idle = builder.state("initial, idle")
    initial_running = builder.state("initial, running")
    initial_again = builder.state("initial, running, and once more after it")
    regular_idle = builder.state("regular, idle")
    regular_running = builder.state("regular, running")
    regular_again = builder.state("regular, running, and once more after it")
    phases = (
        (initial_idle, initial_running, initial_again),
        (regular_idle, regular_running, regular_again),
    )
    everywhere = (off, *phases[0], *phases[1])

    off.upon(_Discovery.start).to(initial_running)(_begin)
    # Whatever is told before the start or after the stop is told again by the next start.
    for ignored in (_Discovery.check, _Discovery.ended, _Discovery.due, _Discovery.node_down):
        off.upon(ignored).loop().returns(None)
    off.upon(_Discovery.settle).loop().returns(None)
    for state in everywhere[1:]:
        # A second start changes nothing.
        state.upon(_Discovery.start).loop().returns(None)
    for state in everywhere:
        state.upon(_Discovery.stop).to(off)(_forget)

    for idle, running, again in phases:
        idle.upon(_Discovery.check).to(running)(_begin)
        idle.upon(_Discovery.due).to(running)(_begin)
        idle.upon(_Discovery.node_down).loop()(_hasten)
        # The end of a check that was ended already.
        idle.upon(_Discovery.ended).loop().returns(None)
        running.upon(_Discovery.check).to(again).returns(None)
        running.upon(_Discovery.ended).to(idle)(_rest)
        again.upon(_Discovery.check).loop().returns(None)
        again.upon(_Discovery.ended).to(running)(_again)
        for state in (running, again):
            state.upon(_Discovery.node_down).loop()(_note_loss)
            # A timer that fired just before it was cancelled.
            state.upon(_Discovery.due).loop().returns(None)

    for before, after in zip(*phases, strict=True):
        before.upon(_Discovery.settle).to(after)(_settle)
        # It is past its start already.
        after.upon(_Discovery.settle).loop().returns(None)
    return builder.build()


DiscoveryMachine = _build_discovery()


class Phases:
    """The face of ``DiscoveryMachine``: told what happens, it says when to check."""

    def __init__(self) -> None:
        self._core = _Core()
        self._machine = DiscoveryMachine(self._core)
        self._first_phase_until = 0.0

    @property
    def initial(self) -> bool:
        """Whether the cluster counts as starting."""
        return self._core.initial

    @property
    def checking(self) -> bool:
        """Whether a check runs, or one follows at once."""
        return self._core.checking

    @property
    def run(self) -> int:
        """The number of the check under way, or of the last one."""
        return self._core.run

    @property
    def started(self) -> bool:
        """Whether it was started and not stopped since."""
        return self.checking or self._core.retry.deadline() is not None

    def occasion(self, now: float) -> Occasion:
        """Why the next check is due, if a wait began now."""
        self._core.now = now
        return self._core.kind()

    def start(self, now: float) -> None:
        """Begin with a check."""
        if not self.started:
            self._first_phase_until = now + FIRST_PHASE_S
        self._machine.start(now)

    def check(self, now: float) -> None:
        """Check now, or once more when a check runs."""
        self._machine.check(now)

    def ended(self, run: int, now: float, *, failed: bool) -> bool:
        """A check ended; False when that is news of an earlier one, and changed nothing."""
        if run != self._core.run or not self._core.checking:
            return False
        self._core.failed = failed
        self._machine.ended(now)
        return True

    def node_down(self, now: float) -> None:
        """A node that was there is gone."""
        self._machine.node_down(now)

    def peer_met(self, now: float) -> None:
        """A running peer answered: the first phase is over."""
        self._machine.settle(now)

    def stop(self) -> None:
        """Look no more, until ``start``."""
        self._machine.stop()

    def due(self) -> float | None:
        """When the next check is due, in seconds; None while one runs."""
        return self._core.retry.deadline()

    def deadline(self) -> float | None:
        """When ``tick`` is wanted, in seconds, or None."""
        due_at = self._core.retry.deadline()
        if not (self.initial and self.started):
            return due_at
        until = self._first_phase_until
        return until if due_at is None else min(due_at, until)

    def tick(self, now: float) -> None:
        """Do what is due at ``now``."""
        if self.started and self.initial and now >= self._first_phase_until:
            self._machine.settle(now)
        due_at = self._core.retry.deadline()
        if due_at is not None and now >= due_at:
            self._machine.due(now)

    def take_effects(self) -> list[Effect]:
        """What is to be done, in order."""
        effects, self._core.effects = self._core.effects, []
        return effects

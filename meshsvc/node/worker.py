"""The life of one shard's processes, as the supervisor sees it.

A process is started, says that it is ready, ends, and is started again, with a pause that
grows, until it ends too often. Meanwhile it may fall silent (killed, then restarted) or be
told to stop (drained, killed when that takes too long, not restarted). The machine decides;
spawning, killing and timing are effects that its owner carries out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from automat import TypeMachineBuilder, pep614

from meshsvc.model import Incarnation, ShardId
from meshsvc.node.intensity import RestartIntensity

START_S = 30.0
"""Until a shard must be ready: importing applications takes seconds on a busy machine."""


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a process; it is this incarnation of the shard."""

    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class SendDrain:
    """Tell the process to stop within this many seconds."""

    budget_s: float


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL the process; ``why`` is for the log."""

    why: str


@dataclass(frozen=True, slots=True)
class GaveUp:
    """The shard ended too often; ``text`` says how often and how the last time."""

    text: str


Effect = Spawn | SendDrain | Kill | GaveUp


class _Worker(Protocol):
    """What happens to a shard's process; ``now`` is in seconds."""

    def start(self, now: float) -> None:
        """The node starts its shards."""

    def ready(self, now: float) -> None:
        """The process serves."""

    def silent(self, now: float) -> None:
        """The process did not beat for too long."""

    def exited(self, now: float, cause: str) -> None:
        """The process is gone, or could not be started."""

    def due(self, now: float) -> None:
        """The time that this state may take is over."""

    def drain(self, now: float, until: float) -> None:
        """The node stops; the process has until then."""

    def kill(self, now: float) -> None:
        """The node stops at once."""

    def _gave_up(self, cause: str) -> None:
        """That end was one too many."""


@dataclass
class _Core:
    shard: ShardId
    intensity: RestartIntensity
    start_s: float = START_S
    incarnation: Incarnation = field(default=Incarnation(0))
    cause: str = ""
    wedged: bool = False
    deadline: float | None = None
    state: str = "idle"
    effects: list[Effect] = field(default_factory=list)

    def enter(self, state: str, deadline: float | None = None) -> None:
        self.state = state
        self.deadline = deadline


class _States:
    """The states by name, so that the table below can be cut into parts that fit a screen."""

    def __init__(self, builder: TypeMachineBuilder[_Worker, _Core]) -> None:
        self.idle = builder.state("idle")
        self.starting = builder.state("starting")
        self.running = builder.state("running")
        self.killed = builder.state("killed")  # to be restarted
        self.waiting = builder.state("waiting")
        self.draining = builder.state("draining")
        self.ending = builder.state("ending")  # killed, not to be restarted
        self.stopped = builder.state("stopped")
        self.failed = builder.state("failed")
        self.over = (self.idle, self.stopped, self.failed)
        self.begun = (
            *(self.starting, self.running, self.killed, self.waiting),
            *(self.draining, self.ending, self.stopped, self.failed),
        )


def _build_worker() -> Callable[[_Core], _Worker]:
    builder = TypeMachineBuilder(_Worker, _Core)
    states = _States(builder)
    _pass_over(states)
    _begin_and_restart(states)
    _kill_and_restart(states)
    _stop(states)
    return builder.build()


def _pass_over(s: _States) -> None:
    # A shard is started once; what follows is the machine's own affair.
    for state in s.begun:
        state.upon(_Worker.start).loop().returns(None)
    # Said twice, or said by a process that is being ended: it changes nothing.
    for state in (s.running, s.killed, s.draining, s.ending):
        state.upon(_Worker.ready).loop().returns(None)
    # A draining shard may stop beating before it exits: its deadline watches it.
    for state in (s.killed, s.draining, s.ending):
        state.upon(_Worker.silent).loop().returns(None)
    # Without a process there is nothing to be heard of one; a late word is dropped.
    for state in (s.waiting, *s.over):
        state.upon(_Worker.ready).loop().returns(None)
        state.upon(_Worker.silent).loop().returns(None)
        state.upon(_Worker.exited).loop().returns(None)
    # No time limit: SIGKILL needs none, the others wait for events.
    for state in (s.running, s.killed, s.ending, *s.over):
        state.upon(_Worker.due).loop().returns(None)
    # It is being ended already, or has.
    for state in (s.ending, s.stopped, s.failed):
        state.upon(_Worker.drain).loop().returns(None)
        state.upon(_Worker.kill).loop().returns(None)
    # The first drain set the deadline; a later one does not extend it.
    s.draining.upon(_Worker.drain).loop().returns(None)
    # Only counting an end, which leads to waiting, can tell that it was one too many.
    for state in (s.idle, *s.begun):
        if state is not s.waiting:
            state.upon(_Worker._gave_up).loop().returns(None)


def _begin_and_restart(s: _States) -> None:
    @pep614(s.idle.upon(_Worker.start).to(s.starting))
    @pep614(s.waiting.upon(_Worker.due).to(s.starting))
    def spawn(machine: _Worker, core: _Core, now: float) -> None:
        core.incarnation = Incarnation(core.incarnation + 1)
        core.enter("starting", now + core.start_s)
        core.effects.append(Spawn(core.incarnation))

    @pep614(s.starting.upon(_Worker.ready).to(s.running))
    def serve(machine: _Worker, core: _Core, now: float) -> None:
        core.enter("running")

    @pep614(s.starting.upon(_Worker.exited).to(s.waiting))
    @pep614(s.running.upon(_Worker.exited).to(s.waiting))
    @pep614(s.killed.upon(_Worker.exited).to(s.waiting))
    def back_off(machine: _Worker, core: _Core, now: float, cause: str) -> None:
        core.cause = cause
        pause = core.intensity.ended(now)
        core.enter("waiting", None if pause is None else now + pause)
        if pause is None:
            machine._gave_up(cause)

    @pep614(s.waiting.upon(_Worker._gave_up).to(s.failed))
    def give_up(machine: _Worker, core: _Core, cause: str) -> None:
        core.enter("failed")
        most, window_s = core.intensity.most, core.intensity.window_s
        text = f"shard {core.shard} ended more than {most} times in {window_s:g} s, last: {cause}"
        core.effects.append(GaveUp(text))


def _kill_and_restart(s: _States) -> None:
    @pep614(s.starting.upon(_Worker.due).to(s.killed))
    def kill_late(machine: _Worker, core: _Core, now: float) -> None:
        core.enter("killed")
        core.effects.append(Kill(f"not ready within {core.start_s:g} s"))

    @pep614(s.starting.upon(_Worker.silent).to(s.killed))
    @pep614(s.running.upon(_Worker.silent).to(s.killed))
    def kill_silent(machine: _Worker, core: _Core, now: float) -> None:
        core.enter("killed")
        core.effects.append(Kill("no heartbeat"))


def _stop(s: _States) -> None:
    @pep614(s.starting.upon(_Worker.drain).to(s.draining))
    @pep614(s.running.upon(_Worker.drain).to(s.draining))
    def drain(machine: _Worker, core: _Core, now: float, until: float) -> None:
        core.enter("draining", until)
        core.effects.append(SendDrain(max(0.0, until - now)))

    @pep614(s.draining.upon(_Worker.due).to(s.ending))
    def kill_wedged(machine: _Worker, core: _Core, now: float) -> None:
        core.wedged = True
        core.enter("ending")
        core.effects.append(Kill("did not stop within its budget"))

    @pep614(s.starting.upon(_Worker.kill).to(s.ending))
    @pep614(s.running.upon(_Worker.kill).to(s.ending))
    @pep614(s.draining.upon(_Worker.kill).to(s.ending))
    def kill_now(machine: _Worker, core: _Core, now: float) -> None:
        core.enter("ending")
        core.effects.append(Kill("the node stops at once"))

    @pep614(s.killed.upon(_Worker.drain).to(s.ending))
    def await_end(machine: _Worker, core: _Core, now: float, until: float) -> None:
        core.enter("ending")

    @pep614(s.killed.upon(_Worker.kill).to(s.ending))
    def await_end_now(machine: _Worker, core: _Core, now: float) -> None:
        core.enter("ending")

    @pep614(s.draining.upon(_Worker.exited).to(s.stopped))
    @pep614(s.ending.upon(_Worker.exited).to(s.stopped))
    def stop(machine: _Worker, core: _Core, now: float, cause: str) -> None:
        core.cause = cause
        core.enter("stopped")

    @pep614(s.idle.upon(_Worker.drain).to(s.stopped))
    @pep614(s.waiting.upon(_Worker.drain).to(s.stopped))
    def stop_unstarted(machine: _Worker, core: _Core, now: float, until: float) -> None:
        core.enter("stopped")

    @pep614(s.idle.upon(_Worker.kill).to(s.stopped))
    @pep614(s.waiting.upon(_Worker.kill).to(s.stopped))
    def stop_at_once(machine: _Worker, core: _Core, now: float) -> None:
        core.enter("stopped")


WorkerMachine = _build_worker()


class Worker:
    """One shard over all its lives: feed it what happens, carry out ``take_effects``."""

    def __init__(
        self, shard: ShardId, intensity: RestartIntensity, start_s: float = START_S
    ) -> None:
        self._core = _Core(shard, intensity, start_s)
        self._machine = WorkerMachine(self._core)
        self.start = self._machine.start
        self.ready = self._machine.ready
        self.silent = self._machine.silent
        self.exited = self._machine.exited
        self.drain = self._machine.drain
        self.kill = self._machine.kill

    @property
    def shard(self) -> ShardId:
        """Which shard this is."""
        return self._core.shard

    @property
    def state(self) -> str:
        """The machine's state, for people."""
        return self._core.state

    @property
    def over(self) -> bool:
        """Whether no process runs and none will be started."""
        return self._core.state in ("idle", "stopped", "failed")

    @property
    def incarnation(self) -> Incarnation:
        """The life that runs or ran last; 0 before the first."""
        return self._core.incarnation

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return max(0, self._core.incarnation - 1)

    @property
    def cause(self) -> str:
        """How the last process ended."""
        return self._core.cause

    @property
    def wedged(self) -> bool:
        """Whether it had to be killed because it did not stop in time."""
        return self._core.wedged

    def deadline(self) -> float | None:
        """When ``tick`` is next wanted."""
        return self._core.deadline

    def tick(self, now: float) -> None:
        """Do what is due at ``now``."""
        if self._core.deadline is not None and now >= self._core.deadline:
            self._machine.due(now)

    def take_effects(self) -> list[Effect]:
        """What is to be done, in order."""
        effects, self._core.effects = self._core.effects, []
        return effects

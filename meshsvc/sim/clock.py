"""Virtual time: one heap for the whole cluster, and a clock of its own for every process.

``Time`` holds what is due, in order of time and then of request, so a run is a pure function
of what it was given. A ``ProcessClock`` is the reactor's clock as one process sees it: its
node's clock may be off and drift, the process may be paused (SIGSTOP) or slow, and when it is
dead nothing of it is ever called again.

Why it is hard: Twisted calls a timer only when its own clock has reached the timer's time. A
clock that drifts is a rounding error away from that, so a timer that is early by one is put
off by one tick instead of being called, as a reactor would. And after SIGCONT a reactor runs
the overdue timers before it reads, which is exactly when failure detectors err.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Any

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

UNIX_START_S = 1_800_000_000.0
"""Unix seconds at the start of every run; generations are made of them."""

TICK_S = 2.5e-7
"""The resolution of a float of that size."""

COMPACT_AT = 1024
"""Dead entries in the heap before it is worth sweeping; then at half of it."""

MAX_AT_ONCE = 200_000
"""Events at one moment: far more than any burst, so whoever causes them does not stop."""

_PENDING, _CALLED, _CANCELLED = 0, 1, 2


class Stuck(Exception):
    """Something goes on without end while no time passes."""


@implementer(IDelayedCall)
class Timer:
    """One call to come. ``at`` is when it is due in virtual time, ``local`` by its process."""

    __slots__ = ("_state", "args", "at", "call", "kwargs", "local", "owner", "seq")

    def __init__(
        self,
        owner: ProcessClock | None,
        at: float,
        local: float,
        call: Callable[..., object],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.owner, self.at, self.local = owner, at, local
        self.call, self.args, self.kwargs = call, args, kwargs
        self.seq = 0
        self._state = _PENDING

    def getTime(self) -> float:
        """Twisted: when it is due, by the clock of its process."""
        return self.local

    def active(self) -> bool:
        """Twisted: whether it is still to come."""
        return self._state == _PENDING

    def cancel(self) -> None:
        """Twisted: never call it."""
        self._check()
        self._state = _CANCELLED
        if self.owner is not None:
            self.owner.time.forget_one()

    def reset(self, secondsFromNow: float) -> None:  # noqa: N803
        """Twisted: call it this long from now instead."""
        self._check()
        assert self.owner is not None
        self.owner.move(self, self.owner.seconds() + secondsFromNow)

    def delay(self, secondsLater: float) -> None:  # noqa: N803
        """Twisted: call it this much later."""
        self._check()
        assert self.owner is not None
        self.owner.move(self, self.local + secondsLater)

    def run(self) -> None:
        """Call it; only once."""
        self._state = _CALLED
        self.call(*self.args, **self.kwargs)

    def _check(self) -> None:
        if self._state == _CANCELLED:
            raise AlreadyCancelled
        if self._state == _CALLED:
            raise AlreadyCalled


class Time:
    """What the whole cluster shares: the time, from 0, and all that is due."""

    log = Logger()

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self.halted = False
        self._heap: list[tuple[float, int, Timer]] = []
        self._seq = 0
        self._dead = 0

    def __len__(self) -> int:
        return len(self._heap) - self._dead

    def at(self, when: float, call: Callable[..., object], *args: Any) -> Timer:
        """Call something that belongs to no process, such as a fault, at a virtual time."""
        timer = Timer(None, when, when, call, args, {})
        self.push(timer)
        return timer

    def after(self, delay_s: float, call: Callable[..., object], *args: Any) -> Timer:
        """Call something that belongs to no process after a while."""
        return self.at(self.now + delay_s, call, *args)

    def push(self, timer: Timer) -> None:
        """Enter a timer; an earlier entry of it no longer counts."""
        self._seq = timer.seq = self._seq + 1
        heappush(self._heap, (timer.at, self._seq, timer))

    def forget_one(self) -> None:
        """An entry was cancelled or replaced; sweep when there are many."""
        self._dead += 1
        if self._dead > COMPACT_AT and self._dead * 2 > len(self._heap):
            live = [e for e in self._heap if e[2].seq == e[1] and e[2].active()]
            # In place: ``run_until`` holds on to the list.
            self._heap[:] = live
            heapify(self._heap)
            self._dead = 0

    def pending(self) -> list[Timer]:
        """Every timer that is to come, in order."""
        return [t for _, seq, t in sorted(self._heap, key=lambda e: e[:2]) if _live(t, seq)]

    def halt(self) -> None:
        """Stop after the event that runs now; time does not pass any more."""
        self.halted = True

    def run_until(self, until: float) -> None:
        """Let time pass up to ``until``, or until somebody says ``halt``.

        Raises:
            Stuck: when more than ``MAX_AT_ONCE`` events happen without time passing.
        """
        heap = self._heap
        same = 0
        while heap and heap[0][0] <= until and not self.halted:
            at, seq, timer = heappop(heap)
            if timer.seq != seq or not timer.active():
                self._dead = max(0, self._dead - 1)
                continue
            if timer.at > at:  # it was put off since
                self.push(timer)
                continue
            if at > self.now:
                self.now, same = at, 0
            same += 1
            if same > MAX_AT_ONCE:
                raise Stuck(f"{same} events at {at:.6f} s, the last is {timer.call}")
            owner = timer.owner
            if owner is None or owner.ready_for(timer):
                self.events += 1
                try:
                    timer.run()
                except Exception:
                    self.log.failure("unhandled in a delayed call")
        if not self.halted:
            self.now = max(self.now, until)


def _live(timer: Timer, seq: int) -> bool:
    return timer.seq == seq and timer.active()


class Skew:
    """The clock of one node: off by ``offset_s`` at the start, and running at ``rate``."""

    __slots__ = ("offset_s", "rate")

    def __init__(self, offset_s: float = 0.0, rate: float = 1.0) -> None:
        self.offset_s = offset_s
        self.rate = rate

    def local(self, now: float) -> float:
        """What the node's clock shows at a virtual time, in unix seconds."""
        return UNIX_START_S + self.offset_s + now * self.rate


@implementer(IReactorTime)
class ProcessClock:
    """The clock and the turns of one process.

    Attributes:
        alive: False once it was killed; nothing of it runs again.
        resumed_at: when it last began to run freely again, in virtual seconds.
        cost_s: seconds that each of its events keeps it busy; 0 for a healthy process.
    """

    def __init__(self, time: Time, skew: Skew) -> None:
        self.time = time
        self.skew = skew
        self.alive = True
        self.cost_s = 0.0
        self.resumed_at = 0.0
        self._paused = False
        self._busy_until = 0.0
        self._late: list[Timer] = []
        self._unread: list[Timer] = []

    # --- IReactorTime --------------------------------------------------------------------

    def seconds(self) -> float:
        """Twisted: unix seconds by this node's clock."""
        return self.skew.local(self.time.now)

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kw: object
    ) -> Timer:
        """Twisted: call something after a delay by this node's clock."""
        at = self.time.now + delay / self.skew.rate
        timer = Timer(self, at, self.seconds() + delay, callable, args, kw)
        self.time.push(timer)
        return timer

    def getDelayedCalls(self) -> list[Timer]:
        """Twisted: the timers of this process that are to come."""
        held = [timer for timer in self._late if timer.active()]
        return held + [t for t in self.time.pending() if t.owner is self and t.local >= 0]

    def callWhenRunning(self, callable: Callable[..., object], *args: Any, **kw: Any) -> None:
        """Twisted: it always runs."""
        callable(*args, **kw)

    # --- events that are not timers ------------------------------------------------------

    def post(self, delay_s: float, call: Callable[..., object], *args: Any) -> Timer:
        """Something that reaches the process from outside, such as bytes to read."""
        timer = Timer(self, self.time.now + delay_s, -1.0, call, args, {})
        self.time.push(timer)
        return timer

    # --- what the simulator does to it ---------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether it is stopped."""
        return self._paused

    def pause(self) -> None:
        """SIGSTOP."""
        self._paused = True

    def resume(self) -> None:
        """SIGCONT: overdue timers run first, then what came meanwhile is read."""
        self._paused = False
        self.resumed_at = self.time.now
        self._late.sort(key=lambda timer: timer.local)
        held, self._late, self._unread = self._late + self._unread, [], []
        for timer in held:
            timer.at = max(timer.at, self.time.now)
            self.time.push(timer)

    def slow(self, cost_s: float) -> None:
        """Each event keeps it busy this long from now on; what has piled up is left to it."""
        if self.cost_s and not cost_s:
            self.resumed_at = self.time.now
        self.cost_s = cost_s

    def kill(self) -> None:
        """SIGKILL."""
        self.alive = False
        self._late.clear()
        self._unread.clear()

    # --- for Time and Timer --------------------------------------------------------------

    def ready_for(self, timer: Timer) -> bool:
        """Whether it takes an event now; if not, the event has been put where it belongs."""
        if not self.alive:
            return False
        if self._paused:
            (self._unread if timer.local < 0 else self._late).append(timer)
            return False
        now = self.time.now
        if self._busy_until > now:
            timer.at = self._busy_until
            self.time.push(timer)
            return False
        if timer.local > 0 and self.seconds() < timer.local:
            timer.at = now + TICK_S
            self.time.push(timer)
            return False
        if self.cost_s:
            self._busy_until = now + self.cost_s
        return True

    def move(self, timer: Timer, local: float) -> None:
        """Another time for a timer."""
        at = self.time.now + (local - self.seconds()) / self.skew.rate
        timer.local = local
        if at >= timer.at:
            timer.at = at  # its entry is found early, and put off then
        else:
            timer.at = at
            self.time.push(timer)
            self.time.forget_one()

"""Whether a history of concurrent operations could have happened one at a time.

The search of Wing and Gong with Lowe's cache of configurations: try the operations that
could come next, by real time, and never look at the same (set of operations done, state)
twice. A key is checked apart from the others, which is enough (linearizability is local) and
makes the search short.

An operation whose outcome is unknown, because it timed out, may have happened at any time
after it began, or never: it has ``answer=UNKNOWN`` and ``returned=inf``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Any, Final

UNKNOWN: Final = object()
"""The answer of an operation that never got one."""

Step = Callable[[Any, Any, Any], tuple[bool, Any]]
"""(state, call, answer) -> (could this be the answer, next state); states are hashable."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One call: on what, when it was made and answered (seconds), and with what."""

    key: Hashable
    call: Any
    answer: Any
    invoked: float
    returned: float = inf


class _Event:
    """A call or a return in the list of events that are still to be explained."""

    __slots__ = ("after", "before", "number", "operation", "partner")

    def __init__(self, operation: Operation, number: int) -> None:
        self.operation, self.number = operation, number
        self.before: _Event | None = None
        self.after: _Event | None = None
        self.partner: _Event | None = None

    def unlink(self) -> None:
        assert self.before is not None
        self.before.after = self.after
        if self.after is not None:
            self.after.before = self.before

    def relink(self) -> None:
        assert self.before is not None
        self.before.after = self
        if self.after is not None:
            self.after.before = self


def _events(operations: list[Operation]) -> _Event:
    """The events in order of time, behind a head; at one moment calls come before returns."""
    events: list[tuple[float, int, int, _Event]] = []
    for number, operation in enumerate(operations):
        call, back = _Event(operation, number), _Event(operation, number)
        call.partner = back
        events.append((operation.invoked, 0, number, call))
        events.append((operation.returned, 1, number, back))
    head = last = _Event(Operation(None, None, None, 0.0), -1)
    for *_, event in sorted(events, key=lambda row: row[:3]):
        last.after, event.before = event, last
        last = event
    return head


def _explainable(operations: list[Operation], initial: Hashable, step: Step) -> bool:
    head, state, done = _events(operations), initial, 0
    seen: set[tuple[int, Hashable]] = set()
    taken: list[tuple[_Event, Hashable]] = []
    event = head.after
    while event is not None:
        if event.partner is not None:  # a call: could it be the next to happen?
            fits, following = step(state, event.operation.call, event.operation.answer)
            config = (done | 1 << event.number, following)
            if fits and config not in seen:
                seen.add(config)
                taken.append((event, state))
                done, state = config
                event.partner.unlink()
                event.unlink()
                event = head.after
                continue
        elif taken:  # a return whose call was not taken: something before was wrong
            event, state = taken.pop()
            assert event.partner is not None
            done &= ~(1 << event.number)
            event.relink()
            event.partner.relink()
        else:
            return False
        event = event.after
    return True


def check(history: Iterable[Operation], step: Step, initial: Hashable = None) -> list[Hashable]:
    """The keys whose operations cannot have happened one at a time; none: all is well.

    Args:
        history: the operations of all clients, in any order.
        step: what one operation may do to the state of one key.
        initial: the state of a key before anything happened to it.
    """
    by_key: dict[Hashable, list[Operation]] = defaultdict(list)
    for operation in history:
        by_key[operation.key].append(operation)
    return [key for key, rows in by_key.items() if not _explainable(rows, initial, step)]


def register(state: Any, call: Any, answer: Any) -> tuple[bool, Any]:
    """The step of a register. Calls: ``("get",)`` answered with the value, ``("put", value)``
    answered with anything, ``("cas", old, new)`` answered with whether it was done.
    """
    match call:
        case ("get",):
            return answer is UNKNOWN or answer == state, state
        case ("put", value):
            return True, value
        case ("cas", old, new):
            fits = answer is UNKNOWN or answer == (state == old)
            return fits, new if state == old else state
    raise ValueError(f"a register knows get, put and cas, not {call!r}")

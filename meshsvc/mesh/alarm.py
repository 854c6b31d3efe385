"""One delayed call for one core: always armed for the core's next deadline, and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Clock(Protocol):
    """What is needed of a reactor."""

    def seconds(self) -> float:
        """The time in seconds."""

    def callLater(self, delay: float, callable: Callable[[], object]) -> Any:
        """Call something after ``delay`` seconds; what is returned can be cancelled."""


class Alarm:
    """Calls ``ring`` at the last deadline that was set."""

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._call: Any = None

    def set(self, deadline: float | None) -> None:
        """Ring at ``deadline`` (seconds), or not at all; replaces what was set before."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
        if deadline is not None:
            wait = max(0.0, deadline - self._clock.seconds())
            self._call = self._clock.callLater(wait, self._ring)

"""Segments on their way between hosts, sampled, for a page that shows a run.

A run sends a million of them. Of each path one is kept in each slot of time, and when there are
still too many, slots get longer: what is kept is bounded, and is spread over the whole run.
Segments that a blocked path holds up are counted, not sampled: they are why one looks.
"""

from __future__ import annotations

MAX_FLIGHTS = 30_000
"""Some 30 bytes each on the page: a megabyte."""

MAX_HOLDS = 20_000
"""Changes of how many segments a path holds up; later ones are left out."""

SLOT_S = 0.02
"""At first: as often as a screen shows a picture."""

Path = tuple[str, str]
Flight = tuple[float, float, Path, int]
"""Sent and arriving (virtual seconds), from and to which host, bytes."""


class Flights:
    """Keeps a sample of what is sent; nothing of it has an effect on the run."""

    def __init__(self, most: int = MAX_FLIGHTS) -> None:
        self.kept: list[Flight] = []
        self.holds: list[tuple[float, Path, int]] = []
        self.seen = 0
        self.slot_s = SLOT_S
        self._most = most
        self._next: dict[Path, float] = {}

    def sent(self, at: float, arrives: float, path: Path, size: int) -> None:
        """A segment left."""
        if path[0] == path[1]:
            return
        self.seen += 1
        self._keep((at, arrives, path, size))
        while len(self.kept) > self._most:
            self._thin()

    def held(self, at: float, path: Path, change: int) -> None:
        """A blocked path holds up so many segments more, or fewer."""
        if path[0] != path[1] and change and len(self.holds) < MAX_HOLDS:
            self.holds.append((at, path, change))

    def _keep(self, flight: Flight) -> None:
        at, _, path, _ = flight
        if at >= self._next.get(path, 0.0):
            self._next[path] = at + self.slot_s
            self.kept.append(flight)

    def _thin(self) -> None:
        self.slot_s *= 2
        flights, self.kept = self.kept, []
        self._next.clear()
        for flight in flights:
            self._keep(flight)

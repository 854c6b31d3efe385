"""The hybrid logical clock that versions of rows are made of.

A stamp is one integer: milliseconds since 1970 in the high bits, a counter in the low
``COUNTER_BITS``. It rises with every stamp given or seen (Kulkarni et al., "Logical physical
clocks", 2014), so that a write always beats what its writer had read.

A clock that is off: a node an hour ahead pulls the others' stamps an hour ahead as soon as
they hear of it. That costs nothing, since stamps are only compared with each other, and it is
what keeps the fast node from winning against everything that is written after it. A node an
hour behind is pulled as well. Stamps over ``MAX_AHEAD_S`` ahead of this node's own time are
refused and counted instead: they are not a clock that is off but one that is broken, and one
of them must not move everybody else's.
"""

from __future__ import annotations

COUNTER_BITS = 16
"""65,536 stamps in one millisecond; beyond that a stamp runs into the next one, harmlessly."""

MAX_AHEAD_S = 24 * 3600.0
"""A wrong time zone or a battery gone flat by hours is tolerated, a wrong year is not."""


def stamp_of(wall_s: float) -> int:
    """The lowest stamp of a moment, in seconds since 1970."""
    return int(wall_s * 1000) << COUNTER_BITS


def seconds_of(stamp: int) -> float:
    """The moment of a stamp, in seconds since 1970."""
    return (stamp >> COUNTER_BITS) / 1000


class Clock:
    """The clock of one shard; ``last`` is the greatest stamp given or seen."""

    __slots__ = ("last", "refused")

    def __init__(self) -> None:
        self.last = 0
        self.refused = 0

    def stamp(self, wall_s: float) -> int:
        """The next stamp; greater than every one given or seen before."""
        self.last = max(self.last + 1, stamp_of(wall_s))
        return self.last

    def now(self, wall_s: float) -> int:
        """A stamp to compare ages with; gives none away."""
        return max(self.last, stamp_of(wall_s))

    def observe(self, stamp: int, wall_s: float) -> bool:
        """Note a stamp that was seen; False when it is too far ahead to be believed."""
        if stamp <= self.last:
            return True
        if stamp > stamp_of(wall_s + MAX_AHEAD_S):
            self.refused += 1
            return False
        self.last = stamp
        return True

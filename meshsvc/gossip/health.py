"""How far this node may trust its own clocks and ears before it blames somebody else.

After Lifeguard (arXiv 1707.00788): a process that was stopped, or whose reactor was blocked,
sees every peer time out at once. So each lateness of its own, each helper that stayed silent
and each suspicion it had to refute raises a score, by which its time-outs grow; every probe
that went well lowers it. For a moment after a stall a failed echo means nothing at all,
because the answers may lie unread in the sockets.
"""

from __future__ import annotations

from math import ceil

LAG_SLACK_S = 0.1
"""Lateness below this is ordinary scheduling; above, the shortest time-out (0.2 s) suffers."""

MAX_SCORE = 7
"""As in Lifeguard: time-outs grow eightfold at most, so that detection never stops."""

DOUBT_S = 1.0
"""After a stall: time enough to read what has piled up and to redial links that peers cut."""

TIMEOUT_FLOOR_S = 0.2
"""No echo waits less: a collection of garbage or a busy turn takes that long."""

MAX_STRETCH = 3.0
"""Echo time-outs grow less than suspicions: it is the suspicion that convicts."""


class LocalHealth:
    """The score of this node: 0 is well."""

    def __init__(self) -> None:
        self.score = 0
        self.doubt_until = 0.0

    @property
    def factor(self) -> int:
        """What suspicions are multiplied by."""
        return 1 + self.score

    def lagged(self, lag_s: float, now: float) -> None:
        """This node did something ``lag_s`` seconds later than planned."""
        self.score = min(MAX_SCORE, self.score + ceil(lag_s))
        self.doubt_until = now + DOUBT_S

    def missed(self) -> None:
        """Others were silent too, or this node was suspected although it lives."""
        self.score = min(MAX_SCORE, self.score + 1)

    def well(self) -> None:
        """A probe was answered in time."""
        self.score = max(0, self.score - 1)

    def in_doubt(self, now: float) -> bool:
        """Whether a failure seen now may be this node's own."""
        return now < self.doubt_until


class RoundTrip:
    """Smoothed round trip to one peer and its variation (RFC 6298)."""

    __slots__ = ("mean_s", "variation_s")

    def __init__(self) -> None:
        self.mean_s: float | None = None
        self.variation_s = 0.0

    def sample(self, seconds: float) -> None:
        """Take one measured round trip."""
        seconds = max(0.0, seconds)
        if self.mean_s is None:
            self.mean_s, self.variation_s = seconds, seconds / 2
        else:
            self.variation_s += (abs(seconds - self.mean_s) - self.variation_s) / 4
            self.mean_s += (seconds - self.mean_s) / 8

    def timeout_s(self, cap_s: float, factor: float) -> float:
        """How long an echo to this peer may take; ``cap_s`` while nothing was measured."""
        if self.mean_s is None:
            base = cap_s
        else:
            base = min(cap_s, max(TIMEOUT_FLOOR_S, self.mean_s + 4 * self.variation_s))
        return base * min(MAX_STRETCH, factor)

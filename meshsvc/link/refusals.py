"""Refusals are counted every time and logged at most once a minute per peer and reason."""

from __future__ import annotations

from collections import OrderedDict

from meshsvc.counters import Counters

LOG_INTERVAL_S = 60.0
MAX_REMEMBERED = 1024
"""Pairs of peer and reason; beyond them the one logged longest ago is forgotten, so that a
stranger who changes its name can cause log lines, but not memory."""

QUIET = frozenset({"lost", "duplicate", "stopping"})
"""Ends of a handshake that say nothing against the peer: they are counted, no more."""


class Refusals:
    """What to count and what to log of refused links, of both sides.

    ``side`` is "local" when this node refused, "remote" when it was refused.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._logged: OrderedDict[tuple[str, str], float] = OrderedDict()

    def count(self, reason: str, side: str) -> None:
        """Count one refusal in ``link_refusals_total``."""
        self._counters.add("link_refusals_total", reason=reason, side=side)

    def should_log(self, peer: str, reason: str, now: float) -> bool:
        """Whether this refusal is worth a line at ``now`` (seconds)."""
        key = (peer, reason)
        last = self._logged.get(key)
        if last is not None and now - last < LOG_INTERVAL_S:
            return False
        self._logged[key] = now
        self._logged.move_to_end(key)
        if len(self._logged) > MAX_REMEMBERED:
            self._logged.popitem(last=False)
        return True

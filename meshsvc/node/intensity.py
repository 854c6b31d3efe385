"""How often a shard may be restarted, and after which pause.

The rule of Erlang's supervisors: more than ``most`` ends within ``window_s`` and restarting
is not going to help. The pause grows with the ends in the window, as procmon's does, so a
shard that ran well for a window starts again at the shortest one.
"""

from __future__ import annotations

from collections import deque

from meshsvc.retry import Policy


class RestartIntensity:
    """Counts the ends of one shard's processes; holds at most ``most + 1`` times."""

    def __init__(self, policy: Policy, most: int, window_s: float) -> None:
        self.most = most
        self.window_s = window_s
        self._policy = policy
        self._ends: deque[float] = deque(maxlen=most + 1)

    def ended(self, now: float) -> float | None:
        """A process ended; seconds until the next may start, None when that was one too many."""
        while self._ends and self._ends[0] <= now - self.window_s:
            self._ends.popleft()
        self._ends.append(now)
        if len(self._ends) > self.most:
            return None
        return self._policy(len(self._ends))

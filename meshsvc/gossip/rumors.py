"""The fast path: what is news is pushed to a few peers at once, who push it on.

Each node pushes a piece of news once, when it learns it over this path, so a change reaches
nearly all nodes within a few hops and traffic dies out by itself; rounds bring it to the
rest. Pushes leave at most every ``PAUSE_S``, with all that has come up since.
"""

from __future__ import annotations

from meshsvc.model import NodeId

FANOUT = 4
"""Peers a piece of news is pushed to: with 4, all but about 2 % of the nodes hear of it."""

JOIN_FANOUT = 16
"""Peers a node pushes its own arrival to: it happens once in its life, and people wait."""

PAUSE_S = 0.05
"""Between two pushes: many changes in a row travel together."""


class Rumors:
    """The nodes whose state is to be pushed, each with the version it was news after."""

    def __init__(self) -> None:
        self._news: dict[NodeId, int] = {}
        self._not_before = 0.0
        self._since = 0.0

    def add(self, node: NodeId, base: int, now: float) -> None:
        """The state of a node above ``base`` is news."""
        if not self._news:
            self._since = now
        self._news[node] = min(base, self._news.get(node, base))

    def deadline(self) -> float | None:
        """When to push next."""
        return max(self._since, self._not_before) if self._news else None

    def take(self, now: float) -> list[tuple[NodeId, int]]:
        """The news to push now; empty when it is too early."""
        due = self.deadline()
        if due is None or due > now:
            return []
        self._not_before = now + PAUSE_S
        news, self._news = list(self._news.items()), {}
        return news

    def clock_set_back(self, now: float) -> None:
        """The clock jumped back to ``now``."""
        self._since = self._not_before = now

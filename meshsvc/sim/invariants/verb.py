"""VERB: each ask ends once and in time, order holds, lives are not confused.

The facts come from ``meshsvc.sim.workload``, an application that runs in every shard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshsvc.sim.invariants.base import Check, register

if TYPE_CHECKING:
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.lives import SimShard

LATE_S = 0.25
"""An ask may end this much after its deadline: 50 ms are promised to a process that runs
freely, and events of a burst run one after the other."""


@register
class AsksEnd(Check):
    """Every ask ends exactly once, and by its deadline (VERB-2)."""

    section = "VERB"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        cluster.ledger.on_fault.append(self.fail)

    def every_second(self) -> None:
        """Look for asks that should have ended."""
        now = self.cluster.time.now
        for ask in self.cluster.ledger.overdue(now - LATE_S):
            if not ask.excused():
                self.fail(f"the ask {ask} has not ended {now - ask.due:.2f} s after its deadline")


@register
class LostWaysEndAsks(Check):
    """An ask does not wait for a node that cannot be reached any more (VERB-2)."""

    section = "VERB"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._lost: dict[int, float] = {}

    def every_second(self) -> None:
        """Look for asks whose way is gone, twice in a row and a second apart."""
        now, lost = self.cluster.time.now, {}
        for ask in self.cluster.ledger.pending.values():
            shard = ask.life.shard
            if shard is None or ask.excused() or shard.post.reachable(*ask.way):
                continue
            lost[ask.token] = self._lost.get(ask.token, now)
            if now - lost[ask.token] >= 1.0:
                self.fail(f"the ask {ask} is pending, and there was no way to it for a second")
        self._lost = lost


@register
class SumsMatch(Check):
    """Per verb, what was asked equals the sum of the outcomes (VERB-7)."""

    section = "VERB"

    def settled(self) -> None:
        """Asks of this very moment are pending, so count those."""
        for node in self.cluster.nodes:
            for life in node.shards.values():
                if life.shard is not None:
                    self._sums(life)

    def _sums(self, life: SimShard) -> None:
        assert life.shard is not None
        counters: Any = life.shard.counters
        pending = len(life.shard.messaging._calls)
        asked = counters.total("verb_asks_total")
        ended = counters.total("verb_outcomes_total")
        if asked - ended != pending:
            self.fail(f"{life.life} asked {asked:g}, {ended:g} ended, {pending} are pending")

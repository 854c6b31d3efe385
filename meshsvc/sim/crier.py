"""Broadcasts in a simulated cluster: now and then some shard cries, and others write it down.

It draws from a generator of its own, so that how often it cries changes no other choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from meshsvc.model import Sent

if TYPE_CHECKING:
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.lives import SimShard

CRY = "probe.cry"

EVERY_S = 4.0
"""Between two cries, on average: half of the time some broadcast is held somewhere."""

Hearer = tuple[str, int, int]
"""(node, its generation, shard)."""


@dataclass(slots=True, eq=False)
class Cry:
    """One broadcast: who sent it when, and who heard it."""

    number: int
    life: SimShard
    at: float
    heard: set[Hearer] = field(default_factory=set)

    def __str__(self) -> str:
        return f"{self.number} of {self.life.life}"


class Crier:
    """Sends broadcasts while it is running; knows each and who heard it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cries: dict[int, Cry] = {}
        self.on_cry: list[Callable[[Cry], None]] = []
        self.on_fault: list[Callable[[str], None]] = []
        self.last_at = 0.0
        self._cluster = cluster
        self._rng = Random(f"cries of {cluster.seed}")
        self._again()

    def _again(self) -> None:
        self._cluster.time.after(self._rng.expovariate(1 / EVERY_S), self._turn)

    def _turn(self) -> None:
        lives = [life for node in self._cluster.nodes for life in node.shards.values()]
        if lives:
            self._cry(lives[self._rng.randrange(len(lives))])
        self._again()

    def _cry(self, life: SimShard) -> None:
        if life.shard is None or not life.channel.is_ready or life.reactor.paused:
            return
        cry = Cry(len(self.cries) + 1, life, self._cluster.time.now)
        everyone: Any = life.shard.context("").everyone
        if everyone.broadcast(CRY, cry.number) is Sent.ACCEPTED:
            self.cries[cry.number] = cry
            self.last_at = cry.at
            for told in self.on_cry:
                told(cry)

    def heard(self, number: int, hearer: Hearer) -> None:
        """A shard heard a cry."""
        cry = self.cries[number]
        if hearer in cry.heard:
            for tell in self.on_fault:
                tell(f"{hearer} heard the broadcast {cry} twice")
        cry.heard.add(hearer)

"""Now and then some shard of a simulated cluster cries to all, and asks some node over control.

It draws from a generator of its own, so that how often it cries changes no other choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from meshsvc.model import LinkClass, Sent, ShardAddress, ShardId

if TYPE_CHECKING:
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.lives import SimShard
    from meshsvc.sim.processes import SimNode

CRY = "probe.cry"

EVERY_S = 4.0
"""Between two cries, on average: half of the time some broadcast is held somewhere."""

KNOCK_S = 5.0

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


@dataclass(slots=True, eq=False)
class Knock:
    """One ask over the control plane; ``ended`` is how, in words, "" while it has not."""

    life: SimShard
    target: SimNode
    at: float
    ended: str = ""

    def __str__(self) -> str:
        return f"of {self.life.life} to {self.target.name}"


class Crier:
    """Sends broadcasts and asks; knows each, who heard it and how it ended."""

    def __init__(self, cluster: Cluster) -> None:
        self.cries: dict[int, Cry] = {}
        self.on_cry: list[Callable[[Cry], None]] = []
        self.on_knock: list[Callable[[Knock], None]] = []
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
            life = lives[self._rng.randrange(len(lives))]
            if life.shard is not None and life.channel.is_ready and not life.reactor.paused:
                self._cry(life)
                self._knock(life)
        self._again()

    def _knock(self, life: SimShard) -> None:
        nodes = self._cluster.nodes
        knock = Knock(life, nodes[self._rng.randrange(len(nodes))], self._cluster.time.now)
        address = ShardAddress(knock.target.node_id, ShardId(0))
        assert life.shard is not None
        asked = life.shard.messaging.ask(address, "sys.echo", 1, KNOCK_S, LinkClass.CONTROL)

        def ended(result: Any) -> None:
            knock.ended = "ok" if result == 1 else str(result.value)
            for told in self.on_knock:
                told(knock)

        asked.addBoth(ended)

    def _cry(self, life: SimShard) -> None:
        assert life.shard is not None
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

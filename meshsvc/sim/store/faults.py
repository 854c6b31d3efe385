"""Faults that a store fears: of whoever leads, of as many as it can bear, of all at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.processes import SimNode


def leader(cluster: Cluster) -> SimNode:
    """The node whose replica takes itself for the leader, of the highest term; else the first."""
    found = cluster.nodes[0]
    highest = -1
    for node in cluster.nodes:
        life = node.zero
        store = None if life is None or life.zero is None else life.zero.store
        status = None if store is None else store.keyspace.raft_status()
        if status is not None and status.leader == status.me and status.term > highest:
            found, highest = node, status.term
    return found


@dataclass(frozen=True, slots=True)
class Strikes:
    """Args: the cluster, chance, a way to do a command now, and one to do it some time later."""

    cluster: Cluster
    rng: Random
    do: Callable[[str], None]
    later: Callable[[str], float]

    def leader_crash(self) -> None:
        """The leader is killed."""
        node = leader(self.cluster)
        self.do(f"crash {node.name}")
        self.later(f"start {node.name}")

    def leader_pause(self) -> None:
        """The leader stands still, mostly for longer than an election takes."""
        node = leader(self.cluster)
        if node.running and not node.paused:
            self.do(f"pause {node.name}")
            wait = self.later(f"resume {node.name}")
            self.cluster.longest_pause_s = max(self.cluster.longest_pause_s, wait)

    def leader_cut(self) -> None:
        """Nothing reaches or leaves the leader."""
        self.do(f"isolate {leader(self.cluster).name}")
        self.later("heal")

    def leader_one_way(self) -> None:
        """The leader hears nobody, or nobody hears it."""
        node = leader(self.cluster)
        deaf = self.rng.random() < 0.5
        for other in self.cluster.nodes:
            if other is not node:
                a, b = (other, node) if deaf else (node, other)
                self.do(f"one-way {a.name} {b.name}")
        self.later("heal")

    def leader_disk(self) -> None:
        """The disk of the leader takes long."""
        node = leader(self.cluster)
        self.do(f"disk {node.name} slow {self.rng.randrange(100, 3000)} ms")
        self.later(f"disk {node.name} well")

    def minority(self) -> None:
        """As many nodes are cut off as the others can do without."""
        nodes = list(self.cluster.nodes)
        self.rng.shuffle(nodes)
        few = (len(nodes) - 1) // 2
        left, right = (" ".join(n.name for n in part) for part in (nodes[:few], nodes[few:]))
        self.do(f"partition {left} | {right}")
        self.later("heal")

    def minority_crash(self) -> None:
        """As many nodes are killed as the others can do without."""
        nodes = list(self.cluster.nodes)
        self.rng.shuffle(nodes)
        for node in nodes[: (len(nodes) - 1) // 2]:
            self.do(f"crash {node.name}")
            self.later(f"start {node.name}")

    def all_crash(self) -> None:
        """Every node is killed at once."""
        self._all("crash")

    def all_power(self) -> None:
        """The power fails everywhere at once."""
        self._all("power-off")

    def _all(self, verb: str) -> None:
        self.do(f"{verb} all")
        for node in self.cluster.nodes:
            self.later(f"start {node.name}")


KINDS: dict[str, Callable[[Strikes], None]] = {
    "leader-crash": Strikes.leader_crash,
    "leader-pause": Strikes.leader_pause,
    "leader-cut": Strikes.leader_cut,
    "leader-one-way": Strikes.leader_one_way,
    "leader-disk": Strikes.leader_disk,
    "minority": Strikes.minority,
    "minority-crash": Strikes.minority_crash,
    "all-crash": Strikes.all_crash,
    "all-power": Strikes.all_power,
}
"""These kinds of faults by their names in scenarios."""

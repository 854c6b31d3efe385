"""Nodes of another cluster that were given our seeds: they dial, and must be let in by nobody.

They are whole nodes over the same time and network. The checks do not listen to them, as what
they think of each other is their own affair; what ours make of them is what counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshsvc.sim.clock import Skew
from meshsvc.sim.processes import SimNode

if TYPE_CHECKING:
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.lives import SimShard

FIRST = 201
"""The number of the first of them, above any of ours."""


class Strangers:
    """Another cluster beside ``cluster``: what its nodes need of a ``Cluster``."""

    name = "another"

    def __init__(self, cluster: Cluster, count: int) -> None:
        self.rng, self.time, self.net = cluster.rng, cluster.time, cluster.net
        self.slowed: dict[str, float] = {}
        self._cluster = cluster
        own: Any = self
        self.nodes = [SimNode(own, FIRST + index, 1, Skew()) for index in range(count)]

    def config_of(self, node: SimNode) -> dict[str, Any]:
        """As one of ours, but for the cluster's name."""
        config = self._cluster.config_of(node)
        config["node"]["cluster"] = self.name
        return config

    def plugins(self, interface: Any) -> tuple[list[Any], list[Any]]:
        """None."""
        return [], []

    def note(self, node: str, kind: str, text: str) -> None:
        """Write a line into the log."""
        self._cluster.note(node, kind, text)

    def listen_to(self, life: SimShard) -> None:
        """A shard was built."""

    def node_started(self, node: SimNode) -> None:
        """A node begins a life."""

    def node_ended(self, node: SimNode) -> None:
        """A life of a node is over."""

    def shard_ended(self, life: SimShard) -> None:
        """A shard process is gone."""

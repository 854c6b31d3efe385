"""What a check may hook into, and the registry of all checks."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.lives import SimShard
    from meshsvc.sim.processes import SimNode

SECTIONS = ("mesh", "gossip", "discovery", "relay", "verb", "shard", "tables", "store")
"""The modules of this package that register checks."""


class Check:
    """One set of invariants; the hooks are called as things happen, all do nothing here.

    A check only looks. It calls ``self.fail(words)`` with the rule that was broken and by
    whom, which ends the run.
    """

    section = ""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def fail(self, words: str) -> None:
        """An invariant does not hold."""
        self.cluster.violated(self.section, words)

    # --- processes -----------------------------------------------------------------------

    def node_started(self, node: SimNode) -> None:
        """A node begins a life."""

    def node_ended(self, node: SimNode) -> None:
        """A life of a node is over."""

    def shard_built(self, life: SimShard) -> None:
        """A shard was built, and has not started."""

    def shard_ended(self, life: SimShard) -> None:
        """A shard process is gone."""

    # --- links and mesh ------------------------------------------------------------------

    def link_up(self, life: SimShard, link: Any) -> None:
        """A shard has a link."""

    def link_down(self, life: SimShard, link: Any, reason: str) -> None:
        """A shard's link ended."""

    def link_epoch(self, life: SimShard, link: Any) -> None:
        """Whether, or under which epoch, a data link delivers has changed."""

    def envelope(self, life: SimShard, link: Any, envelope: Any) -> None:
        """A link delivered an envelope."""

    def relayed(self, life: SimShard, link: Any, message: Any) -> None:
        """A link delivered a message on its way over this node, or to it."""

    def epoch_event(self, life: SimShard, event: Any) -> None:
        """An event of ``meshsvc.mesh.epoch`` in a shard."""

    # --- gossip --------------------------------------------------------------------------

    def member_event(self, life: SimShard, event: Any) -> None:
        """What shard 0 told a subscriber."""

    def view_changed(self, life: SimShard) -> None:
        """The view of shard 0 changed."""

    # --- bus -----------------------------------------------------------------------------

    def sibling_up(self, life: SimShard, shard: int, incarnation: int) -> None:
        """A shard sees a sibling."""

    def sibling_down(self, life: SimShard, shard: int, incarnation: int) -> None:
        """A shard lost a sibling."""

    def bus_message(self, life: SimShard, shard: int, incarnation: int, message: Any) -> None:
        """The bus delivered a message of a sibling's life."""

    # --- time ----------------------------------------------------------------------------

    def every_second(self) -> None:
        """A second passed."""

    def settled(self) -> None:
        """Faults stopped, the cluster converged, and had time to clean up."""


Builder = Callable[["Cluster"], Check]

_REGISTERED: list[Builder] = []


def register(check: type[Check]) -> type[Check]:
    """A class decorator: build this check for every cluster."""
    _REGISTERED.append(check)
    return check


def all_checks(cluster: Cluster) -> list[Check]:
    """One of each registered check."""
    for section in SECTIONS:
        import_module(f"meshsvc.sim.invariants.{section}")
    return [build(cluster) for build in _REGISTERED]

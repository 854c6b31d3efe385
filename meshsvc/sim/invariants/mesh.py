"""MESH: epochs rise, rosters of one epoch are equal, and no two epochs deliver at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshsvc.mesh.epoch import Adopted
from meshsvc.model import NO_EPOCH, Epoch, LinkClass, NodeInfo, Roster
from meshsvc.sim.invariants.base import Check, register

if TYPE_CHECKING:
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.lives import SimShard
    from meshsvc.sim.processes import SimNode

DEAD_LINK_S = 12.0
"""Five seconds of silence are noticed within six; stalled packets may still come for some."""

TIE_S = 2.0
"""Two goodbyes that crossed arrive within this time."""

MAX_TIMERS = 400
"""Timers of one process at rest: a few per link, far below what a leak comes to."""


@register
class Epochs(Check):
    """Epochs only rise in a node's life, and each has one roster (MESH-2, MESH-4)."""

    section = "MESH"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._rosters: dict[Epoch, tuple[NodeInfo, ...]] = {}
        self._held: dict[tuple[str, int, int, int], Epoch] = {}

    def epoch_event(self, life: SimShard, event: Any) -> None:
        """Only adoptions matter."""
        if not isinstance(event, Adopted):
            return
        roster: Roster = event.roster
        key = (life.node.name, life.node.generation, life.index, life.incarnation)
        before = self._held.get(key, NO_EPOCH)
        if roster.epoch <= before:
            self.fail(f"{life.life} adopted epoch {roster.epoch} after {before}: epochs only rise")
        self._held[key] = roster.epoch
        known = self._rosters.setdefault(roster.epoch, roster.members)
        # Two that mint by mistake may choose one number; no node then takes both rosters.
        if known != roster.members and self.cluster.shape.controllers < 2:
            self.fail(
                f"epoch {roster.epoch} has two rosters: {_names(known)}, and at {life.life}"
                f" {_names(roster.members)}"
            )
        mine = roster.get(life.node.node_id)
        if mine is None or mine.incarnation != life.node.generation:
            self.fail(f"{life.life} adopted epoch {roster.epoch}, which does not list this life")


@register
class OneEpochDelivers(Check):
    """What is delivered carries the epoch in force, and only ever later ones (MESH-8, 9)."""

    section = "MESH"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._last: dict[tuple[str, int, int, str], Epoch] = {}

    def envelope(self, life: SimShard, link: Any, envelope: Any) -> None:
        """A data envelope came over a link."""
        if link.link_class is not LinkClass.DATA:
            return
        epoch = Epoch(envelope.term, envelope.attempt)
        where = f"{life.life} from {link.peer.name}"
        assert life.shard is not None
        mine = life.shard.data_links.core.epoch.epoch
        # The links are moved to an epoch right after it was adopted, in the same turn.
        if epoch != mine:
            self.fail(f"{where}: a frame of epoch {epoch} was delivered under {mine}")
        key = (life.node.name, life.index, life.incarnation, link.peer.node_id)
        if epoch < self._last.get(key, NO_EPOCH):
            self.fail(f"{where}: a frame of epoch {epoch} came after {self._last[key]}")
        self._last[key] = epoch
        if link.peer.node_id != envelope.source:
            self.fail(f"{where}: a frame says it is of node {envelope.source[:8]}")


@register
class NoStrangers(Check):
    """Nobody has a link to a node that is none of ours (LINK-2, MESH-6)."""

    section = "MESH"

    def link_up(self, life: SimShard, link: Any) -> None:
        """Every node of ours is known here by its id."""
        if all(node.node_id != link.peer.node_id for node in self.cluster.nodes):
            self.fail(f"{life.life} has a link to {link.peer.name}, which is of another cluster")


@register
class OneLinkAPair(Check):
    """Both ends of a pair never deliver under different epochs; one data link a pair (MESH-1)."""

    section = "MESH"

    def link_up(self, life: SimShard, link: Any) -> None:
        """Another shard of the node must not have one as well."""
        for other in life.node.shards.values():
            if other is life or other.shard is None:
                continue
            theirs = other.shard.links.link(link.peer.node_id, link.link_class)
            if theirs is not None and theirs.peer.incarnation == link.peer.incarnation:
                kind = link.link_class.name.lower()
                self.fail(
                    f"{life.life} and {other.life} both have a {kind} link to {link.peer.name}"
                )

    def link_epoch(self, life: SimShard, link: Any) -> None:
        """The two ends agree, or one of them does not deliver."""
        if link.link_class is not LinkClass.DATA or not link.agreed:
            return
        peer = self.cluster.life_of(link.peer.node_id, link.peer.incarnation)
        for other in peer.shards.values() if peer is not None else ():
            back = (
                other.shard.links.link(life.node.node_id, link.link_class) if other.shard else None
            )
            if back is None or back.peer.incarnation != life.node.generation or not back.agreed:
                continue
            if back.epoch != link.epoch:
                self.fail(
                    f"{life.life} and {other.life} deliver to each other under epochs"
                    f" {link.epoch} and {back.epoch}"
                )


@register
class LinksAreReal(Check):
    """A link does not outlive its peer by more than silence takes to notice (LINK-4, LINK-6)."""

    section = "MESH"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._duplicates: dict[tuple[str, str, LinkClass], float] = {}

    def link_down(self, life: SimShard, link: Any, reason: str) -> None:
        """Of two links of a pair one stays: nobody above notices the other."""
        if reason != "duplicate":
            return
        if self.cluster.fine_for(DEAD_LINK_S):
            self.fail(f"{life.life} lost its link to {link.peer.name} as a duplicate: of what?")
        now, me, peer = self.cluster.time.now, life.node.name, link.peer.name
        self._duplicates[me, peer, link.link_class] = now
        if now - self._duplicates.get((peer, me, link.link_class), -TIE_S) < TIE_S:
            self.fail(f"{me} and {peer} each gave up the link that the other kept, as a duplicate")

    def every_second(self) -> None:
        """Look at every link of every process that is well."""
        for node in self.cluster.nodes:
            if node.running and node.well_for(DEAD_LINK_S):
                for life in node.shards.values():
                    self._look(life)

    def _look(self, life: SimShard) -> None:
        now = self.cluster.time.now
        for link in life.shard.links.links() if life.shard is not None else ():
            ended = self.cluster.ended_at.get((link.peer.node_id, link.peer.incarnation))
            if ended is not None and now - ended > DEAD_LINK_S:
                self.fail(
                    f"{life.life} has a link to {link.peer.name} generation"
                    f" {link.peer.incarnation}, which ended {now - ended:.1f} s ago"
                )


@register
class NothingLeft(Check):
    """At rest there are exactly the links that are wanted, and few timers (MESH-5, LINK-6)."""

    section = "MESH"

    def settled(self) -> None:
        """Count the streams between hosts, and the timers of each process."""
        running = [node for node in self.cluster.nodes if node.running]
        expected = len(running) * (len(running) - 1)  # two classes, one link a pair
        net, hosts = self.cluster.net, {node.host for node in running}
        pairs = [(end, end.host, net.other(end).host) for end in net.ends()]
        between = [end for end, a, b in pairs if a is not b and {a, b} <= hosts]
        if len(between) != 2 * expected:
            self.fail(
                f"{len(between)} ends of connections between {len(running)} nodes at rest:"
                f" {2 * expected} would be one link a pair and class"
            )
        for node in running:
            self._timers(node)

    def _timers(self, node: SimNode) -> None:
        for life in node.shards.values():
            left = len(life.reactor.getDelayedCalls())
            if left > MAX_TIMERS:
                self.fail(f"{life.life} has {left} timers at rest: some are never cancelled")


def _names(members: tuple[NodeInfo, ...]) -> str:
    return "[" + ", ".join(f"{m.name}@{m.incarnation}" for m in members) + "]"

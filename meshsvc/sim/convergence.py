"""When a cluster has converged: what each running node knows is true, and one mesh stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshsvc.gossip.members import Status
from meshsvc.sim.store.rest import store_difference

if TYPE_CHECKING:
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.processes import SimNode


def difference(cluster: Cluster) -> str:
    """What is still wrong, in words; empty when the cluster has converged."""
    running = [node for node in cluster.nodes if node.running]
    names = {node.name for node in running}
    epochs: dict[str, str] = {}
    for node in running:
        wrong = _members(node, names) or _shards(node) or store_difference(node, names)
        if wrong:
            return wrong
        for life in node.shards.values():
            assert life.shard is not None
            status = life.shard.data_links.status()
            roster: list[str] = status["roster"]  # type: ignore[assignment]
            if set(roster) != names or status["state"] != "formed":
                return (
                    f"{life.life} has mesh {status['epoch']} {status['state']} with"
                    f" {','.join(roster)}, running are {','.join(sorted(names))}"
                )
            epochs[life.life] = str(status["epoch"])
    if len(set(epochs.values())) > 1:
        return f"epochs differ: {epochs}"
    return ""


def _members(node: SimNode, names: set[str]) -> str:
    life = node.zero
    if life is None or life.zero is None:
        return f"{node.name} has no shard 0"
    alive = {m.name: m for m in life.zero.gossip.members() if m.status is Status.ALIVE}
    if set(alive) != names:
        return f"{node.name} sees {','.join(sorted(alive))}, running are {','.join(sorted(names))}"
    for other in node.cluster.nodes:
        member = alive.get(other.name)
        if member is not None and member.generation != other.generation:
            return f"{node.name} sees generation {member.generation} of {other.name}"
    return ""


def _shards(node: SimNode) -> str:
    if len(node.shards) != node.shard_count:
        return f"{node.name} runs {len(node.shards)} of {node.shard_count} shards"
    for life in node.shards.values():
        if life.shard is None or not life.channel.is_ready:
            return f"{life.life} is not ready"
        if len(life.shard.bus.siblings()) != node.shard_count - 1:
            return f"{life.life} does not see all its siblings"
        members = [member.name for member in life.shard.members.alive]
        first = node.shards[next(iter(sorted(node.shards)))]
        if first.shard is None or members != [m.name for m in first.shard.members.alive]:
            return f"{life.life} has an old view"
    return ""

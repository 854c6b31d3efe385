"""TABLES: what is acknowledged is there, copies are equal at rest, and a key is new once.

The facts come from ``meshsvc.sim.table_workload``, an application that runs in every shard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshsvc.sim.invariants.base import Check, register
from meshsvc.sim.table_workload import OWNED, PLAIN, lives, replica_of, stamp_of

if TYPE_CHECKING:
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.lives import SimShard
    from meshsvc.tables.replica import Replica


@register
class Promises(Check):
    """An acknowledged write is on every member that is named; a key is new once (TBL-2, 3)."""

    section = "TABLES"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        cluster.tables.on_fault.append(self.fail)

    def settled(self) -> None:
        """What every joined member had, inserts and deletes, is there or was overwritten."""
        running = [life for node in self.cluster.nodes for life in node.shards.values()]
        for key, acked in self.cluster.tables.acked.items():
            if not any(lives(life) for life in acked.held_by):
                continue
            for life in running:
                if stamp_of(life, key) < acked.version:
                    self.fail(
                        f"{life.life} holds {key} of {stamp_of(life, key)}, and all had"
                        f" {acked.version}"
                    )
                    return


@register
class Copies(Check):
    """At rest all copies are equal, and no row is of a life that is over (TBL-4, 5)."""

    section = "TABLES"

    def settled(self) -> None:
        """Compare every copy with the first, row by row."""
        lives = [life for node in self.cluster.nodes for life in node.shards.values()]
        for name in (PLAIN, OWNED):
            held = [(life, r) for life in lives if (r := replica_of(life, name)) is not None]
            for life, replica in held:
                self._values(life, replica)
                self._differs(held[0], (life, replica))
        for life in lives:
            self._owners(life)

    def _differs(self, one: tuple[SimShard, Replica], other: tuple[SimShard, Replica]) -> None:
        (a, mine), (b, theirs) = one, other
        for rid in dict.fromkeys([*mine.rows, *theirs.rows]):
            here, there = mine.rows.get(rid), theirs.rows.get(rid)
            if here != there or mine.values.get(rid) != theirs.values.get(rid):
                self.fail(f"at rest {a.life} holds {rid} as {here}, {b.life} as {there}")
                return

    def _values(self, life: SimShard, replica: Replica) -> None:
        alive = {rid for rid, row in replica.rows.items() if not row.dead}
        if alive != set(replica.values):
            self.fail(f"{life.life} shows keys of {replica.schema.name} that it has no row for")

    def _owners(self, life: SimShard) -> None:
        replica = replica_of(life, OWNED)
        now = {node.node_id: node.generation for node in self.cluster.nodes if node.running}
        for rid, row in replica.rows.items() if replica is not None else ():
            if row.owner is None and not row.dead:
                self.fail(f"{life.life} holds {rid}, which nobody owns")
            elif row.owner is not None and now.get(row.owner.node) != row.owner.incarnation:
                self.fail(f"{life.life} holds {rid} of a life of {row.owner.node[:8]} that is over")

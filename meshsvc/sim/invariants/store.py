"""STORE: one cluster, one leader a term, equal logs and states, and what clients were told.

What clients were told is kept by ``meshsvc.sim.store.ledger``; here it is joined by what can be
seen of the replicas from within.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

from meshsvc.raft.quorum import NOBODY
from meshsvc.sim.invariants.base import Check, register

if TYPE_CHECKING:
    from meshsvc.node.store.service import StoreService
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.lives import SimShard

GROUPS = ("system", "default")

LOOK_BACK = 256
"""Entries of a log that are compared each second: more than are written in one."""


def store_of(life: SimShard | None) -> StoreService | None:
    """The store of a shard, if it has one."""
    return None if life is None or life.zero is None else life.zero.store


@register
class Clients(Check):
    """What clients were told fits together, and every request ends (KV-1, 2, 3, RAFT-6)."""

    section = "STORE"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        cluster.store.on_fault.append(self.fail)

    def shard_ended(self, life: SimShard) -> None:
        """Its clients go elsewhere; what became of their calls nobody knows."""
        for call in self.cluster.store.pending.values():
            if call.life is life and not call.lost and call.on_lost is not None:
                call.on_lost(call)

    def every_second(self) -> None:
        """A request ends in its time, unless its node is not well."""
        now = self.cluster.time.now
        for call in self.cluster.store.pending.values():
            if call.due < now and not call.excused():
                self.fail(f"{call} has not ended after {now - call.invoked:.1f} s")
                return

    def settled(self) -> None:
        """At rest every watcher knows all there is, and no lease is left."""
        for life in _lives(self.cluster):
            store = store_of(life)
            assert store is not None
            left = [lease.lease_id for lease in store.machine.leases]
            if left:
                self.fail(f"{life.life} still holds lease {left[0]:x} long after its time")
            for watcher in self.cluster.watchers:
                revision = store.machine.mvcc.revision
                if watcher.last != revision and revision > 1:  # 1 is the empty store
                    self.fail(f"{watcher.name} knows {watcher.last}, {life.life} has {revision}")


@register
class Election(Check):
    """There is one cluster, and at most one leader in each term of a group (RAFT-2, 4)."""

    section = "STORE"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._leaders: dict[tuple[str, int], int] = {}
        self._founded = 0

    def shard_built(self, life: SimShard) -> None:
        """Listen to who leads."""
        store = store_of(life)
        if store is None:
            return
        for name, slot in zip(GROUPS, (store.system, store.keyspace), strict=True):
            slot.add_leader_observer(self._observer(life, name))

    def _observer(self, life: SimShard, group: str) -> Any:
        def led(leader: int, term: int) -> None:
            store = store_of(life)
            assert store is not None
            place = store.directory.place(leader)
            who = place.name if place is not None else f"{leader:x}"
            self.cluster.note(life.node.name, "raft", f"{group} term {term} is led by {who}")
            if leader == NOBODY:
                return
            if self._leaders.setdefault((group, term), leader) != leader:
                other = self._leaders[group, term]
                self.fail(f"{group} has two leaders in term {term}: {leader:x} and {other:x}")

        return led

    def every_second(self) -> None:
        """Whoever takes part does so in the same cluster."""
        for life in _lives(self.cluster):
            store = store_of(life)
            cluster = store.members.cluster if store is not None else 0
            if not cluster:
                continue
            self._founded = self._founded or cluster
            if cluster != self._founded:
                self.fail(f"{life.life} is in store {cluster:x}, others in {self._founded:x}")


@register
class Logs(Check):
    """Applied entries are the same everywhere, and so are states at one index (RAFT-2)."""

    section = "STORE"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._entries: dict[tuple[str, int, int], int] = {}
        self._applied: dict[tuple[str, int], int] = {}
        self._states: dict[int, tuple[int, str]] = {}
        self._looked: dict[str, int] = {}

    def every_second(self) -> None:
        """Compare."""
        for life in _lives(self.cluster):
            store = store_of(life)
            assert store is not None
            for name, slot in zip(GROUPS, (store.system, store.keyspace), strict=True):
                if slot.group is not None and slot.raft_status() is not None:
                    self._log(life, name, slot.group)
            self._state(life, store.machine)

    def settled(self) -> None:
        """Compare once more."""
        self.every_second()

    def _log(self, life: SimShard, group: str, raft: Any) -> None:
        log = raft._replica.raft._core.log  # which nobody but a check needs to see
        for entry in log.entries[-LOOK_BACK:]:
            kind = (entry.term, crc32(entry.data, entry.kind))
            if self._entries.setdefault((group, entry.index, entry.term), kind[1]) != kind[1]:
                self.fail(f"{life.life}: two entries {entry.index} of term {entry.term}: {group}")
            if entry.index > log.applied:
                continue
            term = self._applied.setdefault((group, entry.index), entry.term)
            if term != entry.term:
                self.fail(
                    f"{life.life} has applied {group} {entry.index} of term {entry.term},"
                    f" another of term {term}"
                )

    def _state(self, life: SimShard, machine: Any) -> None:
        index = machine.applied_index
        if not index or self._looked.get(life.life) == index:
            return
        self._looked[life.life] = index
        steps, value = machine.hash(), 0
        try:
            while True:
                next(steps)
        except StopIteration as stop:
            value = stop.value
        known = self._states.setdefault(index, (value, life.life))
        if known[0] != value:
            self.fail(f"at {index} the states of {life.life} and {known[1]} differ")


def _lives(cluster: Cluster) -> list[SimShard]:
    found = [node.zero for node in cluster.nodes]
    return [life for life in found if life is not None and store_of(life) is not None]

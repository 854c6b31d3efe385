"""An application that reads and writes tables in every shard, and a ledger of what was promised.

Two tables: one of plain rows that are written, deleted and inserted as new by anybody, and one
of rows that end with their owner. It writes while there are faults and then stops, so that at
rest all copies must be equal. The ledger is outside of the nodes: what a result promised is
compared, at that very moment, with what the copies of the nodes that it names hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from meshsvc.errors import CallError, Fenced, LocalError
from meshsvc.interfaces import IMeshApplication
from meshsvc.tables.replica import Replica

if TYPE_CHECKING:
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.lives import SimShard
    from meshsvc.tables.writes import WriteResult

PLAIN, OWNED = "probe.plain", "probe.owned"

KEYS = 40
"""Keys that everybody writes: few, so that they meet."""

CONTESTED = 4
"""Of the names that somebody inserts as new, how many are tried again by others."""

Lives = dict[str, tuple[int, int]]
"""By node: its generation, and the incarnation of its seat."""


@dataclass(frozen=True, slots=True)
class Win:
    """Somebody was told that a key is new: who, and which lives there were then."""

    who: str
    value: Any
    lives: Lives


@dataclass(frozen=True, slots=True)
class Acked:
    """A write of a plain row that every joined member had: its version, and who held it."""

    version: int
    held_by: tuple[SimShard, ...]


@dataclass(slots=True)
class TableLedger:
    """What tables promised."""

    on_fault: list[Callable[[str], None]] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    wins: dict[str, Win] = field(default_factory=dict)
    acked: dict[str, Acked] = field(default_factory=dict)
    names: int = 0
    calm: bool = False

    def count(self, what: str) -> None:
        """Something ended so."""
        self.outcomes[what] = self.outcomes.get(what, 0) + 1

    def fault(self, words: str) -> None:
        """Something happened that cannot be."""
        for tell in self.on_fault:
            tell(words)


def replica_of(life: SimShard, name: str) -> Replica | None:
    """The copy of a table in one shard that runs."""
    return None if life.shard is None else life.shard.tables.replicas.get(name)


def lives(life: SimShard) -> bool:
    """Whether this life of a shard has not ended; its tables stop a moment before its process."""
    here = life.node.shards.get(life.index) is life
    return here and life.shard is not None and bool(life.shard.tables.running)


def stamp_of(life: SimShard, key: str) -> int:
    """The version of a plain row in one shard; 0 for none."""
    replica = replica_of(life, PLAIN)
    row = replica.rows.get(key) if replica is not None else None
    return row.stamp if row is not None else 0


def _complete(life: SimShard) -> bool:
    """Whether a shard counts: one that starts does not before it has its siblings' rows."""
    return life.shard is not None and life.shard.tables.upkeep.complete


def lives_of(cluster: Cluster) -> Lives:
    """Which lives there are now."""
    return {
        node.name: (node.generation, node.shards[max(node.shards)].incarnation)
        for node in cluster.nodes
        if node.running and len(node.shards) == node.shard_count
    }


@implementer(IMeshApplication)
class TableWorkload:
    """The application of one shard's process (one object a shard)."""

    name = "table-probe"

    def __init__(self, cluster: Cluster, rate: float) -> None:
        self.cluster, self.rate = cluster, rate

    def make_service(self, mesh: Any) -> IService:
        """Build the service."""
        return _Writer(self.cluster, mesh, self.rate)


class _Writer(Service):
    def __init__(self, cluster: Cluster, mesh: Any, rate: float) -> None:
        self._cluster, self._mesh, self._rate = cluster, mesh, rate
        self._rng = Random(cluster.rng.getrandbits(64))
        self._ledger = cluster.tables
        self._timer: Any = None
        self._me = f"{mesh.name}/{mesh.shard}"
        self._number = 0
        self._plain: Any = None
        self._owned: Any = None

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        Deferred.fromCoroutine(self._open())

    async def _open(self) -> None:
        tables = self._mesh.tables
        self._plain = await tables.open(PLAIN, join_wait_s=0)
        self._owned = await tables.open(OWNED, kind="ordered", owned=True, join_wait_s=0)
        self._again()

    def stopService(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _again(self) -> None:
        self._timer = self._mesh.clock.callLater(self._rng.expovariate(self._rate), self._turn)

    def _turn(self) -> None:
        self._again()
        if self._ledger.calm:
            return
        self._number += 1
        kind, key = self._rng.random(), f"k{self._rng.randrange(KEYS)}"
        value = [self._me, self._number]
        if kind < 0.3:
            writing = self._plain.insert(key, value)
            if self._plain.get(key) != value:
                self._ledger.fault(f"{self._me} wrote {key}, and reads {self._plain.get(key)}")
            self._write(PLAIN, key, writing)
        elif kind < 0.4:
            self._write(PLAIN, key, self._plain.delete(key))
        elif kind < 0.5:
            rows = {f"k{n}": [self._me, self._number, n] for n in range(5)}
            self._write(PLAIN, "k4", self._plain.insert_many(rows))
        elif kind < 0.7:
            key = f"{self._me}/{self._number % 5}"
            self._write(OWNED, key, self._owned.insert(key, value))
        else:
            self._insert_new(value)

    def _write(self, name: str, key: str, writing: Deferred[WriteResult]) -> None:
        names = {node.node_id: node.name for node in self._cluster.nodes}
        there = {
            life: names[node.node_id]
            for node in self._cluster.nodes
            for life in node.shards.values()
            if replica_of(life, name) is not None and _complete(life)
        }
        writing.addCallback(self._written, name, key, there)
        writing.addErrback(self._odd, f"a write of {key}")

    def _written(
        self, result: WriteResult, name: str, key: str, there: dict[SimShard, str]
    ) -> None:
        self._ledger.count("written" if result.ok else "written in part")
        if not result.version or name != PLAIN:
            return
        held_by = []
        for life, node in there.items():
            if node not in result.acked or not lives(life):
                continue
            held_by.append(life)
            if stamp_of(life, key) < result.version:
                self._ledger.fault(
                    f"{self._me} was told that {node} has {key} of {result.version}, and"
                    f" {life.life} holds {stamp_of(life, key)}"
                )
        before = self._ledger.acked.get(key)
        if result.ok and held_by and (before is None or before.version < result.version):
            self._ledger.acked[key] = Acked(result.version, tuple(held_by))

    def _insert_new(self, value: Any) -> None:
        ledger = self._ledger
        if self._rng.random() < 1 / CONTESTED:
            ledger.names += 1
        key = f"new-{max(1, ledger.names - self._rng.randrange(CONTESTED))}"
        asked = self._plain.insert_new_or_lookup(key, value, timeout_s=2.0)
        asked.addCallback(self._decided, key, value)
        asked.addErrback(self._undecided)
        asked.addErrback(self._odd, f"insert_new of {key}")

    def _decided(self, answer: tuple[bool, Any], key: str, value: Any) -> None:
        new, _ = answer
        self._ledger.count("new" if new else "not new")
        if not new:
            return
        lives = lives_of(self._cluster)
        before = self._ledger.wins.get(key)
        self._ledger.wins[key] = Win(self._me, value, lives)
        if before is None:
            return
        # A majority of whom nobody remembers is what no table in memory can make up for.
        same = [node for node, life in before.lives.items() if lives.get(node) == life]
        if len(same) > len(self._cluster.nodes) // 2:
            self._ledger.fault(
                f"{key} was new for {before.who} and again for {self._me}; {', '.join(same)}"
                " lived all the time"
            )

    def _undecided(self, failure: Failure) -> None:
        failure.trap(CallError)
        error: Any = failure.value
        self._ledger.count(error.kind)

    def _odd(self, failure: Failure, what: str) -> None:
        if not failure.check(LocalError):
            self._ledger.fault(f"{what} by {self._me} ended in {failure.value!r}")


def everyone_writes(cluster: Cluster) -> str:
    """Have one shard of each node write a row, and insert a new one; what went wrong, in words."""
    lives = [node.zero for node in cluster.nodes if node.running]
    ended: list[str] = []
    for life in lives:
        if life is not None and life.shard is not None:
            _write_one(cluster, life, ended)
    cluster.run_until(lambda: len(ended) >= 2 * len(lives), 20.0)
    wrong = [words for words in ended if words]
    if len(ended) < 2 * len(lives):
        wrong.append(f"{2 * len(lives) - len(ended)} writes never ended")
    return wrong[0] if wrong else ""


def _write_one(cluster: Cluster, life: SimShard, ended: list[str]) -> None:
    assert life.shard is not None
    table = life.shard.tables.tables.get(PLAIN)
    if table is None:
        ended.append(f"{life.life} has not opened {PLAIN}")
        ended.append("")
        return
    others = sum(node.running for node in cluster.nodes) - 1

    def written(result: Any) -> None:
        fine = getattr(result, "ok", False) and len(result.acked) == others
        ended.append("" if fine else f"a write of {life.life} at rest ended in {result}")

    def decided(result: Any) -> None:
        fine = result is True or _waits_for_the_gone(cluster, result)
        what = result.value if isinstance(result, Failure) else result
        ended.append("" if fine else f"insert_new of {life.life} at rest ended in {what!r}")

    table.insert(f"rest-{life.node.name}", 1).addBoth(written)
    table.insert_new(f"rest-new-{life.node.name}", 1, timeout_s=5.0).addBoth(decided)


def _waits_for_the_gone(cluster: Cluster, result: Any) -> bool:
    """Whether a leader refused because of nodes that cannot come back without a hand.

    They may know of rows that nobody else remembers: ``meshsvc/tables/leading/quorum.py``.
    """
    if not isinstance(result, Failure) or not result.check(Fenced):
        return False
    named = str(result.value).partition(" did not answer")[0].partition(": ")[2].split(", ")
    gone = {node.name for node in cluster.nodes if not node.running}
    return set(named) <= gone

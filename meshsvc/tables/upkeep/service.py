"""What every shard does for its tables all the time: a copy to begin with, and repair.

A shard that starts gets what its siblings hold. Now and then each shard compares its copies
with those of the seat, and the seat with those of one member chosen by chance, or of one to
which a write was lost: whatever made two copies differ, they are equal soon after.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from meshsvc.errors import SchemaConflict
from meshsvc.messaging.dispatch import Call
from meshsvc.model import ShardAddress
from meshsvc.tables.digest import COUNT
from meshsvc.tables.joining.peers import Peer
from meshsvc.tables.joining.service import Joining
from meshsvc.tables.rows import Schema

if TYPE_CHECKING:
    from meshsvc.tables.service import Tables

TICK_S = 0.5

EAGER_S = 0.05
"""The same while a sibling that is up has not been copied from, or is not up yet after a start:
until then this shard may lack rows that its node was said to have.
"""

EXPIRE_ROWS = 2000
"""Tombstones forgotten in one tick: more than are made in the long run."""

THOROUGH = 10
"""Every so many repairs look at every row that differs, also of a table that never rests."""

MEASURE_S = 5.0
"""The memory of a table that changed is estimated this often: it costs some of its values, and
nobody looks at a gauge more often.
"""

FLOOD_ROWS = 4 * COUNT
"""Rows written by the batch in one tick, in about every bucket: none of them rests, which is
what a patient repair looks for, so that to compare such a table would be for nothing.
"""

SIBLINGS_S = 5.0
"""A node joins its tables after this long even when a shard of it is not up yet."""


class Upkeep:
    """See the module's docstring."""

    def __init__(self, host: Tables, rng: Random, joining: Joining | None) -> None:
        self._host, self._rng, self._joining = host, rng, joining
        self._timer: IDelayedCall | None = None
        self._copied: set[ShardAddress] = set()
        self._busy = False
        self._soon: dict[str, None] = {}
        self._repair_at = 0.0
        self._rounds = 0
        self._edits: dict[str, int] = {}
        self._noted: dict[str, int] = {}
        self._flooded: set[str] = set()
        self._unmeasured: dict[str, None] = {}
        self._measure_at = 0.0
        self._started_at = 0.0
        self.verbs = {
            "tables.list": self._listed,
            "tables.view": lambda call: host.set_view(call.payload),
            "tables.soon": lambda call: self.soon(str(call.payload)),
        }

    @property
    def complete(self) -> bool:
        """Whether every shard of the node is up and its rows are here."""
        return self._is_complete(self._host.siblings())

    def _is_complete(self, up: list[ShardAddress]) -> bool:
        return len(up) == self._host.me.shards - 1 and self._all_copied(up)

    def _all_copied(self, up: list[ShardAddress]) -> bool:
        return all(each in self._copied for each in up)

    def start(self) -> None:
        """Begin."""
        self._started_at = self._host.reactor.seconds()
        self._tick()

    def stop(self) -> None:
        """End."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def lost(self, target: ShardAddress) -> None:
        """A write to a shard was lost."""
        if target.node != self._host.me.node_id:
            if self._joining is not None:
                self.soon(target.node)
            else:
                self._host.messaging.tell(self._host.seat, "tables.soon", target.node)

    def soon(self, node: str) -> None:
        """Compare copies with a member at the next occasion."""
        self._soon[node] = None

    def _tick(self) -> None:
        host, now = self._host, self._host.reactor.seconds()
        up = host.siblings()
        late = now - self._started_at > SIBLINGS_S
        complete = self._is_complete(up)
        eager = not complete and not (late and self._all_copied(up))
        self._timer = host.reactor.callLater(EAGER_S if eager else TICK_S, self._tick)
        for replica in host.replicas.values():
            if replica.tombstones and replica.expire(host.now(), EXPIRE_ROWS):
                host.changed(replica)
        self._measure()
        host.look_at_waiting()
        self._copied.intersection_update(up)
        if self._joining is not None:
            self._joining.tick(complete or late)
        due = self._soon or now >= self._repair_at or not self._all_copied(up)
        if due and not self._busy:
            self._busy = True
            work = Deferred.fromCoroutine(self._work(up, now))
            work.addErrback(host.failed).addBoth(self._done)

    def _measure(self) -> None:
        """Gauges of the tables that changed, now and then the memory of one of them."""
        host, gauge, known = self._host, self._host.counters.gauge, self._edits
        self._flooded.clear()
        for name, replica in host.replicas.items():
            if known.get(name) != replica.edits:
                known[name] = replica.edits
                noted = replica.digest.noted
                if noted - self._noted.get(name, 0) >= FLOOD_ROWS:
                    self._flooded.add(name)
                self._noted[name] = noted
                gauge("tables_rows", len(replica.rows) - replica.tombstones, table=name)
                gauge("tables_tombstones", replica.tombstones, table=name)
                self._unmeasured[name] = None
        now = host.reactor.seconds()
        if self._unmeasured and now >= self._measure_at:
            self._measure_at = now + MEASURE_S
            name = next(iter(self._unmeasured))
            del self._unmeasured[name]
            gauge("tables_memory_bytes", host.looking.table(name).memory, table=name)

    def _done(self, _: Any) -> None:
        self._busy = False

    async def _work(self, up: list[ShardAddress], now: float) -> None:
        for sibling in up:
            if sibling not in self._copied:
                await self._copy(sibling)
                self._copied.add(sibling)
                self._host.look_at_waiting()
        if self._soon or now >= self._repair_at:
            interval_s = self._host.settings.repair_interval_s
            self._repair_at = now + interval_s * (0.5 + self._rng.random())
            await self._repair()

    async def _copy(self, sibling: ShardAddress) -> None:
        host = self._host
        for fields in await host.ask(sibling, "tables.list", None, 5.0):
            try:
                replica = host.replica(Schema.read(fields))
            except SchemaConflict as error:
                host.log.warn("{error}", error=error)
                continue
            await host.exchange.repair(sibling, replica)

    async def _repair(self) -> None:
        host = self._host
        self._rounds += 1
        patient = not self._soon and self._rounds % THOROUGH != 0
        target, replicas = host.seat, list(host.replicas.values())
        if self._joining is not None:
            peer = self._whom(self._joining)
            if peer is None:
                return
            target = peer.seat
            replicas = [replica for replica in replicas if peer.joined(replica.schema.name)]
        elif target not in host.siblings():
            return
        if patient:
            replicas = [each for each in replicas if each.schema.name not in self._flooded]
        for replica in await host.exchange.unlike(target, replicas):
            self._count(await host.exchange.repair(target, replica, patient))

    def _whom(self, joining: Joining) -> Peer | None:
        while self._soon:
            node = next(iter(self._soon))
            del self._soon[node]
            for peer in joining.peers.values():
                if peer.info.node_id == node and peer.reachable:
                    return peer
        able = [peer for peer in joining.peers.values() if peer.reachable and peer.greeted]
        return self._rng.choice(able) if able else None

    def _count(self, differed: int) -> None:
        if differed:
            self._host.counters.add("tables_rows_repaired_total", differed)

    def _listed(self, call: Call) -> Any:
        return [replica.schema.wire() for replica in self._host.replicas.values()]

"""The tables of one shard: opened, written, and kept equal with every other copy.

How a write travels: it is merged here, and at the end of the turn goes to the shards of this
node over the bus and to each member in one message, to the shard that holds the link. That
one merges it, passes it on to its siblings and answers when all of them have it. What is lost
on the way is named in the result and brought by anti-entropy. The last shard of each node, its
*seat*, joins tables with other nodes (``joining``) and tells its siblings with whom.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshsvc.errors import BadTable, CallError, SchemaConflict, TimedOut
from meshsvc.gossip.members import Member
from meshsvc.messaging.dispatch import Call
from meshsvc.model import (
    NO_EPOCH,
    Epoch,
    LinkClass,
    NodeInfo,
    Roster,
    ShardAddress,
    ShardId,
)
from meshsvc.tables.clock import Clock
from meshsvc.tables.columns import Rows
from meshsvc.tables.conflicts import SHIPPED
from meshsvc.tables.difference import parts
from meshsvc.tables.joining.service import Joining
from meshsvc.tables.leading.service import Asking, Leading
from meshsvc.tables.lives import Lives
from meshsvc.tables.looking.service import Looking
from meshsvc.tables.means import Means
from meshsvc.tables.protocol import SLICE_ROWS, Exchange
from meshsvc.tables.replica import Change, Replica
from meshsvc.tables.rows import Origin, Owner, Schema, check_kind, check_name
from meshsvc.tables.sending.service import Sending
from meshsvc.tables.settings import Settings
from meshsvc.tables.table import Table
from meshsvc.tables.upkeep.service import Upkeep
from meshsvc.tables.view import View
from meshsvc.tables.writes import CLOCK, BatchReader

MAX_TABLES = 1024
"""Tables of a node; each costs 8 KiB of fingerprints a shard, and a comparison now and then."""


class Tables(Service):
    """See the module's docstring.

    Args:
        means: what it works with.
        me: this node.
        origin: this life of this shard.
        settings: what can be set.
    """

    name = "tables"
    log = Logger()

    def __init__(self, means: Means, me: NodeInfo, origin: Origin, settings: Settings) -> None:
        self.reactor, self.messaging, self.counters = means.reactor, means.messaging, means.counters
        self.ways, self.me, self.origin, self.settings = means.ways, me, origin, settings
        self.shard_life, self.max_row = origin.shard_incarnation, settings.max_row
        self.address = ShardAddress(me.node_id, origin.shard)
        self.seat = ShardAddress(me.node_id, ShardId(me.shards - 1))
        self.owner = Owner(me.node_id, me.incarnation)
        self.clock, self.reader, self.view = Clock(), BatchReader(), View()
        self.lives = Lives(me.node_id, me.incarnation)
        self.roster: Roster | None = None
        self.epoch: Epoch = NO_EPOCH
        self.replicas: dict[str, Replica] = {}
        self.tables: dict[str, Table] = {}
        self._watchers: dict[str, list[Callable[[list[Change]], object]]] = {}
        self._told: dict[str, Replica] = {}
        self.observers: list[Callable[[], object]] = []
        self._waiting: list[tuple[str, Deferred[None]]] = []
        self._flushing = False
        self.exchange, self.sending = Exchange(self), Sending(self)
        self.put, self.nothing = self.sending.put, self.sending.nothing
        resolvers = {**SHIPPED, **means.resolvers}
        is_seat = self.address == self.seat
        self.joining = Joining(self, means.rng, resolvers) if is_seat else None
        self.leading = Leading(self) if is_seat else None
        self.lead = Asking(self).lead
        self.upkeep = Upkeep(self, means.rng, self.joining)
        self.looking = Looking(self)
        self._verbs = {
            **self.exchange.verbs,
            **self.upkeep.verbs,
            **self.looking.verbs,
            **(self.joining.verbs if self.joining else {}),
            **(self.leading.verbs if self.leading else {}),
            "tables.write": self.sending.written,
            "tables.copy": self.sending.copied,
            "tables.opened": self._opened,
        }
        for verb, handler in self._verbs.items():
            self.messaging.register(verb, handler)

    # --- opening -------------------------------------------------------------------------

    def open(
        self,
        name: str,
        kind: str = "set",
        owned: bool = False,
        resolver: str = "last-writer",
    ) -> Table:
        """The table of a name, from now on held by every shard of this node.

        Raises:
            BadTable: when the name, or the kind, is none.
            SchemaConflict: when it is open as something else.
        """
        schema = Schema(check_name(name), check_kind(kind), owned, resolver)
        known = name in self.replicas
        replica = self.replica(schema)
        table = self.tables.get(name)
        if table is None:
            table = self.tables[name] = Table(self, replica)
        if not known:
            for sibling in self.siblings():
                self.ask(sibling, "tables.opened", schema.wire(), 5.0).addErrback(_unheard)
        return table

    def replica(self, schema: Schema) -> Replica:
        """The copy of a table; made when there is none.

        Raises:
            SchemaConflict: when it is there as something else, or there are too many.
        """
        replica = self.replicas.get(schema.name)
        if replica is None:
            if len(self.replicas) >= MAX_TABLES:
                raise SchemaConflict(f"{schema.name}: a node holds {MAX_TABLES} tables at most")
            replica = self.replicas[schema.name] = self.blank(schema)
            if self.joining is not None:
                self.joining.opened(schema)
        objection = schema is not replica.schema and replica.schema.objection(schema)
        if objection:
            raise SchemaConflict(f"the table {schema.name} is open on {self.me.name}: {objection}")
        return replica

    def blank(self, schema: Schema) -> Replica:
        """An empty copy."""
        life_s, most = self.settings.tombstone_life_s, self.settings.max_tombstones
        return Replica(schema, self.lives.gone, life_s, most)

    def _opened(self, call: Call) -> None:
        self.replica(Schema.read(call.payload))

    # --- what an exchange needs ----------------------------------------------------------

    def ask(
        self,
        target: ShardAddress,
        verb: str,
        payload: object,
        timeout_s: float,
        link_class: LinkClass = LinkClass.DATA,
    ) -> Deferred[Any]:
        """Ask a shard."""
        return self.messaging.ask(target, verb, payload, timeout_s, link_class)

    def siblings(self) -> list[ShardAddress]:
        """The other shards of this node that are up."""
        return [ShardAddress(self.me.node_id, shard) for shard, _ in self.ways.siblings()]

    def believable(self, copied: Rows) -> Rows:
        """The rows whose stamps are not too far ahead, noted by the clock."""
        wall_s, observe = self.reactor.seconds(), self.clock.observe
        if all(observe(row.stamp, wall_s) for row in copied.rows):
            return copied
        kept = Rows()
        for rid, row, value in copied:
            if observe(row.stamp, wall_s):
                kept.append(rid, row, value)
        refused = len(copied) - len(kept)
        self.counters.add("tables_rows_rejected_total", refused, reason=CLOCK)
        return kept

    def now(self) -> int:
        """The clock, for ages."""
        return self.clock.now(self.reactor.seconds())

    def objection(self, name: str, epoch: Epoch) -> str:
        """Why what a leader decided is not taken here; only a seat objects."""
        return self.leading.objection(name, epoch) if self.leading is not None else ""

    def name_of(self, shard: ShardAddress) -> str:
        """A shard of this node, for people."""
        return f"{self.me.name}/{shard.shard}"

    def targets(self, name: str, everybody: bool = False) -> list[tuple[NodeInfo, bool]]:
        """The members of the roster that get writes, and whether their answers count."""
        members = self.view.members.get(name, {})
        if self.roster is None or not (members or everybody):
            return []
        return [
            (node, everybody or members[node.node_id])
            for node in self.roster.members
            if node.node_id in members or (everybody and node.node_id != self.me.node_id)
        ]

    def lost(self, target: ShardAddress, writes: int) -> None:
        """Writes to a shard were lost: have the two copies compared soon."""
        self.counters.add("tables_writes_lost_total", writes)
        self.upkeep.lost(target)

    # --- who is there --------------------------------------------------------------------

    def adopted(self, roster: Roster) -> None:
        """Another epoch is in force."""
        self.roster, self.epoch = roster, roster.epoch
        self.look_at_waiting()
        if self.joining is not None:
            self.joining.adopted(roster)
        if self.leading is not None:
            self.leading.adopted(roster)

    def member(self, member: Member) -> None:
        """The membership has news of a node."""
        if self.lives.learn(member):
            for replica in self.replicas.values():
                if replica.schema.owned:
                    Deferred.fromCoroutine(self._disown(replica)).addErrback(self.failed)

    async def _disown(self, replica: Replica) -> None:
        for part in parts(replica.rids(), 10 * SLICE_ROWS):
            dropped = replica.disown(part)
            if dropped:
                self.counters.add("tables_rows_disowned_total", dropped)
                self.changed(replica)
            await self.exchange.breathe()

    def failed(self, failure: Failure) -> None:
        """Something of this floor's own went wrong; lost ways are no news."""
        if not failure.check(CallError):
            self.log.failure("a table's background work failed", failure)

    # --- how tables are joined -----------------------------------------------------------

    def set_view(self, view: dict[str, Any]) -> None:
        """The seat tells with whom tables are joined."""
        self.view.take(view)
        self.look_at_waiting()
        for observer in self.observers:
            observer()

    def look_at_waiting(self) -> None:
        """Tell those who wait for a table to be joined, if it is."""
        for name, done in list(self._waiting):
            if not self._missing(name):
                self._waiting.remove((name, done))
                done.callback(None)

    def _missing(self, name: str) -> list[str]:
        out = self.view.missing(name, self.me.node_id, self.roster)
        return out if self.upkeep.complete else [f"the other shards of {self.me.name}", *out]

    def status(self, name: str) -> dict[str, object]:
        """A table as people are shown it: what it is, what it holds, and who has it.

        Raises:
            BadTable: when it is not open on this node.
        """
        replica = self.replicas.get(name)
        if replica is None:
            raise BadTable(f"the table {name!r:.80} is not open on {self.me.name}")
        schema = replica.schema
        return {
            "name": schema.name,
            "kind": schema.kind.value,
            "owned": schema.owned,
            "resolver": schema.resolver,
            "rows": len(replica.rows) - replica.tombstones,
            "tombstones": replica.tombstones,
            **self.view.status(name),
        }

    def wait_joined(self, name: str, timeout_s: float) -> Deferred[None]:
        """Fires when a table is joined with every member that holds it.

        Fails with ``TimedOut``, which names the members that are missing, and why they are.
        """
        done: Deferred[None] = Deferred()
        if not self._missing(name):
            done.callback(None)
            return done
        self._waiting.append((name, done))

        def late(_: object, __: float) -> None:
            missing = ", ".join(self._missing(name))
            raise TimedOut(f"{name} is not joined after {timeout_s:g} s with {missing}")

        def forget(result: Any) -> Any:
            if (name, done) in self._waiting:
                self._waiting.remove((name, done))
            return result

        done.addTimeout(timeout_s, self.reactor, onTimeoutCancel=late)
        return done.addBoth(forget)

    # --- watchers ------------------------------------------------------------------------

    def watch(
        self, replica: Replica, callback: Callable[[list[Change]], object]
    ) -> Callable[[], None]:
        """Call back with changes; returns what ends that."""
        watchers = self._watchers.setdefault(replica.schema.name, [])
        watchers.append(callback)
        replica.watched = True

        def end() -> None:
            if callback in watchers:
                watchers.remove(callback)
            replica.watched = bool(watchers)

        return end

    def changed(self, replica: Replica) -> None:
        """Rows of a copy changed: its watchers are told at the end of the turn."""
        if replica.watched:
            self._told[replica.schema.name] = replica
            self.flush_later()

    def flush_later(self) -> None:
        """Do what is due at the end of the turn."""
        if not self._flushing:
            self._flushing = True
            self.reactor.callLater(0, self._flush)

    def _flush(self) -> None:
        self._flushing = False
        self.sending.flush()
        told, self._told = self._told, {}
        for replica in told.values():
            self._tell(replica)

    def _tell(self, replica: Replica) -> None:
        changes = replica.take_changes()
        for callback in list(self._watchers.get(replica.schema.name, ())) if changes else ():
            try:
                callback(changes)
            except Exception:
                self.log.failure("a subscriber of {name} failed", name=replica.schema.name)

    def startService(self) -> None:
        """Begin to look after the tables."""
        super().startService()  # type: ignore[no-untyped-call]
        self.upkeep.start()

    def stopService(self) -> None:
        """Send what was written, and nothing after it."""
        super().stopService()  # type: ignore[no-untyped-call]
        self.upkeep.stop()
        self._flush()
        waiting, self._waiting = self._waiting, []
        for _, done in waiting:
            done.cancel()
        for verb in self._verbs:
            self.messaging.unregister(verb)


def _unheard(failure: Failure) -> None:
    failure.trap(CallError)

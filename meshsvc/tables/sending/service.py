"""The writes of one shard: out to every copy, and in from the others.

Writes of a turn are gathered by table, encoded once, and sent when the turn is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from meshsvc.errors import Disconnected, Fenced, SchemaConflict, TimedOut, TooLarge
from meshsvc.messaging.dispatch import Call
from meshsvc.model import Epoch, NodeInfo, ShardAddress
from meshsvc.shards.placement import link_owner
from meshsvc.tables.columns import MANY
from meshsvc.tables.replica import Replica
from meshsvc.tables.rows import Key, Kind, Row
from meshsvc.tables.writes import (
    CLOCK,
    OTHER_SCHEMA,
    OWNER_GONE,
    STALE,
    Batch,
    Entry,
    Turn,
    Write,
    WriteResult,
    encode_batch,
)

if TYPE_CHECKING:
    from meshsvc.tables.service import Tables

TURN_BYTES = 4 * 1024 * 1024
"""Writes to one table that go in one message; more begin the next."""

EARLY_BYTES = 32 * 1024
"""A call that brings a turn to this size does not wait for its end: merging so much takes the
others as long as it does here, so they had better do it at the same time."""

MAX_ENTRY_BYTES = 16 * 1024 * 1024
"""Rows of one call, encoded: what an outbox holds."""

_Where = tuple[str, float, bool]
"""What writes of a turn have in common that travel together: table, time-out, decided."""

Waiting = tuple[Write, int]
"""A call that waits, and the number of its entry in the batch."""


class _Target(NamedTuple):
    address: ShardAddress
    verb: str
    name: str


class Sending:
    """See the module's docstring; ``host`` is the shard's tables."""

    def __init__(self, host: Tables) -> None:
        self._host = host
        self._turns: dict[_Where, Turn] = {}
        self._acked = host.counters.counter("tables_writes_acked_total")

    def put(
        self,
        replica: Replica,
        keys: Sequence[Key],
        values: Sequence[Any],
        dead: bool,
        timeout_s: float | None = None,
        size: int = 0,
    ) -> Deferred[WriteResult]:
        """Merge rows here, and send them to everybody at the end of the turn.

        Raises:
            TooLarge: before anything is done.
        """
        if size > MAX_ENTRY_BYTES:
            raise TooLarge(
                f"{len(keys)} rows of {replica.schema.name} take {size} bytes, one call may write"
                f" {MAX_ENTRY_BYTES}: write them in several calls"
            )
        host, schema = self._host, replica.schema
        where = self._where(schema.name, timeout_s, False)
        turn = self._turn(where)
        alone = len(keys) == 1 and not dead and schema.kind is not Kind.BAG
        shared = turn.share(keys[0], host.clock.last) if alone else None
        there = replica.rows.get(keys[0]) if shared is not None else None
        if shared is not None and there is not None and there.stamp >= shared.row.stamp:
            shared = None  # it came with our own stamp, of all, and must be beaten
        if shared is not None:
            row = shared.row
            turn.join(keys[0], values[0])
        else:
            owner = host.owner if schema.owned and not dead else None
            row = Row(host.clock.stamp(host.reactor.seconds()), host.origin, dead, owner)
            turn.begin(Entry(schema, row, False, _listed(keys), _listed(values)))
        write, done = self._wait(turn, row, size)
        early = len(keys) >= MANY and turn.size >= EARLY_BYTES
        if early:
            write.expect(1)  # it is not over before it is merged here
            self._send_early(where)
        self._merge(write, replica, row, keys, values)
        if early:
            write.answered()
        return done

    def send(
        self, replica: Replica, entry: Entry, timeout_s: float, enough: int
    ) -> Deferred[WriteResult]:
        """Merge what a leader decided here, and send it to the whole roster.

        The result is there as soon as ``enough`` members have it.
        """
        turn = self._turn(self._where(entry.schema.name, timeout_s, True))
        turn.begin(entry)
        write, done = self._wait(turn, entry.row, 0, enough)
        self._merge(write, replica, entry.row, entry.keys, entry.values)
        return done

    def _where(self, name: str, timeout_s: float | None, decided: bool) -> _Where:
        return name, timeout_s or self._host.settings.write_timeout_s, decided

    def _turn(self, where: _Where) -> Turn:
        turn = self._turns.get(where)
        if turn is not None and turn.size > TURN_BYTES:
            self._send(*where, self._turns.pop(where))
            turn = None
        if turn is None:
            turn = self._turns[where] = Turn()
            self._host.flush_later()
        return turn

    def _wait(
        self, turn: Turn, row: Row, size: int, enough: int | None = None
    ) -> tuple[Write, Deferred[WriteResult]]:
        done: Deferred[WriteResult] = Deferred()
        write = Write(done.callback, row.stamp, enough)
        turn.wait(write, size)
        return write, done

    def _merge(
        self,
        write: Write,
        replica: Replica,
        row: Row,
        keys: Sequence[Key],
        values: Sequence[Any],
    ) -> None:
        write.changed = replica.put(row, keys, values, row.stamp)
        if replica.watched:
            self._host.changed(replica)

    def nothing(self) -> Deferred[WriteResult]:
        """The result of a write that had nothing to write."""
        done: Deferred[WriteResult] = Deferred()
        done.callback(WriteResult())
        return done

    def flush(self) -> None:
        """The turn is over."""
        turns, self._turns = self._turns, {}
        for (name, timeout_s, decided), turn in turns.items():
            self._send(name, timeout_s, decided, turn)

    def _send_early(self, where: _Where) -> None:
        """Send a turn that is not over, and have it leave at once."""
        self._send(*where, self._turns.pop(where))
        for node, _ in self._host.targets(where[0]):
            self._host.messaging.hurry(self._gate(node))

    def _gate(self, node: NodeInfo) -> ShardAddress:
        """The shard of another node that takes this shard's writes: it holds the link."""
        return ShardAddress(node.node_id, link_owner(self._host.me.node_id, node.shards))

    def _send(self, name: str, timeout_s: float, decided: bool, turn: Turn) -> None:
        host = self._host
        turn.close()
        data = encode_batch(host.epoch, host.origin, turn.entries)
        for sibling in host.siblings():
            self._send_to(
                _Target(sibling, "tables.copy", host.name_of(sibling)), data, timeout_s, turn.writes
            )
        for node, joined in host.targets(name, decided):
            writes = turn.writes if joined else []
            to = _Target(self._gate(node), "tables.write", node.name)
            self._send_to(to, data, timeout_s, writes)
        for write, _ in turn.writes:
            write.answered()

    def _send_to(self, to: _Target, data: bytes, timeout_s: float, writes: list[Waiting]) -> None:
        for write, _ in writes:
            write.expect(1)
        asked = self._host.ask(to.address, to.verb, data, timeout_s)
        asked.addCallbacks(self._answered, self._lost, (to, writes), {}, (to, writes), {})

    def _answered(self, refusals: Any, to: _Target, writes: list[Waiting]) -> None:
        own = to.verb == "tables.copy"
        why: dict[int, str] = dict(refusals)
        if not own and not why:
            self._acked.value += len(writes)
        for write, number in writes:
            text = why and (why.get(-1) or why.get(number))
            if text:
                write.rejected(to.name, text)
            elif own:
                write.answered()
            else:
                write.acked(to.name)

    def _lost(self, failure: Failure, to: _Target, writes: list[Waiting]) -> None:
        error, own = failure.value, to.verb == "tables.copy"
        # A shard of this node that ended holds nothing any more: its next life begins with a copy.
        if own and isinstance(error, Disconnected):
            for write, _ in writes:
                write.answered()
            return
        self._host.lost(to.address, len(writes))
        for write, _ in writes:
            write.lost(to.name, str(error))

    # --- in ------------------------------------------------------------------------------

    def written(self, call: Call) -> Any:
        """From another node: merge, pass on to the siblings, answer when they have it."""
        host = self._host
        batch = host.reader.read(call.payload)
        if batch.epoch < host.epoch:
            host.counters.add("tables_writes_rejected_total", reason=STALE)
            return [[-1, f"{STALE}: it is of {batch.epoch}, {host.me.name} is at {host.epoch}"]]
        refusals = self._apply(batch)
        siblings = host.siblings()
        if not siblings:
            return refusals
        left_s = max(0.1, 0.9 * (call.remaining_s or 1.0))
        asks = [host.ask(each, "tables.copy", call.payload, left_s) for each in siblings]
        decided = any(entry.decided for entry in batch.entries)
        passed = DeferredList(asks, consumeErrors=True)
        return passed.addCallback(self._passed_on, siblings, refusals, decided)

    def _passed_on(
        self,
        results: list[tuple[bool, Any]],
        siblings: list[ShardAddress],
        refusals: list[Any],
        decided: bool,
    ) -> list[Any]:
        host = self._host
        took = {host.address}
        for (ok, answer), sibling in zip(results, siblings, strict=True):
            if ok:
                refusals += answer
                took.add(sibling)
            elif not isinstance(answer.value, Disconnected):
                raise TimedOut(f"{host.name_of(sibling)} has not taken it: {answer.value}")
        # What a leader decided counts only when the seat, which knows what is sealed, took it.
        if decided and host.seat not in took:
            raise Fenced(f"{host.name_of(host.seat)}, the seat of {host.me.name}, is not up")
        return refusals

    def copied(self, call: Call) -> Any:
        """From a sibling."""
        return self._apply(self._host.reader.read(call.payload))

    def _apply(self, batch: Batch) -> list[list[Any]]:
        """Merge a batch; answers what was refused, as [number of the entry, why]."""
        host = self._host
        refusals: list[list[Any]] = []
        for number, entry in enumerate(batch.entries):
            why = self._objection(entry, batch.epoch)
            if why:
                host.counters.add("tables_writes_rejected_total", reason=why.partition(":")[0])
                refusals.append([number, why])
                continue
            replica = host.replicas[entry.schema.name]
            replica.put(entry.row, entry.keys, entry.values, host.clock.last)
            if replica.watched:
                host.changed(replica)
        return refusals

    def _objection(self, entry: Entry, epoch: Epoch) -> str:
        host = self._host
        known = host.replicas.get(entry.schema.name)
        if known is None or known.schema != entry.schema:
            try:
                host.replica(entry.schema)
            except SchemaConflict as error:
                return f"{OTHER_SCHEMA}: {error}"
        if not host.clock.observe(entry.row.stamp, host.reactor.seconds()):
            return f"{CLOCK}: the writer's clock is over a day ahead of {host.me.name}'s"
        owner = entry.row.owner
        if owner is not None and host.lives.gone(owner):
            return f"{OWNER_GONE}: {host.me.name} holds that life of the writer's node for over"
        return host.objection(entry.schema.name, epoch) if entry.decided else ""


def _listed(column: Sequence[Any]) -> list[Any]:
    return column if type(column) is list else list(column)

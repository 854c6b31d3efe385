"""What two copies say to each other to become equal: both sides of it.

One side leads: it asks which tables differ, then for the fingerprints of each of those, and
where they differ sends what it has and is told what it lacks and what the other lacks.
Anti-entropy merges rows as they come. A join stages them on both sides first, so that one that
ends half way leaves no trace.

All of it is cut into slices of a few milliseconds, with a turn of the reactor between them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from meshsvc.counters import Counters
from meshsvc.errors import Disconnected, SchemaConflict, WireError
from meshsvc.messaging.dispatch import Call
from meshsvc.model import ShardAddress
from meshsvc.tables.columns import Rows, column
from meshsvc.tables.difference import (
    ROWS_A_CHUNK,
    Gathered,
    chunks,
    index,
    missing,
    pack,
    parts,
    read_rids,
    read_summary,
    summarize,
    unpack,
)
from meshsvc.tables.digest import COUNT
from meshsvc.tables.replica import Replica
from meshsvc.tables.rows import Schema
from meshsvc.tables.writes import BatchReader

STEP_S = 5.0
"""Seconds for one question: the other side needs one to look through a million rows."""

SLICE_ROWS = 1000
"""Rows merged, or hashed, in one go: two milliseconds."""

REST_S = 0.5
"""A write is everywhere after some milliseconds, on a busy machine some tens of them."""

MAX_INDEXES = 8
MAX_STAGES = 4
LEASE_S = 15.0
"""What was prepared for somebody who does not come back is dropped after this long."""


class Host(Protocol):
    """The shard's tables, as this side of an exchange needs them."""

    reactor: IReactorTime
    counters: Counters
    reader: BatchReader
    replicas: dict[str, Replica]

    def ask(
        self, target: ShardAddress, verb: str, payload: object, timeout_s: float
    ) -> Deferred[Any]:
        """Ask a shard over the data plane."""

    def replica(self, schema: Schema) -> Replica:
        """The copy of a table; made when there is none."""

    def siblings(self) -> list[ShardAddress]:
        """The other shards of this node that are up."""

    def believable(self, copied: Rows) -> Rows:
        """The rows whose stamps are not too far ahead, noted by the clock."""

    def now(self) -> int:
        """The clock, for ages."""

    def changed(self, replica: Replica) -> None:
        """Rows of a copy changed."""


@dataclass(slots=True)
class _Kept:
    source: ShardAddress
    replica: Replica
    until: float
    buckets: dict[int, list[Any]] = field(default_factory=dict)
    rows: deque[Rows] = field(default_factory=deque)


class Exchange:
    """Both sides; see the module's docstring."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._kept: dict[int, _Kept] = {}
        self._next = 0
        self.verbs: dict[str, Callable[[Call], Any]] = {
            "tables.roots": self._rooted,
            "tables.compare": self._compared,
            "tables.index": self._indexed,
            "tables.diff": self._differing,
            "tables.fetch": self._fetched,
            "tables.rows": self._given,
            "tables.stage": self._staged,
        }

    # --- the side that leads -------------------------------------------------------------

    async def unlike(self, target: ShardAddress, replicas: Sequence[Replica]) -> list[Replica]:
        """The tables of which another copy differs: one small question for all of them."""
        roots = []
        for replica in replicas:
            await self.settle(replica)
            roots.append([replica.schema.wire(), replica.digest.root()])
        names = set(await self._host.ask(target, "tables.roots", roots, STEP_S) if roots else ())
        return [replica for replica in replicas if replica.schema.name in names]

    async def compare(self, target: ShardAddress, replica: Replica) -> tuple[list[int], int]:
        """The buckets in which another copy differs, and how many rows that one has."""
        theirs, rows = await self._prints(target, replica)
        return list(range(COUNT)) if theirs is None else replica.digest.differing(theirs), rows

    async def _prints(self, target: ShardAddress, replica: Replica) -> tuple[bytes | None, int]:
        """Its fingerprints, None when one side is empty; ours are up to date then."""
        question = [replica.schema.wire(), len(replica.rows)]
        packed, rows = await self._host.ask(target, "tables.compare", question, STEP_S)
        if packed is not None:
            await self.settle(replica)
        return packed, int(rows)

    async def _at_rest(self, target: ShardAddress, replica: Replica) -> tuple[list[int], int]:
        """As ``compare``, without the buckets that were written to in the last moment.

        Copies of a table that is written to always differ in what is on its way; to compare
        those rows one by one would cost more than the writes.
        """
        theirs, rows = await self._prints(target, replica)
        if theirs is None:
            return list(range(COUNT)), rows
        mine, buckets = replica.digest.packed(), replica.digest.differing(theirs)
        if not buckets:
            return [], rows
        await deferLater(self._host.reactor, REST_S)
        again, rows = await self._prints(target, replica)
        if again is None:
            return [], rows
        both, now = mine + theirs, replica.digest.packed() + again
        size, half = len(mine) // COUNT, len(mine)

        def same(bucket: int) -> bool:
            at = bucket * size
            return all(both[x : x + size] == now[x : x + size] for x in (at, at + half))

        return [bucket for bucket in buckets if same(bucket)], rows

    async def repair(self, target: ShardAddress, replica: Replica, patient: bool = False) -> int:
        """Make another copy and this one equal, the greater version winning; how many differed.

        With ``patient``, only where neither was written to in the last moment.
        """
        look = self._at_rest if patient else self.compare
        buckets, rows = await look(target, replica)
        if not buckets:
            return 0
        differed = 0
        async for found in self._differences(target, replica, buckets, rows, both=False):
            differed += sum(map(len, [*found.rows, *found.wanted]))
            for part in found.rows:
                await self.merge(replica, part, spread=target not in self._host.siblings())
            for rids in found.wanted:
                await self.give(target, replica, rids, "tables.rows", spread=True)
        return differed

    async def gather(
        self,
        target: ShardAddress,
        replica: Replica,
        buckets: list[int],
        rows: int,
        told: Callable[[int], object],
    ) -> Gathered:
        """Everything that differs, unmerged; of rows that both have, both versions.

        ``told`` is called with how many of the buckets are done, now and then.
        """
        all_of_it = Gathered()
        async for found in self._differences(target, replica, buckets, rows, both=True):
            all_of_it.rows += found.rows
            all_of_it.wanted += found.wanted
            all_of_it.buckets += found.buckets
            told(all_of_it.buckets)
        return all_of_it

    async def _differences(
        self, target: ShardAddress, replica: Replica, buckets: list[int], rows: int, both: bool
    ) -> Any:
        host, name = self._host, replica.schema.name
        if not rows:  # the other side is empty: there is nothing to ask
            for part in parts(replica.rids(), ROWS_A_CHUNK):
                found = Gathered()
                found.wanted.append(part)
                yield found
                await self.breathe()
            return
        mine = await self.index(replica, buckets)
        session = await host.ask(target, "tables.index", [replica.schema.wire(), buckets], STEP_S)
        for chunk in chunks(buckets, max(rows, len(replica.rows))):
            here = [rid for bucket in chunk for rid in mine.pop(bucket)]
            question = [session, chunk, summarize(replica, here), both]
            columns, left, want = await host.ask(target, "tables.diff", question, STEP_S)
            found = Gathered()
            found.buckets = len(chunk)
            found.wanted.append(read_rids(replica.schema.kind, want))
            found.rows.append(unpack(host.reader, replica.schema.kind, columns))
            left = read_rids(replica.schema.kind, left)
            while left:
                question = [name, column(left)]
                columns, used = await host.ask(target, "tables.fetch", question, STEP_S)
                found.rows.append(unpack(host.reader, replica.schema.kind, columns))
                left = left[max(1, used) :]
            yield found

    async def give(
        self,
        target: ShardAddress,
        replica: Replica,
        rids: Sequence[Any],
        verb: str,
        *with_: object,
        spread: bool = False,
    ) -> None:
        """Send rows to another copy, in as many messages as they need."""
        at = 0
        while at < len(rids):
            columns, used = pack(replica, rids[at : at + SLICE_ROWS])
            at += used
            payload = [replica.schema.wire(), columns, spread, *with_]
            await self._host.ask(target, verb, payload, STEP_S)

    async def merge(self, replica: Replica, copied: Rows, spread: bool) -> None:
        """Merge rows in slices; with ``spread``, give them to the other shards as well."""
        host = self._host
        for at in range(0, len(copied), SLICE_ROWS):
            part = host.believable(copied.part(at, SLICE_ROWS))
            if replica.merge(part, host.now()):
                host.changed(replica)
            if spread:
                await self._spread(replica, part.rids)
            else:
                await self.breathe()

    async def _spread(self, replica: Replica, rids: list[Any]) -> None:
        siblings = self._host.siblings()
        if not siblings:
            await self.breathe()
        at = 0
        while siblings and at < len(rids):
            columns, used = pack(replica, rids[at:])
            at += used
            payload = [replica.schema.wire(), columns, False]
            asks = [self._host.ask(each, "tables.rows", payload, STEP_S) for each in siblings]
            await DeferredList(asks, consumeErrors=True)  # who missed it will compare

    async def settle(self, replica: Replica) -> None:
        """Bring the fingerprints up to date."""
        while not replica.digest.settle(replica.rows, SLICE_ROWS):
            await self.breathe()

    async def breathe(self) -> None:
        """Let the reactor have a turn."""
        await deferLater(self._host.reactor, 0)

    async def index(self, replica: Replica, buckets: list[int]) -> dict[int, list[Any]]:
        """The rows in some buckets."""
        found: dict[int, list[Any]] = {bucket: [] for bucket in buckets}
        for part in parts(replica.rids(), 10 * SLICE_ROWS):
            index(part, found)
            await self.breathe()
        return found

    # --- the side that answers -----------------------------------------------------------

    async def _rooted(self, call: Call) -> Any:
        """Answers the names of those tables that are something else here."""
        names = []
        for fields, theirs in call.payload:
            schema = Schema.read(fields)
            try:
                replica = self._host.replica(schema)
            except SchemaConflict:
                names.append(schema.name)  # who asks for its rows is told why not
                continue
            await self.settle(replica)
            if replica.digest.root() != theirs:
                names.append(schema.name)
        return names

    async def _compared(self, call: Call) -> Any:
        schema, theirs = call.payload
        replica = self._host.replica(Schema.read(schema))
        if bool(theirs) != bool(replica.rows):
            # One side is empty: all differs, which fingerprints would cost a second to say.
            return [None, len(replica.rows)]
        await self.settle(replica)
        return [replica.digest.packed(), len(replica.rows)]

    async def _indexed(self, call: Call) -> Any:
        schema, buckets = call.payload
        if type(buckets) is not list or not all(type(b) is int and 0 <= b < COUNT for b in buckets):
            raise WireError(f"buckets are numbers below {COUNT}")
        replica = self._host.replica(Schema.read(schema))
        found = await self.index(replica, buckets)
        return self._keep(_Kept(call.source, replica, 0.0, found), MAX_INDEXES)

    def _keep(self, kept: _Kept, most: int) -> int:
        self.drop_old()
        alike = [n for n, each in self._kept.items() if bool(each.buckets) == bool(kept.buckets)]
        if len(alike) >= most:
            del self._kept[alike[0]]
        self._next += 1
        self._kept[self._next] = kept
        kept.until = self._host.reactor.seconds() + LEASE_S
        return self._next

    def drop_old(self) -> None:
        """Drop what was prepared for somebody who did not come back."""
        now = self._host.reactor.seconds()
        for number in [n for n, kept in self._kept.items() if kept.until < now]:
            del self._kept[number]

    def _resume(self, session: Any, call: Call) -> _Kept:
        kept = self._kept.get(session)
        if kept is None or kept.source != call.source:
            raise Disconnected(f"the exchange {session} is over: begin another")
        kept.until = self._host.reactor.seconds() + LEASE_S
        return kept

    def _differing(self, call: Call) -> Any:
        session, chunk, summary, both = call.payload
        kept = self._resume(session, call)
        replica = kept.replica
        theirs = read_summary(self._host.reader, replica.schema.kind, summary)
        mine = [rid for bucket in chunk for rid in kept.buckets.get(bucket, ())]
        found = missing(replica, mine, theirs, both)
        columns, used = pack(replica, found.give)
        return [columns, column(found.give[used:]), column(found.want)]

    def _fetched(self, call: Call) -> Any:
        name, rids = call.payload
        replica = self._host.replicas.get(name)
        if replica is None:
            raise Disconnected(f"the table {name!r:.80} is not here")
        return pack(replica, read_rids(replica.schema.kind, rids))

    async def _given(self, call: Call) -> Any:
        schema, columns, spread = call.payload
        replica = self._host.replica(Schema.read(schema))
        copied = unpack(self._host.reader, replica.schema.kind, columns)
        await self.merge(replica, copied, bool(spread))

    def open_stage(self, source: ShardAddress, replica: Replica) -> int:
        """Make room for rows that a join will commit; returns its number."""
        return self._keep(_Kept(source, replica, 0.0), MAX_STAGES)

    def _staged(self, call: Call) -> Any:
        _, columns, _, stage = call.payload
        kept = self._resume(stage, call)
        kept.rows.append(unpack(self._host.reader, kept.replica.schema.kind, columns))

    async def commit(self, stage: Any, call: Call) -> tuple[Replica, list[list[Any]]]:
        """Merge what was staged by the caller; answers where, and which rows, in parts.

        Raises:
            Disconnected: when it was dropped, because its lease ran out.
        """
        kept = self._resume(stage, call)
        del self._kept[stage]
        return kept.replica, await self.merge_all(kept.replica, kept.rows)

    async def merge_all(self, replica: Replica, parts: deque[Rows]) -> list[list[Any]]:
        """Merge, and let go of, what a join staged; answers which rows it was, in parts."""
        rids = []
        while parts:
            part = parts.popleft()
            rids.append(part.rids)
            await self.merge(replica, part, spread=True)
        return rids

"""Looking at tables without changing them: what each shard answers, and who asks them all.

A look never makes a table: a shard that has none says so. All work is in slices of a few
milliseconds, and every question has a deadline, so a copy that is silent is a line of the
report and not a report that never comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import DeferredList
from twisted.internet.task import deferLater

from meshsvc.errors import BadTable, CallError, NoSuchTarget, WireError
from meshsvc.messaging.dispatch import Call
from meshsvc.model import NodeInfo, ShardAddress, ShardId
from meshsvc.tables.difference import ROWS_A_CHUNK, read_summary, summarize
from meshsvc.tables.digest import COUNT
from meshsvc.tables.looking.compare import (
    Copy,
    Differing,
    Report,
    confirmed,
    differing,
    groups,
    open_buckets,
)
from meshsvc.tables.replica import Replica
from meshsvc.tables.table import Table

if TYPE_CHECKING:
    from meshsvc.tables.service import Tables

LOOK_S = 5.0
"""Seconds for one copy's answer: a million rows written since the last look take one."""

AGAIN_S = 0.5
"""Between the two looks: what was written before the first has arrived at the second."""

ROUNDS = 32
"""Looks for keys at most: each is over some thousands of rows of every copy that differs."""

MAX_KEYS = 10_000
"""Differing keys named in one report, about 2 MB."""


class Looking:
    """See the module's docstring; ``host`` is the shard's tables."""

    def __init__(self, host: Tables) -> None:
        self._host = host
        self.verbs = {
            "tables.look": self._looked,
            "tables.versions": self._versions,
            "tables.joins": self._joins,
        }

    # --- what is here --------------------------------------------------------------------

    def table(self, name: str) -> Table:
        """A table that is open on this node.

        Raises:
            BadTable: when it is not.
        """
        replica = self._host.replicas.get(name)
        if replica is None:
            there = ", ".join(sorted(self._host.replicas)[:20]) or "none"
            raise BadTable(
                f"the table {name!r:.80} is not open on {self._host.me.name}; open here: {there}"
            )
        return self._host.tables.get(name) or Table(self._host, replica)

    def replica(self, name: str) -> Replica:
        """Its copy in this shard; raises as ``table``."""
        return self._host.replicas[self.table(name).name]

    def listed(self) -> list[dict[str, Any]]:
        """One row for each table: what it is, what it holds, and with whom it is joined."""
        rows = []
        for name in sorted(self._host.replicas):
            status = self._host.status(name)
            rows.append(status | {"memory": self.table(name).memory})
        return rows

    def name_of_owner(self, node: str) -> str:
        """A node for people: its name if it is a member, else the beginning of its id."""
        roster = self._host.roster
        for info in roster.members if roster is not None else ():
            if info.node_id == node:
                return info.name
        return node[:8]

    # --- what all copies are -------------------------------------------------------------

    async def joins(self, name: str | None = None) -> list[dict[str, Any]]:
        """How far each table is with each other member, as the seat of this node knows now.

        Raises:
            BadTable: when there is no such table here.
            CallError: when the seat does not answer.
        """
        if name is not None:
            self.table(name)
        fields = ("table", "node", "phase", "why", "tries", "moved", "of")
        rows = await self._host.ask(self._host.seat, "tables.joins", None, LOOK_S)
        found = [dict(zip(fields, row, strict=True)) for row in rows]
        return [row for row in found if name in (None, row["table"])]

    async def compare(self, name: str, nodes: Sequence[str], limit: int) -> Report:
        """Compare all copies of a table, of some nodes or of all members.

        Args:
            name: of the table; it need not be open here.
            nodes: names of members; none for all.
            limit: most keys to name.

        Raises:
            NoSuchTarget: when a name is no member's.
            BadTable: when nobody holds the table.
        """
        asked = self._members(nodes)
        copies = await self._look(name, asked)
        if not nodes:
            # Nodes that never opened it have nothing to be equal to.
            holding = {copy.node for copy in copies if copy.prints or not _absent(copy)}
            copies = [copy for copy in copies if copy.node in holding]
        if not any(copy.prints for copy in copies):
            raise BadTable(f"no node that answered holds the table {name!r:.80}")
        report = Report(copies)
        buckets = open_buckets(copies)
        rounds = 0
        size = max(1, ROWS_A_CHUNK * COUNT // max(1, *(c.rows + c.tombstones for c in copies)))
        while buckets and len(report.differing) < limit and rounds < ROUNDS:
            some, buckets = buckets[:size], buckets[size:]
            report.differing += await self._confirmed(name, asked, copies, some)
            rounds += 1
        report.complete = not buckets and len(report.differing) <= limit
        del report.differing[limit:]
        report.open_buckets = len(open_buckets(copies))
        return report

    async def _confirmed(
        self, name: str, asked: list[NodeInfo], copies: list[Copy], buckets: list[int]
    ) -> list[Differing]:
        """The rows of some buckets that differ at two looks; ``copies`` become the second's."""
        first = await self._differing(name, asked, copies, buckets)
        await deferLater(self._host.reactor, AGAIN_S)
        again = await self._look(name, asked)
        names = {copy.name for copy in copies}
        copies[:] = [copy for copy in again if copy.name in names]
        return confirmed(first, await self._differing(name, asked, copies, buckets))

    async def _differing(
        self, name: str, asked: list[NodeInfo], copies: list[Copy], buckets: list[int]
    ) -> list[Differing]:
        alike = groups(copies)
        found = differing(await self._rows(name, asked, alike, buckets))
        return [_spread(each, alike) for each in found]

    async def _look(self, name: str, asked: Iterable[NodeInfo]) -> list[Copy]:
        shards = [(info, shard) for info in asked for shard in range(info.shards)]
        asks = [
            self._host.ask(ShardAddress(info.node_id, ShardId(shard)), "tables.look", name, LOOK_S)
            for info, shard in shards
        ]
        answers = await DeferredList(asks, consumeErrors=True)
        return [
            Copy.read(info.name, shard, answer)
            if ok
            else Copy(info.name, shard, error=_why(answer))
            for (info, shard), (ok, answer) in zip(shards, answers, strict=True)
        ]

    async def _rows(
        self, name: str, asked: list[NodeInfo], alike: list[list[Copy]], buckets: list[int]
    ) -> dict[str, dict[Any, Any]]:
        """The versions in some buckets, of one copy of each group."""
        ids = {info.name: info.node_id for info in asked}
        found = {}
        for group in alike:
            first = group[0]
            at = ShardAddress(ids[first.node], ShardId(first.shard))
            try:
                kind, columns = await self._host.ask(at, "tables.versions", [name, buckets], LOOK_S)
            except CallError:
                continue  # it was there a moment ago; the next look says what became of it
            found[first.name] = read_summary(self._host.reader, kind, columns)
        return found

    def _members(self, names: Sequence[str]) -> list[NodeInfo]:
        roster = self._host.roster
        members = roster.members if roster is not None else (self._host.me,)
        for name in names:
            if name not in {info.name for info in members}:
                known = ", ".join(info.name for info in members)
                raise NoSuchTarget(f"{name!r:.80} is no member of the mesh; members: {known}")
        return [info for info in members if not names or info.name in names]

    # --- what this shard answers ---------------------------------------------------------

    async def _looked(self, call: Call) -> Any:
        replica = self._host.replicas.get(call.payload)
        if replica is None:
            return None
        await self._host.exchange.settle(replica)
        live = len(replica.rows) - replica.tombstones
        return [replica.digest.packed(), live, replica.tombstones]

    async def _versions(self, call: Call) -> Any:
        name, buckets = call.payload
        if type(buckets) is not list or not all(type(b) is int and 0 <= b < COUNT for b in buckets):
            raise WireError(f"buckets are numbers below {COUNT}")
        replica = self._host.replicas.get(name)
        if replica is None:
            raise BadTable(f"the table {name!r:.80} is not here")
        found = await self._host.exchange.index(replica, buckets)
        chosen = [rid for bucket in found.values() for rid in bucket]
        return [replica.schema.kind.value, summarize(replica, chosen)]

    def _joins(self, call: Call) -> Any:
        """Only a seat joins: the others have nothing to say."""
        joining = self._host.joining
        peers = joining.peers.values() if joining is not None else ()
        return [
            [name, *peer.row(name)[1:], *peer.progress(name)]
            for name in sorted(self._host.replicas)
            for peer in peers
        ]


def _absent(copy: Copy) -> bool:
    return copy.error == Copy.read(copy.node, copy.shard, None).error


def _why(failure: Any) -> str:
    return f"{type(failure.value).__name__}: {failure.value}"


def _spread(row: Differing, alike: list[list[Copy]]) -> Differing:
    """A row with a version for every copy, not for one of each group."""
    versions = dict(row.versions)
    for group in alike:
        if group[0].name in versions:
            versions |= {copy.name: versions[group[0].name] for copy in group}
    return Differing(row.rid, versions)

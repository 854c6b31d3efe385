"""The tables of a shard: built from its config, and as an application opens them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import Interface

from meshsvc.counters import Counters
from meshsvc.errors import BadTable, SchemaConflict, TimedOut
from meshsvc.interfaces import IConflictResolver
from meshsvc.messaging.post import Post
from meshsvc.messaging.service import Messaging
from meshsvc.model import Incarnation, LinkClass, NodeId, NodeInfo, ShardId
from meshsvc.node.boot import Boot
from meshsvc.node.config import Config
from meshsvc.shards.service import BusService
from meshsvc.tables.means import Means
from meshsvc.tables.rows import Origin
from meshsvc.tables.service import Tables
from meshsvc.tables.settings import Settings
from meshsvc.tables.table import Table

log = Logger()


class NodeWays:
    """Who can be reached, as this shard's post and bus know it."""

    def __init__(self, post: Post, bus: BusService) -> None:
        self._post, self._bus = post, bus

    def reachable(self, node: NodeId, link_class: LinkClass) -> bool:
        """Whether frames to a node have a way now."""
        return self._post.reachable(node, link_class)

    def siblings(self) -> Sequence[tuple[ShardId, Incarnation]]:
        """The other shards of this node that are up."""
        return self._bus.siblings()


class TablesContext:
    """The tables, as an application opens them: ``await mesh.tables.open("sessions")``."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def open(
        self,
        name: str,
        kind: str = "set",
        owned: bool = False,
        resolver: str = "last-writer",
        join_wait_s: float | None = None,
    ) -> Table:
        """A table that every node which opens it shares; call it in any shard.

        Args:
            name: letters, digits, "-", "_" and ".".
            kind: "set" (one row a key), "ordered" (with ``range``) or "bag" (many rows a key).
            owned: rows end with the life of the node that wrote them.
            resolver: the name of the ``IConflictResolver`` for keys that differ at a join.
            join_wait_s: how long to wait until it is joined with everybody who has it, by
                default ``[tables] join_wait``; then it is answered as it is: ``table.status()``
                tells with whom it is not joined, and why.

        Raises:
            BadTable: when the name or the kind is none.
            SchemaConflict: when it is open on this node as something else.
        """
        table = self._tables.open(name, kind, owned, resolver)
        wait_s = self._tables.settings.join_wait_s if join_wait_s is None else join_wait_s
        if wait_s > 0:
            try:
                await table.wait_joined(wait_s)
            except TimedOut as error:
                log.info("{error}", error=error)
        return table

    def __getitem__(self, name: str) -> Table:
        table = self._tables.tables.get(name)
        if table is None:
            raise BadTable(f"the table {name!r:.80} is not open in this shard: open it first")
        return table

    def names(self) -> list[str]:
        """The tables that this node holds, opened by whomever."""
        return sorted(self._tables.replicas)


def build(
    boot: Boot,
    config: Config,
    me: NodeInfo,
    means: tuple[IReactorTime, Messaging, Counters, Random, NodeWays],
    plugins: Callable[[type[Interface]], tuple[list[Any], Any]],
) -> tuple[Tables, list[str]]:
    """The tables of a shard, and one warning for each plugin or table that is left out."""
    found, failed = plugins(IConflictResolver)
    warnings = [f"{state.name}: {state.error.splitlines()[-1]}" for state in failed if state.error]
    resolvers = {str(resolver.name): resolver for resolver in found}
    section = config.tables
    settings = Settings(
        section.max_row,
        section.write_timeout_s,
        section.join_wait_s,
        section.repair_interval_s,
        section.tombstone_life_s,
        section.max_tombstones,
    )
    origin = Origin(boot.node_id, boot.incarnation, boot.shard, boot.shard_incarnation)
    tables = Tables(Means(*means, resolvers), me, origin, settings)
    for name, schema in section.named.items():
        try:
            tables.open(name, **schema)
        except (BadTable, SchemaConflict) as error:
            warnings.append(str(error))
    return tables, warnings

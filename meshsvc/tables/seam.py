"""The tables of a node as discovery sees them: provides ``discovery.tables.TablesView``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from meshsvc.discovery.tables import Join, JoinState
from meshsvc.model import NodeId
from meshsvc.tables.join import Phase
from meshsvc.tables.joining.peers import ABSENT, UNREACHABLE

if TYPE_CHECKING:
    from meshsvc.tables.service import Tables


class Seam:
    """What shard 0 knows of the joins, which the seat of its node does."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def replicas(self) -> Mapping[str, Collection[NodeId]]:
        """Each open table by name: the nodes that it is joined with, and this one."""
        tables = self._tables
        return {
            name: {
                tables.me.node_id,
                *(row[0] for row in tables.view.rows(name) if row[2] == Phase.JOINED),
            }
            for name in tables.replicas
        }

    def joins(self) -> Sequence[Join]:
        """Every join with a reachable node that holds the table, whatever became of it."""
        return [
            Join(name, row[0], _state(row[2], row[3]), row[3])
            for name in self._tables.replicas
            for row in self._tables.view.rows(name)
            if row[2] not in (ABSENT, UNREACHABLE)
        ]

    def check_joins(self) -> None:
        """Try at once whatever is not joined."""
        tables = self._tables
        tables.messaging.tell(tables.seat, "tables.check", None)

    def observe_joins(self, observer: Callable[[], object]) -> None:
        """Call ``observer`` after any change."""
        self._tables.observers.append(observer)


def _state(phase: str, why: str) -> JoinState:
    if phase == Phase.JOINED:
        return JoinState.JOINED
    return JoinState.FAILED if why else JoinState.JOINING

"""What discovery wants to know of tables: the seam to the floor above, which provides it.

All of it is read on shard 0's reactor thread, often, and must answer at once from what is
in memory. A view that raises is logged and counts as one without tables.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from meshsvc.model import NodeId


class JoinState(Enum):
    """How far a table of this node is with one other node."""

    JOINED = "joined"
    JOINING = "joining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Join:
    """One table and one other node that has it too.

    ``reason`` says in words why it failed, or what it waits for; empty once joined. A join
    that failed and will be tried again stays FAILED until it is JOINED: "tried" is not
    "succeeded".
    """

    table: str
    node: NodeId
    state: JoinState
    reason: str = ""


class TablesView(Protocol):
    """The tables of this node, as far as discovery is concerned."""

    def replicas(self) -> Mapping[str, Collection[NodeId]]:
        """Each open table by name: the nodes that replicate it with this one, itself included.

        Two nodes agree on a table when both answer the same nodes for it.
        """
        ...

    def joins(self) -> Sequence[Join]:
        """Every join that is wanted, whatever became of it: one per table and reachable node.

        A node that does not have the table is left out (status shows it as missing there).
        """
        ...

    def check_joins(self) -> None:
        """Try at once whatever join is not JOINED: a node came up, or was found.

        Returns at once. Asked for while a round of joins runs, it causes exactly one more
        round after that one, however often it was asked (DISC-2).
        """
        ...

    def observe_joins(self, observer: Callable[[], object]) -> None:
        """Call ``observer`` after any change of ``replicas`` or ``joins``."""
        ...


class NoTables:
    """The view of a node that has no tables."""

    def replicas(self) -> Mapping[str, Collection[NodeId]]:
        """None are open."""
        return {}

    def joins(self) -> Sequence[Join]:
        """None are wanted."""
        return ()

    def check_joins(self) -> None:
        """There is nothing to join."""

    def observe_joins(self, observer: Callable[[], object]) -> None:
        """Nothing changes."""

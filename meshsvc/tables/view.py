"""With whom the tables of a node are joined, as its seat tells all its shards."""

from __future__ import annotations

from typing import Any

from meshsvc.model import NodeId, Roster
from meshsvc.tables.join import Phase
from meshsvc.tables.joining.peers import ABSENT


class View:
    """What one shard knows: by table, who gets writes, and a row for each other member."""

    def __init__(self) -> None:
        self.members: dict[str, dict[NodeId, bool]] = {}
        self._rows: dict[str, list[list[Any]]] = {}

    def take(self, view: dict[str, Any]) -> None:
        """The seat told."""
        self.members = {name: members for name, (members, _) in view.items()}
        self._rows = {name: rows for name, (_, rows) in view.items()}

    def rows(self, name: str) -> list[list[Any]]:
        """The rows of a table: [node id, name, phase, why, tries]."""
        return self._rows.get(name, [])

    def missing(self, name: str, me: NodeId, roster: Roster | None) -> list[str]:
        """The members with whom it is not joined, though they hold it or may; why, by name."""
        if roster is None:
            return ["no mesh has formed"]
        rows = {row[0]: row for row in self._rows.get(name, ())}
        out = []
        for node in roster.members:
            row = rows.get(node.node_id)
            if node.node_id == me or (row and row[2] in (Phase.JOINED.value, ABSENT)):
                continue
            out.append(f"{node.name} ({row[3] or row[2]})" if row else f"{node.name} (not met)")
        return out

    def status(self, name: str) -> dict[str, Any]:
        """The rows as people are shown them."""
        rows = self._rows.get(name, ())
        return {
            "joined": [row[1] for row in rows if row[2] == Phase.JOINED.value],
            "peers": [
                {"node": name, "phase": phase, "why": why, "tries": tries}
                for _, name, phase, why, tries in rows
            ],
        }

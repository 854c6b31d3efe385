"""What one shard's links know of the cluster, as admission and epochs need it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from meshsvc.link.admission import Known
from meshsvc.link.table import Link, Table
from meshsvc.model import NO_EPOCH, Epoch, Incarnation, LinkClass, NodeId, Roster

MAX_LIVES = 4096
"""Nodes whose latest incarnation is remembered; four times the largest cluster."""


class Knowledge:
    """The epoch in force and its roster, the removed, the names, and lives seen so far."""

    def __init__(self, me: NodeId, table: Table) -> None:
        self.epoch: Epoch = NO_EPOCH
        self.roster: Roster | None = None
        self.removed: frozenset[NodeId] = frozenset()
        self.names: Mapping[str, NodeId] = {}
        self.enabled: frozenset[str] = frozenset()
        self._me = me
        self._table = table
        self._lives: OrderedDict[NodeId, Incarnation] = OrderedDict()

    def met(self, node: NodeId, incarnation: Incarnation) -> None:
        """A link to this life of a node came up: earlier lives are over."""
        latest = max(incarnation, self._lives.pop(node, incarnation))
        self._lives[node] = latest
        if len(self._lives) > MAX_LIVES:
            self._lives.popitem(last=False)

    def now(self) -> Known:
        """What to judge a peer by at this moment."""
        linked = {link.peer.name: link.peer.node_id for link in self._table.links()}
        return Known(
            epoch=self.epoch,
            roster=self.roster,
            removed=self.removed,
            names={**linked, **self.names},
            enabled=self.enabled,
            incarnations=self._lives,
            live=self._table.live,
        )

    def objection(self, link: Link) -> tuple[str, str] | None:
        """Why a live link may not stay (reason and text), or None."""
        peer, roster = link.peer, self.roster
        if peer.node_id in self.removed:
            return "removed", f"{peer.name} was removed from the cluster"
        if roster is None or link.link_class is LinkClass.CONTROL:
            return None
        member = roster.get(peer.node_id)
        if member is None or roster.index(self._me) is None:
            left_out = "the peer of this link" if member is None else "the sender of this"
            return "not-in-roster", f"the roster of epoch {roster.epoch} leaves out {left_out}"
        if member.incarnation == peer.incarnation:
            return None
        return "restarted", (
            f"the roster of epoch {roster.epoch} lists incarnation {member.incarnation} of"
            f" {peer.name}, this link is to {peer.incarnation}"
        )

"""Who holds a part of the store, and where: members of Raft groups by what nodes gossip.

Each node that holds the store announces the member as which its disk votes. What was once
learned is kept, so that a member of a dead node still has a name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from meshsvc.gossip.members import Member as Node
from meshsvc.model import NodeId
from meshsvc.raft.founding_terms import JOINED, Announcement
from meshsvc.raft.quorum import Member

KEY = "store"
"""The gossiped value: [announcement, the member that this one replaces, client address]."""

MAX_PLACES = 1024
"""Members remembered, the oldest forgotten first: more than nodes of any mesh, a few times over."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a member lives: its node, as gossip knows it, and what that announces.

    ``client`` is where the node serves etcd's API, empty when it does not.
    """

    node: NodeId
    name: str
    peer: str
    client: str
    replaces: Member
    announcement: Announcement


def announcement_row(announcement: Announcement, replaces: Member, client: str) -> list[object]:
    """What a node gossips under ``KEY``."""
    return [announcement.row(), replaces, client]


def _read(node: Node) -> Place | None:
    row: Any = node.values.get(KEY)
    if not isinstance(row, list | tuple) or len(row) != 3:
        return None
    announcement = Announcement.read(row[0])
    if announcement is None or type(row[1]) is not int or not isinstance(row[2], str):
        return None
    peer = str(node.address)
    return Place(node.node_id, node.name, peer, row[2], row[1], announcement)


class StoreDirectory:
    """What is known of the nodes that hold the store.

    Args:
        me: this node, which is left out of ``others``.
        learn: told of each member and the node it lives on.
    """

    def __init__(self, me: NodeId, learn: Callable[[Member, NodeId], None]) -> None:
        self._me, self._learn = me, learn
        self._places: dict[Member, Place] = {}
        self._alive: dict[NodeId, Place] = {}

    def update(self, nodes: tuple[Node, ...]) -> None:
        """The membership changed."""
        self._alive = {}
        for node in nodes:
            place = _read(node)
            if place is None:
                continue
            if node.alive:
                self._alive[node.node_id] = place
            member = place.announcement.member
            self._places.pop(member, None)
            self._places[member] = place
            self._learn(member, node.node_id)
        while len(self._places) > MAX_PLACES:
            del self._places[next(iter(self._places))]

    def others(self) -> Mapping[str, Announcement]:
        """What the other nodes that are alive announce, by node id."""
        return {
            str(node): place.announcement for node, place in self._alive.items() if node != self._me
        }

    def joined(self, cluster: int) -> dict[Member, Place]:
        """The members that are alive and take part in a cluster."""
        return {
            place.announcement.member: place
            for place in self._alive.values()
            if place.announcement.stage == JOINED and place.announcement.cluster == cluster
        }

    def place(self, member: Member) -> Place | None:
        """Where a member lives or last lived; None when that was never known."""
        return self._places.get(member)

    def by_name(self, name: str) -> Place | None:
        """The node of a name, or of an id, that is alive and holds the store."""
        for place in self._alive.values():
            if name in (place.name, place.node):
                return place
        return None

    def by_peer(self, address: str) -> Place | None:
        """The node that is alive and dialed at a peer address."""
        return next((place for place in self._alive.values() if place.peer == address), None)

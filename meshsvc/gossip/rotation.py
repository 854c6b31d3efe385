"""Takes turns among nodes, so that each comes up within a fixed number of rounds.

The cost of a turn does not depend on how many nodes there are: who comes and goes is told as
it happens, and who went is passed over when its turn comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from meshsvc.model import NodeId

if TYPE_CHECKING:
    from random import Random


class Rotation:
    """An order of this node's own; a new node comes first."""

    def __init__(self, rng: Random, rounds: int, most: int) -> None:
        """``rounds`` until all had their turn, unless that takes over ``most`` a round."""
        self._rng = rng
        self._rounds = rounds
        self._most = most
        self._members: dict[NodeId, None] = {}
        self._order: deque[NodeId] = deque()
        self._queued: set[NodeId] = set()
        self._fresh: list[NodeId] = []

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[NodeId]:
        return iter(self._members)

    def __contains__(self, node: object) -> bool:
        return node in self._members

    def add(self, node: NodeId) -> None:
        """A node takes part from now on."""
        if node not in self._members:
            self._members[node] = None
            if node not in self._queued:
                self._queued.add(node)
                self._fresh.append(node)

    def discard(self, node: NodeId) -> None:
        """A node takes part no longer."""
        self._members.pop(node, None)

    def next(self) -> list[NodeId]:
        """The nodes whose turn it is."""
        if self._fresh:
            self._rng.shuffle(self._fresh)
            self._order.extendleft(self._fresh)
            self._fresh.clear()
        share = min(self._most, -(-len(self._members) // self._rounds))
        chosen: list[NodeId] = []
        while len(chosen) < share:
            node = self._order.popleft()
            if node in self._members:
                chosen.append(node)
            else:
                self._queued.discard(node)
        self._order.extend(chosen)
        return chosen

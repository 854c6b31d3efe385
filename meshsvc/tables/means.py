"""What the tables of a shard are given to work with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from meshsvc.counters import Counters
from meshsvc.model import Incarnation, LinkClass, NodeId, ShardId

if TYPE_CHECKING:
    from random import Random

    from twisted.internet.interfaces import IReactorTime

    from meshsvc.messaging.service import Messaging


class Ways(Protocol):
    """Who can be reached."""

    def reachable(self, node: NodeId, link_class: LinkClass) -> bool:
        """Whether frames to a node have a way now."""

    def siblings(self) -> Sequence[tuple[ShardId, Incarnation]]:
        """The other shards of this node that are up."""


@dataclass(frozen=True, slots=True)
class Means:
    """What the tables of a shard work with.

    Attributes:
        reactor: the time, in seconds since 1970, and delayed calls.
        messaging: of this shard.
        counters: where refusals are counted.
        rng: the source of all chance.
        ways: who can be reached.
        resolvers: ``IConflictResolver`` providers by name, those shipped not among them.
    """

    reactor: IReactorTime
    messaging: Messaging
    counters: Counters
    rng: Random
    ways: Ways
    resolvers: Mapping[str, Any] = field(default_factory=dict)

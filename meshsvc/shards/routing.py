"""Where a shard sends a message next: to itself, to a sibling, or over its own link.

The rules, in their order: my node and my shard is local; my node and another shard goes over the
bus; another node goes to whichever of my shards owns the link to it, which is shard 0 for
the control plane, decided before any hash, and ``link_owner`` for the data plane.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshsvc.model import LinkClass, NodeId, ShardId
from meshsvc.shards.placement import link_owner


@dataclass(frozen=True, slots=True)
class Local:
    """This very shard is the target."""


@dataclass(frozen=True, slots=True)
class ViaBus:
    """Give it to this sibling over the bus: the target itself, or the owner of the link."""

    shard: ShardId


@dataclass(frozen=True, slots=True)
class ViaLink:
    """This shard owns the link to the target node."""


Route = Local | ViaBus | ViaLink

_LOCAL = Local()
_VIA_LINK = ViaLink()


class Router:
    """The routes of one shard; a pure function of its arguments, cheap enough per message."""

    __slots__ = ("_me", "_shard", "_shards", "_via_bus")

    def __init__(self, me: NodeId, shard: ShardId, shards: int) -> None:
        if not 0 <= shard < shards:
            raise ValueError(f"shard {shard} is not one of {shards}")
        self._me = me
        self._shard = shard
        self._shards = shards
        self._via_bus = [ViaBus(ShardId(index)) for index in range(shards)]

    def route(self, target: NodeId, target_shard: ShardId, link_class: LinkClass) -> Route:
        """The next step of a message to one shard of one node.

        A ``target_shard`` that this node does not have goes to the bus all the same, which
        counts it as unroutable and answers ``DISCONNECTED``.
        """
        if target == self._me:
            return _LOCAL if target_shard == self._shard else self._sibling(target_shard)
        if link_class == LinkClass.CONTROL:
            owner = ShardId(0)
        else:
            owner = link_owner(target, self._shards)
        return _VIA_LINK if owner == self._shard else self._via_bus[owner]

    def _sibling(self, shard: ShardId) -> Route:
        return self._via_bus[shard] if 0 <= shard < self._shards else ViaBus(shard)

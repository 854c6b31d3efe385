"""The ears of a shard's mesh: what links and bus call, turned into inputs of its core."""

from __future__ import annotations

from collections.abc import Callable

from meshsvc.mesh.formation import Link
from meshsvc.mesh.plane import ShardPlane
from meshsvc.model import Epoch, Incarnation, ShardId
from meshsvc.wire.messages import LinkState, Mesh

Run = Callable[[Callable[[ShardPlane], None]], None]
"""Hands the core one input, then acts on what comes of it."""


class LinkEvents:
    """What the links of this shard tell ``DataLinks``."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def link_up(self, link: Link) -> None:
        """A link is up."""
        self._run(lambda core: core.link_up(link))

    def link_epoch(self, link: Link) -> None:
        """The ends of a link agreed on an epoch, or no longer do."""
        self._run(lambda core: core.link_moved())

    def link_down(self, link: Link, reason: str, text: str) -> None:
        """A link ended."""
        self._run(lambda core: core.link_down(link))

    def epoch_seen(self, epoch: Epoch) -> None:
        """A handshake showed a greater epoch."""
        self._run(lambda core: core.sighted(epoch))

    def received(self, link: object, message: object) -> None:
        """Messages of links are none of the mesh's business."""

    def dropped(self, link: object, envelope: object, reason: str) -> None:
        """Drops are counted where they happen."""

    def refused(self, peer: str, reason: str, text: str) -> None:
        """Refusals are counted and logged where they happen."""


class BusEvents:
    """What the bus tells ``DataLinks``."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def shard_up(self, shard: ShardId, incarnation: Incarnation) -> None:
        """A sibling connected."""
        self._run(lambda core: core.sibling_up(shard))

    def shard_down(self, shard: ShardId, incarnation: Incarnation) -> None:
        """A sibling is gone."""
        self._run(lambda core: core.sibling_down(shard))

    def received(self, shard: ShardId, incarnation: Incarnation, message: object) -> None:
        """A sibling sent a message, to whichever part of this shard it concerns."""
        if isinstance(message, (LinkState, Mesh)):
            self._run(lambda core: core.received(shard, message))

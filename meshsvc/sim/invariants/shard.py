"""SHARD: the bus delivers between the lives that it says are up, and loses nothing unseen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshsvc.sim.invariants.base import Check, register
from meshsvc.wire.messages import Envelope

if TYPE_CHECKING:
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.lives import SimShard
    from meshsvc.sim.processes import SimNode

Reader = tuple[str, int, int, int]


@register
class RightLives(Check):
    """Frames come from the life that is up, between its up and its down (SHD-4)."""

    section = "SHARD"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._up: dict[tuple[Reader, int], int] = {}
        self._latest: dict[tuple[Reader, int], int] = {}

    def sibling_up(self, life: SimShard, shard: int, incarnation: int) -> None:
        """Lives rise."""
        key = (_reader(life), shard)
        if key in self._up:
            self.fail(f"{life.life}: shard {shard} came up twice")
        if incarnation < self._latest.get(key, 0):
            self.fail(f"{life.life}: life {incarnation} of shard {shard} came after a later one")
        self._up[key] = self._latest[key] = incarnation

    def sibling_down(self, life: SimShard, shard: int, incarnation: int) -> None:
        """It was up before."""
        if self._up.pop((_reader(life), shard), None) != incarnation:
            self.fail(f"{life.life}: life {incarnation} of shard {shard} went down, was not up")

    def bus_message(self, life: SimShard, shard: int, incarnation: int, message: Any) -> None:
        """It is up now."""
        up = self._up.get((_reader(life), shard))
        if up != incarnation:
            self.fail(
                f"{life.life} was given a frame of life {incarnation} of shard {shard}, up is {up}"
            )


@register
class NothingVanishes(Check):
    """At rest, what one side of a lane sent the other received or counted (SHD-10)."""

    section = "SHARD"

    def every_second(self) -> None:
        """A bus whose processes live loses nothing on the way."""
        for node in self.cluster.nodes:
            for life in node.shards.values():
                if life.shard is None:
                    continue
                for variant in ("main", "replies"):
                    counters = life.shard.counters
                    lost = counters.total("frame_drops_total", variant=variant, reason="lost")
                    if lost:
                        self.fail(f"{life.life} missed {lost:g} frames of the {variant} lane")

    def settled(self) -> None:
        """Compare both ends of each lane of each node."""
        for node in self.cluster.nodes:
            if node.running:
                self._node(node)

    def _node(self, node: SimNode) -> None:
        for a in node.shards.values():
            for b in node.shards.values():
                if a is not b and a.shard is not None and b.shard is not None:
                    self._pair(a, b)

    def _pair(self, a: SimShard, b: SimShard) -> None:
        assert a.shard is not None
        assert b.shard is not None
        there = a.shard.bus._core._peers.get(b.index)
        here = b.shard.bus._core._peers.get(a.index)
        if there is None or here is None or there.incarnation != b.incarnation:
            self.fail(f"{a.life} and {b.life} do not see each other at rest")
            return
        for lane, (out, into) in enumerate(zip(there.streams, here.streams, strict=True)):
            in_flight = out.sent - into.received
            if not 0 <= in_flight <= MAX_IN_FLIGHT:
                self.fail(
                    f"lane {lane} from {a.life} to {b.life}: {out.sent} were sent,"
                    f" {into.received} received or counted as lost"
                )


@register
class DropsAreCounted(Check):
    """What is for another life, or for a sibling that is gone, is dropped and counted (SHD-4, 10).

    It is known before the shard acts on it that an envelope cannot be delivered; each second
    the shard must have counted as many drops of that kind at least.
    """

    section = "SHARD"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._stale: dict[SimShard, int] = {}
        self._undelivered: dict[SimShard, int] = {}

    def envelope(self, life: SimShard, link: Any, envelope: Any) -> None:
        """A link delivered one: for this shard, or to be passed on to a sibling."""
        self._judge(life, envelope)

    def bus_message(self, life: SimShard, shard: int, incarnation: int, message: Any) -> None:
        """The bus delivered something."""
        if type(message) is Envelope:
            self._judge(life, message)

    def shard_ended(self, life: SimShard) -> None:
        """Nothing more is expected of it."""
        self._stale.pop(life, None)
        self._undelivered.pop(life, None)

    def every_second(self) -> None:
        """Compare with what was counted."""
        for life, expected in self._stale.items():
            self._compare(life, expected, "stale", ("verb",))
        for life, expected in self._undelivered.items():
            self._compare(life, expected, "disconnected", ("main", "replies"))

    def _judge(self, life: SimShard, envelope: Any) -> None:
        assert life.shard is not None
        if envelope.target != life.node.node_id:
            return
        if envelope.target_shard == life.index:
            if envelope.target_incarnation not in (0, life.incarnation):
                self._stale[life] = self._stale.get(life, 0) + 1
        elif not life.shard.messaging._relays:  # else it waits, and the sibling may be back
            up = {shard for shard, _ in life.shard.bus._core.up()}
            if envelope.target_shard not in up:
                self._undelivered[life] = self._undelivered.get(life, 0) + 1

    def _compare(self, life: SimShard, expected: int, reason: str, lanes: tuple[str, ...]) -> None:
        assert life.shard is not None
        counters = life.shard.counters
        counted = sum(
            counters.total("frame_drops_total", variant=lane, reason=reason) for lane in lanes
        )
        if counted < expected:
            self.fail(
                f"{life.life} was given {expected} frames that are {reason}, counted {counted:g}"
            )


MAX_IN_FLIGHT = 16
"""Frames on the way at the moment of the check."""


def _reader(life: SimShard) -> Reader:
    return (life.node.name, life.node.generation, life.index, life.incarnation)

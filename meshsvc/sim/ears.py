"""What the simulator hears of each shard, through the same observers that anybody may add.

Everything goes to the checks; what is rare enough also goes into the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from meshsvc.interfaces import IEndpointSubscriber
from meshsvc.mesh.epoch import Adopted, Became
from meshsvc.wire.messages import Envelope, Relayed

if TYPE_CHECKING:
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.lives import SimShard


def listen(cluster: Cluster, life: SimShard) -> None:
    """Listen to a shard that was just built."""
    shard = life.shard
    assert shard is not None
    # Before the shard's own observers: a check is to see a frame before the shard acts on it.
    shard.links.add_observer(_LinkEar(cluster, life))
    shard.bus.add_observer(_BusEar(cluster, life))
    shard.data_links.add_observer(lambda event: _epoch_event(cluster, life, event))
    if life.zero is not None:
        life.zero.gossip.subscribe(_MemberEar(cluster, life))
        life.zero.gossip.observe_view(lambda _: _view_changed(cluster, life))
    for check in cluster.checks:
        check.shard_built(life)


def _epoch_event(cluster: Cluster, life: SimShard, event: Any) -> None:
    for check in cluster.checks:
        check.epoch_event(life, event)
    if isinstance(event, Adopted):
        names = ",".join(member.name for member in event.roster.members)
        cluster.note(life.node.name, "epoch", f"/{life.index} {event.roster.epoch} [{names}]")
    elif isinstance(event, Became) and life.index == 0:
        cluster.note(life.node.name, "mesh", str(event.state.value))


def _view_changed(cluster: Cluster, life: SimShard) -> None:
    for check in cluster.checks:
        check.view_changed(life)


class _LinkEar:
    def __init__(self, cluster: Cluster, life: SimShard) -> None:
        self._cluster, self._life = cluster, life

    def link_up(self, link: Any) -> None:
        for check in self._cluster.checks:
            check.link_up(self._life, link)
        kind = link.link_class.name.lower()
        self._note("link", f"/{self._life.index} {kind} up with {link.peer.name}")

    def link_down(self, link: Any, reason: str, text: str) -> None:
        for check in self._cluster.checks:
            check.link_down(self._life, link, reason)
        kind = link.link_class.name.lower()
        self._note("link", f"/{self._life.index} {kind} down with {link.peer.name}: {reason}")

    def link_epoch(self, link: Any) -> None:
        for check in self._cluster.checks:
            check.link_epoch(self._life, link)

    def received(self, link: Any, message: object) -> None:
        if type(message) is Envelope:
            for check in self._cluster.checks:
                check.envelope(self._life, link, message)
        elif type(message) is Relayed:
            for check in self._cluster.checks:
                check.relayed(self._life, link, message)

    def dropped(self, link: Any, envelope: Any, reason: str) -> None:
        self._note("dropped", f"/{self._life.index} a frame of {link.peer.name}: {reason}")

    def refused(self, peer: str, reason: str, text: str) -> None:
        if reason != "connect":
            self._note("refused", f"/{self._life.index} {peer}: {reason}")

    def epoch_seen(self, epoch: Any) -> None:
        self._note("sighted", f"/{self._life.index} {epoch}")

    def _note(self, kind: str, text: str) -> None:
        self._cluster.note(self._life.node.name, kind, text)


class _BusEar:
    def __init__(self, cluster: Cluster, life: SimShard) -> None:
        self._cluster, self._life = cluster, life

    def shard_up(self, shard: int, incarnation: int) -> None:
        for check in self._cluster.checks:
            check.sibling_up(self._life, shard, incarnation)

    def shard_down(self, shard: int, incarnation: int) -> None:
        for check in self._cluster.checks:
            check.sibling_down(self._life, shard, incarnation)
        self._cluster.note(
            self._life.node.name, "bus", f"/{self._life.index} lost {shard}#{incarnation}"
        )

    def received(self, shard: int, incarnation: int, message: Any) -> None:
        for check in self._cluster.checks:
            check.bus_message(self._life, shard, incarnation, message)


@implementer(IEndpointSubscriber)
class _MemberEar:
    name = "simulator"

    def __init__(self, cluster: Cluster, life: SimShard) -> None:
        self._cluster, self._life = cluster, life

    def endpoint_event(self, event: Any) -> None:
        for check in self._cluster.checks:
            check.member_event(self._life, event)
        member = getattr(event, "member", None)
        if event.name != "changed" and member is not None:
            text = f"{event.name} {member.name} generation {member.generation}"
            self._cluster.note(self._life.node.name, "member", text)

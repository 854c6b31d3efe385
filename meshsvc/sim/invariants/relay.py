"""RELAY: broadcasts reach everybody once, messages on their way go in no circles (VERB-6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshsvc.messaging.items import split
from meshsvc.model import LinkClass
from meshsvc.relay.casts import HOLD_S, ON_THE_WAY_S
from meshsvc.sim.crier import Cry, Knock
from meshsvc.sim.invariants.base import Check, register
from meshsvc.sim.weather import FAIR_LOSS
from meshsvc.wire.registry import Role, decode_message

if TYPE_CHECKING:
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.lives import SimShard

REACH_S = HOLD_S + 2.0
"""A broadcast is repaired for as long as it is held."""

KNOWN_S = 20.0
"""What members claim of links is out and known to all: some seconds, and ten rounds."""

QUIET_S = HOLD_S + 8.0
"""Some seconds after nobody can hold anything: what one holds was a while on its way."""

YOUNG_S = ON_THE_WAY_S + 1.0
"""A shard 0 that was restarted, and is younger, may miss what came over others."""

Life = tuple[str, int, int, int]
"""(node, its generation, shard, its incarnation)."""

_CONTROL = LinkClass.CONTROL


@register
class HeardOnce(Check):
    """No shard of a life of a node is told of a broadcast twice."""

    section = "RELAY"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        if cluster.crier is not None:
            cluster.crier.on_fault.append(self.fail)


@register
class HeardByAll(Check):
    """Whoever had a way to the sender all the time has heard it in the end."""

    section = "RELAY"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._open: dict[int, tuple[Cry, set[Life]]] = {}
        if cluster.crier is not None:
            cluster.crier.on_cry.append(self._cried)

    def shard_ended(self, life: SimShard) -> None:
        """What it had heard, and not given to its siblings, is lost with a shard 0."""
        if int(life.index) != 0:
            return
        for number, (cry, before) in self._open.items():
            kept = {each for each in before if each[0] != life.node.name}
            self._open[number] = (cry, kept)

    def _cried(self, cry: Cry) -> None:
        source = cry.life.node
        if not _well(cry.life) or source.zero is None:
            return
        # What comes to a shard 0 that was restarted just now may be from before that.
        young = {
            node.name
            for node in self.cluster.nodes
            if node is not source and _restarted(node) and _age_s(node) < YOUNG_S
        }
        hearers = around(self.cluster, cry.life)
        self._open[cry.number] = (cry, {each for each in hearers if each[0] not in young})

    def every_second(self) -> None:
        """Leave out those that lost their way; ask for the others when the time is up."""
        now = self.cluster.time.now
        for number, (cry, before) in list(self._open.items()):
            hearers = before & around(self.cluster, cry.life)
            self._open[number] = (cry, hearers)
            if _life(cry.life) not in hearers:
                del self._open[number]  # it may have ended before it had sent anything
            elif now - cry.at >= REACH_S:
                del self._open[number]
                self._ask(cry, hearers)

    def _ask(self, cry: Cry, hearers: set[Life]) -> None:
        missing = sorted(life for life in hearers if life[:3] not in cry.heard)
        if missing:
            self.fail(
                f"the broadcast {cry} did not reach {missing[0]} in {REACH_S:g} s, though there"
                " was a way all the time"
            )


def around(cluster: Cluster, life: SimShard) -> set[Life]:
    """The shards of all nodes that control links lead to from the node of a shard."""
    nodes = {node.node_id: node for node in cluster.nodes if _sound(node)}
    linked = {node_id: _linked(node) for node_id, node in nodes.items()}
    found = {life.node.node_id} & set(nodes)
    ring = list(found)
    while ring:
        here = ring.pop()
        for peer in sorted(linked[here] & set(nodes) - found):
            if here in linked[peer]:
                found.add(peer)
                ring.append(peer)
    return {_life(each) for node_id in found for each in nodes[node_id].shards.values()}


def _life(life: SimShard) -> Life:
    return (life.node.name, life.node.generation, int(life.index), int(life.incarnation))


def _sound(node: Any) -> bool:
    """Whether a node runs, and all its shards do."""
    lives = list(node.shards.values())
    ready = node.running and len(lives) == node.shard_count and node.zero is not None
    return bool(ready) and all(map(_well, lives))


def _well(life: SimShard) -> bool:
    reactor = life.reactor
    ready = life.shard is not None and life.channel.is_ready
    return ready and reactor.alive and not reactor.paused and not reactor.cost_s


def _age_s(node: Any) -> float:
    """How long the shard 0 of a node has lived, by its own clock."""
    zero = node.zero
    if zero is None or zero.zero is None:
        return 0.0
    return float(zero.reactor.seconds() - zero.zero.relay.broadcasts.core._began)


def _restarted(node: Any) -> bool:
    """Whether the shard 0 of a node is not the first of this life of the node."""
    return node.zero is not None and int(node.zero.incarnation) > 1


def _linked(node: Any) -> set[Any]:
    links = node.zero.shard.links.links()
    return {link.peer.node_id for link in links if link.link_class is _CONTROL}


@register
class AnsweredAround(Check):
    """While links do not change, asks over control are answered where links lead to."""

    section = "RELAY"

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._links: frozenset[tuple[Life, Any]] = frozenset()
        self._since = 0.0
        if cluster.crier is not None:
            cluster.crier.on_knock.append(self._ended)

    def link_up(self, life: SimShard, link: Any) -> None:
        """Another link than before, even if one like it was there."""
        self._changed(link)

    def link_down(self, life: SimShard, link: Any, reason: str) -> None:
        """What was on it is lost, however soon another takes its place."""
        self._changed(link)

    def _changed(self, link: Any) -> None:
        if link.link_class is _CONTROL:
            self._since = self.cluster.time.now

    def every_second(self) -> None:
        """Note since when all links, and those who hold them, have been the same."""
        sound = [node for node in self.cluster.nodes if _sound(node)]
        zeros = [node.zero for node in sound if node.zero is not None]
        links = frozenset((_life(zero), peer) for zero in zeros for peer in _linked(zero.node))
        if links != self._links:
            self._links, self._since = links, self.cluster.time.now

    def _ended(self, knock: Knock) -> None:
        self.every_second()
        cluster = self.cluster
        fair = cluster.net.sky.everywhere.loss < FAIR_LOSS
        stable = knock.at - self._since >= KNOWN_S
        zero = knock.target.zero
        if knock.ended == "ok" or not (fair and stable) or zero is None:
            return
        if _life(zero) in around(cluster, knock.life):
            self.fail(f"an ask {knock} ended in {knock.ended}, though links lead there")


@register
class EchoesAreDirect(Check):
    """An echo measures a link, so it never goes over a third node (GSP-7)."""

    section = "RELAY"

    def relayed(self, life: SimShard, link: Any, message: Any) -> None:
        """Look into the envelope."""
        envelope = decode_message(message.body, Role.PEER)
        if any(item[0] == "gossip.echo" for item in split(envelope.body)):
            self.fail(f"{life.life} was handed an echo that is relayed")


@register
class NoCircles(Check):
    """A relayed message visits no node twice, and never more nodes than there are."""

    section = "RELAY"

    def relayed(self, life: SimShard, link: Any, message: Any) -> None:
        """Look at who it has been to."""
        path = message.path
        visited = [*(path[:-1] if path[-1:] == (life.node.node_id,) else path), *message.tried]
        most = len(self.cluster.nodes) + len(self.cluster.strangers.nodes)
        if len(set(visited)) != len(visited) or len(visited) > most:
            self.fail(f"{life.life} got a message that was relayed over {len(visited)}: {visited}")


@register
class Silence(Check):
    """Some seconds after the last broadcast nobody holds, or sends, any."""

    section = "RELAY"

    def every_second(self) -> None:
        """Look for what is still held."""
        cluster = self.cluster
        if cluster.crier is None or cluster.time.now - cluster.crier.last_at < QUIET_S:
            return
        for node in cluster.nodes:
            zero = node.zero.zero if node.zero is not None else None
            if zero is not None and _sound(node) and not cluster.longest_pause_s:
                held = zero.relay.broadcasts.core.deadline() is not None
                if held and cluster.fine_for(QUIET_S):
                    self.fail(f"{node.name} holds a broadcast {QUIET_S:g} s after the last one")

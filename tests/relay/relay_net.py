"""Nodes with Routes and Relay over links in memory: any topology, and what members claim."""

from __future__ import annotations

from collections import deque
from random import Random

from meshsvc.counters import Counters
from meshsvc.gossip.members import Member, Status
from meshsvc.model import Address, LinkClass, NodeId, Sent
from meshsvc.relay.casts import Casts
from meshsvc.relay.relay import Relay
from meshsvc.relay.routes import Routes
from meshsvc.wire.messages import Cast, CastsHeld, CastsWanted, Envelope, Relayed, RelayLost
from meshsvc.wire.registry import Role, decode_message, encode_message


def node_id(number: int) -> NodeId:
    """Ids whose order is not that of the numbers."""
    return NodeId(f"{(number * 7919 + 13) % 65536:016x}{number:016x}")


def envelope(source: int, target: int, seq: int = 1, body: bytes = b"\x80") -> Envelope:
    return Envelope(node_id(source), 0, 1, node_id(target), 0, 0, 0, 0, 0, seq, body)


class RelayNode:
    """One node: its routes, its relay, and what came of its messages."""

    def __init__(self, net: RelayNet, number: int, life: int) -> None:
        self.net, self.number, self.id, self.life = net, number, node_id(number), life
        self.routes = Routes(self.id)
        self.counters = Counters()
        self.relay = Relay(self.id, life, self.routes, self, self, self.counters, lambda: net.now)
        self.got: list[tuple[str, int]] = []
        self.home: list[Envelope] = []
        self.lost_to: list[NodeId] = []
        self.shards_lost: list[tuple[NodeId, int, int]] = []
        self.casts = Casts(
            self.routes, (life, 1), self.hand, self.heard, self.counters, net.now - 1000.0
        )
        self.told: list[tuple[str, int]] = []
        self.values: dict[str, object] = {}
        self.full: set[NodeId] = set()

    # what the relay is given

    def link(self, node: NodeId, link_class: LinkClass) -> _Link | None:
        assert link_class is LinkClass.CONTROL
        return _Link(self, node) if node in self.routes.linked else None

    def arrived(self, message: Envelope, source_life: int) -> None:
        self.got.append((message.source, message.seq))

    def came_home(self, message: Envelope, why: str) -> None:
        self.home.append(message)

    def lost(self, target: NodeId) -> None:
        self.lost_to.append(target)

    def shard_lost(self, target: NodeId, shard: int, incarnation: int) -> None:
        self.shards_lost.append((target, shard, incarnation))

    def hand(self, node: NodeId, message: object) -> Sent:
        link = self.link(node, LinkClass.CONTROL)
        return Sent.DISCONNECTED if link is None else link.send(message)

    def heard(self, cast: Cast) -> None:
        self.told.append((cast.source, cast.number & 0xFFFFFFFF))

    # what tests do

    def send(self, target: int, seq: int = 1) -> Sent:
        return self.relay.send(node_id(target), encode_message(envelope(self.number, target, seq)))

    def count(self, what: str) -> float:
        return self.counters.total("relay_messages_total", what=what)

    def receive(self, peer: NodeId, message: object) -> None:
        if isinstance(message, Relayed):
            self.net.longest = max(self.net.longest, len(message.path) + len(message.tried))
            self.relay.received(peer, message)
        elif isinstance(message, RelayLost):
            self.relay.received_lost(peer, message)
        elif isinstance(message, Cast):
            self.casts.received(peer, message, self.net.now)
        elif isinstance(message, CastsHeld):
            self.casts.held(peer, message)
        elif isinstance(message, CastsWanted):
            self.casts.wanted(peer, message, self.net.now)


class _Link:
    agreed = True

    def __init__(self, node: RelayNode, peer: NodeId) -> None:
        self.node, self.peer = node, peer

    def send(self, message: object) -> Sent:
        if self.peer in self.node.full:
            return Sent.FULL
        self.node.net.flying.append((self.node.id, self.peer, encode_message(message)))
        return Sent.ACCEPTED

    send_body = send

    def flush_now(self) -> None:
        pass


class RelayNet:
    """``count`` nodes joined by ``edges``; ``learn`` spreads what they claim.

    ``never_met`` are nodes without a link that never had one: they look dead to each other
    once they have waited for an echo.
    """

    def __init__(self, count: int, edges: set[tuple[int, int]], never_met: bool = False):
        self.now = 100.0
        self.unlinked = Status.JOINING if never_met else Status.ALIVE
        self.never_met = never_met
        self.killed: set[int] = set()
        self.nodes = [RelayNode(self, number, 1000) for number in range(count)]
        self.by_id = {node.id: node for node in self.nodes}
        self.flying: deque[tuple[NodeId, NodeId, bytes]] = deque()
        self.carried = 0
        self.longest = 0
        for a, b in sorted(edges):
            self.nodes[a].routes.link_up(node_id(b))
            self.nodes[b].routes.link_up(node_id(a))

    def learn(self) -> None:
        """Every node hears of all members and of what each claims, and claims anew."""
        for turn in range(4):
            if self.never_met and turn == 2:
                self.unlinked = Status.DEAD
            nodes = [node for node in self.nodes if node.number not in self.killed]
            for node in nodes:
                node.routes.members([self.member(node, other) for other in self.nodes], self.now)
            self.now += 5.0
            for node in nodes:
                node.routes.tick(self.now)
                told = node.routes.claim(self.now)
                if told is not None:
                    node.values = {} if told[0] is None else {"links": told[0]}

    def member(self, observer: RelayNode, node: RelayNode) -> Member:
        near = observer is node or node.id in observer.routes.linked
        status = Status.ALIVE if near else self.unlinked
        return Member(
            *(node.id, f"n{node.number}", status, node.life, 1),
            *(Address("10.0.0.1", 7000 + node.number), 1, node.values),
        )

    def cut(self, a: int, b: int) -> None:
        """A link breaks: both ends notice, and say what they lost."""
        for one, other in ((a, b), (b, a)):
            self.nodes[one].routes.link_down(node_id(other), self.now)
            self.nodes[one].relay.link_down(node_id(other))

    def mend(self, a: int, b: int) -> None:
        """A link comes up."""
        for one, other in ((a, b), (b, a)):
            self.nodes[one].routes.link_up(node_id(other))
            self.nodes[one].casts.link_up(node_id(other))

    def pass_time(self, seconds: int) -> int:
        """Let repair go on; answers how many messages were carried."""
        before = self.carried
        for _ in range(seconds):
            self.now += 1.0
            for node in self.nodes:
                if node.casts.deadline() is not None:
                    node.casts.tick(self.now)
            self.run()
        return self.carried - before

    def run(self, most: int = 100_000) -> None:
        """Deliver until nothing flies."""
        for _ in range(most):
            if not self.flying:
                return
            source, target, body = self.flying.popleft()
            if source in self.by_id[target].routes.linked:
                self.carried += 1
                self.by_id[target].receive(source, decode_message(body, Role.PEER))
        raise AssertionError("messages are relayed for ever")


def connected(count: int, rng: Random, density: float) -> set[tuple[int, int]]:
    """A random connected graph: a random tree, and some of the other edges."""
    edges = {(rng.randrange(number), number) for number in range(1, count)}
    every = [(a, b) for b in range(count) for a in range(b)]
    return edges | {edge for edge in every if rng.random() < density}


def chain(count: int) -> set[tuple[int, int]]:
    return {(number, number + 1) for number in range(count - 1)}


def mesh(count: int) -> set[tuple[int, int]]:
    return {(a, b) for b in range(count) for a in range(b)}

"""Whole meshes in memory: real cores, links and disks of our own, virtual time, one seed.

``World`` holds nodes of any number of shards. What a core decides is carried out with a
small random delay; time only moves in ``World.run``. Nothing here decides anything that a
core should: a dial compares epochs as the link's handshake does, and that is all.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from meshsvc.mesh import controller as decisions
from meshsvc.mesh import formation, plane
from meshsvc.mesh.controller import StaticController
from meshsvc.mesh.epoch import Adopted, MeshState, Superseded
from meshsvc.model import (
    NO_EPOCH,
    Address,
    Epoch,
    Incarnation,
    LinkClass,
    NodeId,
    NodeInfo,
    Roster,
    ShardId,
)
from meshsvc.shards.placement import link_owner

REDIAL_S = 0.25
ASK_S = 2.0
DETECT_S = 2.0


def node_info(number: int, incarnation: int = 1, shards: int = 1) -> NodeInfo:
    """Node ``n<number>`` with an id, address and life derived from the numbers."""
    return NodeInfo(
        NodeId(f"{number:032x}"),
        f"n{number}",
        Incarnation(incarnation),
        Address("10.0.0.1", 7000 + number),
        shards,
    )


def nodes(count: int, **options: int) -> tuple[NodeInfo, ...]:
    """``n1`` to ``n<count>``."""
    return tuple(node_info(number + 1, **options) for number in range(count))


@dataclass(eq=False)
class FakeLink:
    """One end of a link; ``other`` is the end at the peer."""

    peer: NodeInfo
    epoch: Epoch
    agreed: bool = True
    link_class: LinkClass = LinkClass.DATA
    rtt_ms: float | None = 1.5
    other: FakeLink | None = None
    at: Shard | None = None
    alive: bool = True


@dataclass(eq=False)
class Shard:
    """One shard of a node: its core and what its links do."""

    node: Node
    core: plane.ShardPlane
    index: ShardId
    epoch: Epoch = NO_EPOCH
    roster: Roster | None = None
    links: dict[NodeId, FakeLink] = field(default_factory=dict)
    kept: dict[Address, object] = field(default_factory=dict)


@dataclass(eq=False)
class Node:
    """One life of a node."""

    info: NodeInfo
    controller: StaticController
    shards: list[Shard] = field(default_factory=list)
    alive: bool = True
    resumes: float = 0.0
    sends: list[tuple[NodeId, Roster]] = field(default_factory=list)
    superseded: list[Superseded] = field(default_factory=list)

    @property
    def core(self) -> plane.ShardPlane:
        """Shard 0's."""
        return self.shards[0].core


class World:
    """Nodes, and the wires and disks between them."""

    def __init__(self, seed: int, names: tuple[str, ...] = (), shards: int = 1) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.names = names
        self.shard_count = shards
        self.nodes: dict[str, Node] = {}
        self.disks: dict[str, Epoch] = {}
        self.lives: dict[str, int] = {}
        self.minted: list[tuple[Epoch, tuple[NodeInfo, ...]]] = []
        self.loss = 0.0
        self.dials = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._fifo: dict[tuple[object, object], float] = {}

    # --- time ----------------------------------------------------------------------------

    def later(self, delay: float, act: Callable[[], None]) -> None:
        """Do something ``delay`` seconds from now."""
        self._at(self.now + delay, act)

    def _at(self, when: float, act: Callable[[], None]) -> None:
        self._count += 1
        heappush(self._queue, (when, self._count, act))

    def at_node(self, node: Node, act: Callable[[], None], key: object = None) -> None:
        """Do something at a node soon: never once it is dead, later while it is stopped."""
        when = self.now + self.rng.uniform(0.001, 0.02)
        if key is not None:
            when = max(when, self._fifo.get((node, key), 0.0) + 1e-6)
            self._fifo[node, key] = when

        def arrive() -> None:
            if node.alive and self.now < node.resumes:
                self._at(node.resumes, arrive)
            elif node.alive:
                act()
                self.drain(node)

        self._at(when, arrive)

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass; stop early when ``until`` is true, and say whether it became so."""
        end = self.now + seconds
        while True:
            if until is not None and until():
                return True
            due = self._next_deadline()
            queued = self._queue[0][0] if self._queue else float("inf")
            moment = min(due, queued)
            if moment > end:
                self.now = end
                return until is None
            self.now = max(self.now, moment)
            if queued <= due:
                heappop(self._queue)[2]()
            else:
                self._tick()

    def _running(self) -> list[Node]:
        return [n for n in self.nodes.values() if n.alive and self.now >= n.resumes]

    def _next_deadline(self) -> float:
        times = [float("inf")]
        for node in self.nodes.values():
            if node.alive:
                cores = [node.controller, *(shard.core for shard in node.shards)]
                known = [core.deadline() for core in cores]
                times += [max(at, node.resumes) for at in known if at is not None]
        return min(times)

    def _tick(self) -> None:
        for node in self._running():
            for core in [node.controller, *(shard.core for shard in node.shards)]:
                at = core.deadline()
                if at is not None and at <= self.now:
                    core.tick(self.now)
            self.drain(node)

    # --- nodes ---------------------------------------------------------------------------

    def start(self, name: str) -> Node:
        """Start a node, or another life of it."""
        number, life = int(name[1:]), self.lives.get(name, 0) + 1
        self.lives[name] = life
        info = node_info(number, life, self.shard_count)
        stored = self.disks.get(name, NO_EPOCH)
        node = Node(info, StaticController(info, self.names, stored))
        for index in range(self.shard_count):
            shard = ShardId(index)
            core = plane.ShardPlane(info, shard, link_owner)
            node.shards.append(Shard(node, core, shard))
            core.start(self.now)
        for shard in node.shards:
            for sibling in node.shards:
                if sibling is not shard:
                    shard.core.sibling_up(sibling.index)
        self.nodes[name] = node
        node.controller.members_changed((info,), self.now)
        node.controller.start(self.now)
        self.drain(node)
        self.spread()
        return node

    def kill(self, name: str) -> None:
        """SIGKILL: sockets close at once, others call it dead after a while."""
        node = self.nodes[name]
        node.alive = False
        for shard in node.shards:
            for link in list(shard.links.values()):
                self.cut(link)
        self.later(DETECT_S, self.spread)

    def pause(self, name: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        node = self.nodes[name]
        node.resumes = max(node.resumes, self.now + seconds)
        self.later(DETECT_S, self.spread)
        self.later(seconds, self.spread)

    def spread(self) -> None:
        """Gossip: every node learns who is alive, and at which epoch each is."""
        seen = tuple(n.info for n in self._running())
        shown = {n.info.node_id: n.core.epoch.in_force for n in self._running()}
        for node in self._running():

            def learn(node: Node = node) -> None:
                node.controller.members_changed(seen, self.now)
                for peer, epoch in shown.items():
                    node.controller.epoch_shown(peer, epoch, self.now)

            self.at_node(node, learn, "gossip")

    def gossip_every(self, seconds: float) -> None:
        """Spread by itself from now on."""

        def again() -> None:
            self.spread()
            self.later(seconds, again)

        again()

    def restart_shard(self, name: str, index: int) -> None:
        """Kill one shard process and start it again with nothing in memory."""
        node = self.nodes[name]
        old = node.shards[index]
        old.kept.clear()
        for link in list(old.links.values()):
            self.cut(link)
        core = plane.ShardPlane(node.info, old.index, link_owner)
        new = node.shards[index] = Shard(node, core, old.index)
        core.start(self.now)
        for shard in node.shards:
            if shard is not new:
                shard.core.sibling_down(new.index)
                shard.core.sibling_up(new.index)
                core.sibling_up(shard.index)
        self.drain(node)

    # --- carrying out what cores decide --------------------------------------------------

    def drain(self, node: Node) -> None:
        """Carry out what the cores of a node decided."""
        again = True
        while again:
            again = False
            for shard in list(node.shards):
                for effect in shard.core.take_effects():
                    again = True
                    self._effect(node, shard, effect)
            for event in node.controller.take_events():
                again = True
                self._decision(node, event)

    def _effect(self, node: Node, shard: Shard, effect: plane.PlaneEffect) -> None:
        match effect:
            case formation.SetEpoch(epoch, roster):
                self._set_epoch(shard, epoch, roster)
            case formation.Keep(address, node_id):
                token = shard.kept[address] = object()
                self._dial(shard, address, node_id, token)
            case formation.Forget(address):
                del shard.kept[address]
            case plane.ToShard(index, message):
                sibling = node.shards[index]

                def receive() -> None:  # the bus drops what a former life sent or was sent
                    if shard in node.shards and sibling in node.shards:
                        sibling.core.received(shard.index, message)

                self.at_node(node, receive, (shard, sibling))
            case Adopted(roster, _) if shard.index == 0:
                node.controller.adopted(roster, self.now)
            case Superseded():
                node.superseded.append(effect)
                node.controller.epoch_seen(effect.theirs, self.now)

    def _decision(self, node: Node, event: decisions.ControllerEvent) -> None:
        match event:
            case decisions.PersistEpoch(epoch):

                def save() -> None:
                    self.disks[node.info.name] = epoch
                    node.controller.persisted(epoch, self.now)

                self.at_node(node, save)
            case decisions.SendCreateMesh(node_id, roster):
                assert self.disks[node.info.name] >= roster.epoch, "sent before it was durable"
                node.sends.append((node_id, roster))
                self.minted.append((roster.epoch, roster.members))
                self._create(node, node_id, roster)

    def _create(self, sender: Node, target: NodeId, roster: Roster) -> None:
        answered = []

        def expire() -> None:
            if not answered and sender.alive:
                sender.controller.unanswered(target, roster.epoch, self.now)
                self.drain(sender)

        receiver = self.by_id(target)
        self.later(ASK_S, expire)
        if receiver is None or self.rng.random() < self.loss:
            return

        def arrive() -> None:
            answer = receiver.core.offer(roster)
            self.drain(receiver)

            def back() -> None:
                answered.append(True)
                sender.controller.answered(target, roster.epoch, answer, self.now)

            if self.rng.random() >= self.loss:
                self.at_node(sender, back, ("answer", target))

        self.at_node(receiver, arrive, ("create", sender))

    def by_id(self, node_id: NodeId) -> Node | None:
        """The running life of a node."""
        found = [n for n in self.nodes.values() if n.info.node_id == node_id and n.alive]
        return found[0] if found else None

    # --- links ---------------------------------------------------------------------------

    def _dial(self, shard: Shard, address: Address, expect: NodeId, token: object) -> None:
        def attempt() -> None:
            if shard.kept.get(address) is not token:
                return
            self.later(REDIAL_S, lambda: self.at_node(shard.node, attempt))
            peer = self.by_id(expect)
            if expect not in shard.links and peer is not None and self.now >= peer.resumes:
                self.dials += 1
                owner = link_owner(shard.node.info.node_id, peer.info.shards)
                self._handshake(shard, peer.shards[owner])

        self.at_node(shard.node, attempt)

    def _handshake(self, dialer: Shard, acceptor: Shard) -> None:
        mine, theirs = dialer.node.info, acceptor.node.info
        if dialer.epoch != acceptor.epoch:
            low, high = sorted((dialer, acceptor), key=lambda shard: shard.epoch)
            epoch = high.epoch
            self.at_node(low.node, lambda: low.core.sighted(epoch))
            return
        rosters = (dialer.roster, acceptor.roster)
        if not all(
            r and r.get(mine.node_id) == mine and r.get(theirs.node_id) == theirs for r in rosters
        ):
            return
        if mine.node_id in acceptor.links:
            return
        out, back = FakeLink(theirs, dialer.epoch), FakeLink(mine, acceptor.epoch)
        out.other, back.other, out.at, back.at = back, out, dialer, acceptor
        dialer.links[theirs.node_id], acceptor.links[mine.node_id] = out, back
        for link in (out, back):
            self._tell(link)

    def _tell(self, link: FakeLink) -> None:
        shard = link.at
        self.at_node(shard.node, lambda: shard.core.link_up(link), link)

    def _tell_epoch(self, link: FakeLink, seen: Epoch) -> None:
        def tell() -> None:
            if link.alive and seen > link.epoch:
                link.at.core.sighted(seen)
            link.at.core.link_moved()

        self.at_node(link.at.node, tell, link)

    def cut(self, link: FakeLink) -> None:
        """Close a link at both ends."""
        for end in (link, link.other):
            if not end.alive:
                continue
            end.alive = False
            shard, peer = end.at, end.peer.node_id
            if shard.links.get(peer) is end:
                del shard.links[peer]
            self.at_node(shard.node, lambda shard=shard, end=end: shard.core.link_down(end), end)

    def _set_epoch(self, shard: Shard, epoch: Epoch, roster: Roster) -> None:
        assert epoch > shard.epoch, "epochs only rise"
        shard.epoch, shard.roster = epoch, roster
        for peer, link in list(shard.links.items()):
            if roster.get(peer) != link.peer:
                self.cut(link)
                continue
            link.epoch = epoch
            link.agreed = link.other.agreed = link.other.epoch == epoch
            self._tell_epoch(link, NO_EPOCH)
            self._tell_epoch(link.other, epoch)

    # --- what tests ask ------------------------------------------------------------------

    def formed(self, *names: str) -> bool:
        """Whether these nodes (all running ones by default) form one mesh, just of them."""
        members = [self.nodes[name] for name in names] or self._running()
        ids = {node.info for node in members}
        epochs = {shard.epoch for node in members for shard in node.shards}
        return len(epochs) == 1 and all(
            shard.core.state is MeshState.FORMED and set(shard.core.roster.members) == ids
            for node in members
            for shard in node.shards
        )

    def check_links(self) -> None:
        """No pair has two links, none joins different epochs and calls itself agreed."""
        for node in self._running():
            for shard in node.shards:
                for link in shard.links.values():
                    if link.agreed:
                        assert link.epoch == link.other.epoch
            peers = [peer for shard in node.shards for peer in shard.links]
            assert len(peers) == len(set(peers)), "two links of one pair"

    def check_minted(self) -> None:
        """One epoch never carried two rosters, in any life of any controller."""
        rosters: dict[Epoch, tuple[NodeInfo, ...]] = {}
        for epoch, members in self.minted:
            assert rosters.setdefault(epoch, members) == members, f"{epoch} has two rosters"

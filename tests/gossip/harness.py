"""Clusters of Membership objects over a network in memory, in virtual time, from one seed.

Links behave as TCP does: in order, lossless unless asked otherwise, reset when a process is
killed, silent when a host is powered off or a process stopped (then both ends notice after
``SILENT_S``), redialed by whoever keeps the address. A paused process does nothing; when it
goes on, its timers run first and then it reads what has piled up, as a reactor does.
"""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from meshsvc.counters import Counters
from meshsvc.gossip import effects as fx
from meshsvc.gossip.detector import HELPER_SHARE, NO
from meshsvc.gossip.events import Event
from meshsvc.gossip.members import Status
from meshsvc.gossip.membership import Membership
from meshsvc.gossip.settings import Contacts, Settings
from meshsvc.model import Address, Incarnation, NodeId, NodeInfo

EPOCH = 1_700_000_000.0
SILENT_S = 5.0
REDIAL_S = 1.0


def node_id(number: int) -> NodeId:
    """Ids whose order is not that of the numbers."""
    return NodeId(f"{(number * 7919 + 13) % 65536:04x}{number:028x}")


def address(number: int) -> Address:
    return Address("10.0.0.1", 7000 + number)


class Node:
    """One process: a Membership, its timer, its inbox and its links."""

    def __init__(self, net: Net, number: int, generation: int, shard_incarnation: int) -> None:
        self.net = net
        self.number = number
        self.id = node_id(number)
        self.info = NodeInfo(
            self.id, f"n{number:02d}", Incarnation(generation), net.addresses[number], 2
        )
        self.counters = Counters()
        self.core = Membership(
            self.info,
            random.Random(f"{net.seed}.{number}.{generation}"),
            self.counters,
            net.settings,
            Contacts(tuple(net.addresses[s] for s in net.seeds[number]), net.remembered[number]),
            shard_incarnation,
        )
        self.up = True
        self.paused = False
        self.kept: dict[Address, NodeId | None] = {}
        self.events: list[Event] = []
        self.effects: list[fx.Effect] = []
        self.inbox: deque[Callable[[], None]] = deque()
        self.timers: list[Callable[[], None]] = []
        self._armed: float | None = None

    # --- driving -------------------------------------------------------------------------

    def act(self, work: Callable[[], None]) -> None:
        """Do something in this process, now or when it goes on."""
        if not self.up:
            return
        if self.paused:
            self.inbox.append(work)
            return
        work()
        self.drain()

    def timer(self, delay: float, work: Callable[[], None]) -> None:
        def fire() -> None:
            if self.up and self.paused:
                self.timers.append(work)
            elif self.up:
                work()
                self.drain()

        self.net.later(delay, fire)

    def drain(self) -> None:
        while found := self.core.take_events():
            for effect in found:
                self.perform(effect)
        due = self.core.deadline()
        if due is not None and (self._armed is None or due < self._armed):
            self._armed = due
            self.timer(max(0.0, due - self.net.now), lambda: self.ticked(due))

    def ticked(self, armed: float) -> None:
        if self._armed == armed:
            self._armed = None
            self.core.tick(self.net.now)

    def perform(self, effect: fx.Effect) -> None:
        net = self.net
        match effect:
            case fx.Tell(node, verb, payload):
                net.tell(self, node, verb, payload)
            case fx.Echo(node, token, timeout_s):
                net.echo(self, node, timeout_s, lambda a: self.core.echo_done(token, a, net.now))
            case fx.EchoVia(helper, target, token, timeout_s):
                net.echo_via(
                    self,
                    (helper, target),
                    timeout_s,
                    lambda a: self.core.echo_done(token, a, net.now),
                )
            case fx.Notify(event):
                self.events.append(event)
            case fx.Keep(where, node):
                known = where in self.kept
                self.kept[where] = node
                if not known:
                    net.dial(self, where)
            case fx.Forget(where):
                self.kept.pop(where, None)
            case _:
                self.effects.append(effect)

    # --- questions -----------------------------------------------------------------------

    def status(self, other: Node) -> Status | None:
        member = self.core.member(other.id)
        return None if member is None else member.status

    def said(self, name: str, other: Node | None = None) -> list[Event]:
        return [
            e for e in self.events if e.name == name and (other is None or e.node_id == other.id)
        ]


class Net:
    """N numbered places for processes, and what lies between them."""

    def __init__(
        self,
        count: int,
        seed: int = 1,
        settings: Settings | None = None,
        latency: float = 0.0005,
        seeds: Callable[[int], list[int]] = lambda number: [0],
    ) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.settings = settings or Settings()
        self.latency = latency
        self.now = EPOCH
        self.loss = 0.0
        self.echo_blocked: set[tuple[int, int]] = set()
        self.cut: set[tuple[int, int]] = set()
        self.no_link: set[tuple[int, int]] = set()
        self.addresses = {number: address(number) for number in range(count)}
        self.seeds = {n: [s for s in seeds(n) if s != n] for n in range(count)}
        self.remembered: dict[int, tuple[Address, ...]] = defaultdict(tuple)
        self.nodes: dict[int, Node] = {}
        self.links: dict[tuple[int, int], float] = {}
        self.told: dict[str, int] = defaultdict(int)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._arrived: dict[tuple[int, int], float] = defaultdict(float)

    # --- time ----------------------------------------------------------------------------

    def later(self, delay: float, work: Callable[[], None]) -> None:
        self._count += 1
        heappush(self._queue, (self.now + delay, self._count, work))

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> float | None:
        """Let time pass; answers the seconds after which ``until`` held, None if never."""
        start, end = self.now, self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            at, _, work = heappop(self._queue)
            self.now = max(self.now, at)
            work()
            if until is not None and until():
                return self.now - start
        self.now = end
        return None

    # --- processes -----------------------------------------------------------------------

    def start(self, number: int, generation: int | None = None, shard_incarnation: int = 1) -> Node:
        generation = int(self.now) if generation is None else generation
        node = self.nodes[number] = Node(self, number, generation, shard_incarnation)
        node.act(lambda: node.core.start(self.now))
        return node

    def start_all(self, gap: float = 0.01) -> None:
        for number in self.addresses:
            self.start(number)
            self.run(gap)

    def formed(self, count: int | None = None) -> bool:
        running = [n for n in self.nodes.values() if n.up]
        return all(a.status(b) is Status.ALIVE for a in running for b in running) and (
            count is None or len(running) == count
        )

    def kill(self, number: int) -> Node:
        """kill -9: the kernel resets its links at once."""
        node = self.nodes[number]
        node.up = False
        for pair in [p for p in self.links if number in p]:
            self.unlink(pair)
        return node

    def power_off(self, number: int) -> Node:
        """The host vanishes: nobody is told."""
        node = self.nodes[number]
        node.up = False
        self._silent(number)
        return node

    def pause(self, number: int) -> None:
        self.nodes[number].paused = True
        self._silent(number)

    def resume(self, number: int) -> None:
        node = self.nodes[number]
        node.paused = False
        timers, node.timers = node.timers, []
        for work in timers:
            node.act(work)
        while node.inbox:
            node.act(node.inbox.popleft())

    def stop(self, number: int) -> Node:
        """SIGTERM: it says goodbye, then its process ends."""
        node = self.nodes[number]
        node.act(lambda: node.core.stop(self.now))
        self.later(0.05, lambda: self.kill(number) and None)
        return node

    def _silent(self, number: int) -> None:
        """Both ends give a silent link up after a while."""
        node = self.nodes[number]

        def check(pair: tuple[int, int], since: float) -> None:
            if self.links.get(pair) == since and (node.paused or not node.up):
                self.unlink(pair)

        for pair, since in [item for item in self.links.items() if number in item[0]]:
            self.later(SILENT_S + self.rng.random() * 0.5, lambda p=pair, s=since: check(p, s))

    # --- links ---------------------------------------------------------------------------

    def between(self, a: int, b: int) -> bool:
        return (a, b) not in self.cut and (b, a) not in self.cut

    def partition(self, one: range, other: range) -> None:
        """Nothing passes; links are noticed to be silent after a while."""
        self.cut |= {(a, b) for a in one for b in other}
        for pair in [p for p in self.links if not self.between(*p)]:
            since = self.links[pair]
            self.later(
                SILENT_S,
                lambda p=pair, s=since: (
                    self.links.get(p) == s and not self.between(*p) and self.unlink(p)
                ),
            )

    def heal(self) -> None:
        self.cut.clear()

    def dial(self, node: Node, where: Address) -> None:
        """Try until there is a link, as long as the address is kept."""
        if self.nodes.get(node.number) is not node or not node.up or where not in node.kept:
            return
        target = next((n for n in self.nodes.values() if n.info.address == where and n.up), None)
        expected = node.kept[where]
        if target is not None and target is not node and expected in (None, target.id):
            pair = (min(node.number, target.number), max(node.number, target.number))
            able = self.between(*pair) and not (node.paused or target.paused)
            if pair in self.links:
                return
            if able and pair not in self.no_link:
                self.link(pair)
                return
        self.later(REDIAL_S * (0.5 + self.rng.random() / 2), lambda: self.dial(node, where))

    def link(self, pair: tuple[int, int]) -> None:
        self.links[pair] = self.now
        a, b = (self.nodes[number] for number in pair)

        def up(one: Node, other: Node) -> None:
            # Three messages of handshake.
            self.later(
                3 * self.latency, lambda: one.act(lambda: one.core.link_up(other.info, self.now))
            )

        up(a, b)
        up(b, a)

    def unlink(self, pair: tuple[int, int]) -> None:
        if self.links.pop(pair, None) is None:
            return
        a, b = (self.nodes[number] for number in pair)
        for one, other in ((a, b), (b, a)):
            delay = 3 * self.latency + self.rng.random() * self.latency
            self.later(
                delay,
                lambda o=one, t=other: o.act(lambda: o.core.link_lost(t.id, self.now)),
            )
            for redial in list(one.kept):
                if redial == other.info.address:
                    self.later(delay + 0.05, lambda o=one, w=redial: self.dial(o, w))

    def way(self, source: Node, target: NodeId) -> Node | None:
        """The process at the other end of a link, if there is one."""
        for other in self.nodes.values():
            if other.id == target:
                pair = (min(source.number, other.number), max(source.number, other.number))
                return other if pair in self.links else None
        return None

    # --- messages ------------------------------------------------------------------------

    def delay(self) -> float:
        return self.latency * (0.5 + self.rng.random())

    def passes(self, source: Node, target: Node) -> bool:
        return (source.number, target.number) not in self.cut and (
            (target.number, source.number) not in self.cut
        )

    def tell(self, source: Node, target: NodeId, verb: str, payload: object) -> None:
        other = self.way(source, target)
        self.told[verb] += 1
        if other is None or not self.passes(source, other) or self.rng.random() < self.loss:
            return
        payload = plain(payload)
        pair = (source.number, other.number)
        at = self._arrived[pair] = max(self._arrived[pair], self.now + self.delay())
        self.later(
            at - self.now,
            lambda: other.act(lambda: other.core.receive(source.id, verb, payload, self.now)),
        )

    def echo(
        self, source: Node, target: NodeId, timeout_s: float, done: Callable[[int | None], None]
    ) -> None:
        other = self.way(source, target)
        self.told["echo"] += 1
        if other is None:
            self.later(0.0, lambda: source.act(lambda: done(None)))
            return
        once = Once(source, done)
        source.timer(timeout_s, lambda: once.run(None))
        if (source.number, other.number) in self.echo_blocked or not self.passes(source, other):
            return
        self.later(self.delay(), lambda: other.act(lambda: answer(other.core.answer_echo())))

        def answer(generation: int) -> None:
            if self.passes(source, other):
                self.later(self.delay(), lambda: source.act(lambda: once.run(generation)))

    def echo_via(
        self,
        source: Node,
        way: tuple[NodeId, NodeId],
        timeout_s: float,
        done: Callable[[int | None], None],
    ) -> None:
        helper = self.way(source, way[0])
        if helper is None:
            self.later(0.0, lambda: source.act(lambda: done(None)))
            return
        once = Once(source, done)
        source.timer(timeout_s, lambda: once.run(None))

        def answer(generation: int | None) -> None:
            found = NO if generation is None else generation
            if self.passes(source, helper):
                self.later(self.delay(), lambda: source.act(lambda: once.run(found)))

        def ask() -> None:
            self.echo(helper, way[1], timeout_s * HELPER_SHARE, answer)

        if self.passes(source, helper):
            self.later(self.delay(), lambda: helper.act(ask))


class Once:
    """The first of an answer and a time-out counts."""

    def __init__(self, node: Node, done: Callable[[Any], None]) -> None:
        self.done = done
        self.over = False

    def run(self, answer: Any) -> None:
        if not self.over:
            self.over = True
            self.done(answer)


def plain(value: Any) -> Any:
    """What a payload looks like after the wire: lists, and nothing shared."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value

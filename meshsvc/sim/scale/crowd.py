"""Thousands of ``Membership`` cores over virtual time and a network that only delays and loses.

Left out, so that ten minutes of a thousand nodes fit into as many minutes of one core:
services, messaging and links. Every two nodes that run have a link; one of a killed process
is reset at once, one of a host without power is noticed to be silent after a while. Messages
between two nodes may overtake each other, and a lost one is lost for good: links allow
neither, so that is harder than the truth. An echo that is lost comes late, as over TCP. The
cluster starts out formed: each core is handed all states, and only its first echoes are
answered out of turn.

One ``random.Random`` serves cores and network, so a run is a function of its seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf
from random import Random
from typing import Any

from meshsvc.counters import Counters
from meshsvc.gossip.detector import HELPER_SHARE, NO
from meshsvc.gossip.effects import Echo, EchoVia, Effect, Notify, Tell
from meshsvc.gossip.events import Event
from meshsvc.gossip.membership import Membership
from meshsvc.gossip.rounds import ACK
from meshsvc.gossip.settings import Contacts, Settings
from meshsvc.gossip.states import Delta
from meshsvc.model import Address, Incarnation, NodeId, NodeInfo
from meshsvc.sim.clock import UNIX_START_S
from meshsvc.sim.scale.traffic import ask_bytes, reply_bytes, tell_overhead
from meshsvc.wire.codec import decode, encode

ECHO, ECHO_VIA = "gossip.echo", "gossip.echo_via"
VIA_PAYLOAD_BYTES = 44
"""[node id, seconds] of an indirect echo."""

SILENT_S = 5.0
"""Until a link gives up a peer from which nothing comes, as ``link/keepalive.py`` does."""

RESEND_S = 0.2
"""After which TCP sends again what was lost; it doubles each time."""

_ELSEWHERE = Address("0.0.0.0", 1)


@dataclass(frozen=True, slots=True)
class Weather:
    """The network: seconds of delay one way, and the share of messages that is lost."""

    latency_s: float = 0.0005
    jitter_s: float = 0.001
    loss: float = 0.0


class Node:
    """One core, its timer and what it sent."""

    __slots__ = ("armed", "core", "id", "info", "reset", "sent_bytes", "sent_messages", "up")

    def __init__(self, info: NodeInfo, core: Membership) -> None:
        self.info, self.core = info, core
        self.id = info.node_id
        self.up = True
        self.reset = False
        self.armed = inf
        self.sent_bytes = 0
        self.sent_messages = 0


class Crowd:
    """The nodes, the time and the network.

    Attributes:
        now: unix seconds of virtual time.
        on_event: called with (node, event) for what a subscriber of that node would hear.
        sent_by: bytes sent by verb, echoes and their answers included.
    """

    def __init__(
        self,
        count: int,
        seed: int = 1,
        weather: Weather | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.rng = Random(seed)
        self.now = UNIX_START_S
        self.weather = weather or Weather()
        self.settings = settings or Settings()
        self.on_event: Callable[[Node, Event], None] | None = None
        self.sent_by: dict[str, int] = {}
        self.events = 0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._seq = 0
        self._payload: object = None
        self._copy: object = None
        self._size = 0
        self.nodes = [self._node(number) for number in range(count)]
        self._by_id = {node.id: node for node in self.nodes}
        self._form()

    # --- how it begins -------------------------------------------------------------------

    def _node(self, number: int) -> Node:
        node_id = NodeId(f"{self.rng.getrandbits(128):032x}")
        address = Address(f"10.0.{number // 250}.{number % 250}", 7700)
        info = NodeInfo(node_id, f"n{number}", Incarnation(int(self.now)), address, 2)
        # The contact only makes it wait for what it is to know, as a node that joins does.
        contacts = Contacts((_ELSEWHERE,))
        core = Membership(info, self.rng, Counters(), self.settings, contacts)
        core.start(self.now)
        return Node(info, core)

    def _form(self) -> None:
        """Hand every core all states, as the answer of a contact would, and its echoes."""
        # The one place that reaches into a core: over the wire each would hold a copy of
        # its own of every state, which are gigabytes.
        states = [Delta(node.core._voice.state, 0) for node in self.nodes]
        began, last, infos = self.now, 0.0, {node.id: node.info for node in self.nodes}
        for node in self.nodes:
            core = node.core
            core.linked.update(infos)
            del core.linked[node.id]
            for state in states:
                core._endpoints.offer(state, began)
            core.receive(self.nodes[0].id, ACK, [[], []], began)
            for effect in core.take_events():
                if type(effect) is Echo:
                    trip = self._delay() + self._delay()
                    last = max(last, trip)
                    target = self._by_id[effect.node]
                    core.echo_done(effect.token, int(target.info.incarnation), began + trip)
                    core.take_events()
        self.now = began + last
        for node in self.nodes:
            self._settle(node)

    # --- time ----------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let time pass."""
        queue, until = self._queue, self.now + seconds
        while queue and queue[0][0] <= until:
            self.now, _, call, args = heappop(queue)
            self.events += 1
            call(*args)
        self.now = until

    def _later(self, delay: float, call: Callable[..., None], *args: Any) -> None:
        self._seq += 1
        heappush(self._queue, (self.now + delay, self._seq, call, args))

    def _delay(self) -> float:
        return self.weather.latency_s + self.weather.jitter_s * self.rng.random()

    def _lost(self) -> bool:
        return bool(self.weather.loss) and self.rng.random() < self.weather.loss

    def _trip(self) -> float:
        """There and back, with what is sent again on the way."""
        trip = self._delay() + self._delay()
        again = RESEND_S
        while self._lost() or self._lost():
            trip += again
            again *= 2
        return trip

    # --- what happens to nodes -----------------------------------------------------------

    @property
    def running(self) -> list[Node]:
        """The nodes that were not killed."""
        return [node for node in self.nodes if node.up]

    def set_values(self, node: Node, values: dict[str, Any]) -> None:
        """A node has something to say."""
        node.core.set_values(values, self.now)
        self._settle(node)

    def kill(self, node: Node) -> None:
        """kill -9: its kernel resets all its links."""
        node.up, node.reset = False, True
        for other in self.running:
            self._later(self._delay(), self._link_lost, other, node)

    def power_off(self, node: Node) -> None:
        """Its host is gone: nobody is told, the links fall silent."""
        node.up = False
        for other in self.running:
            silent = SILENT_S * (1 + 0.1 * self.rng.random())
            self._later(silent, self._link_lost, other, node)

    def _link_lost(self, node: Node, peer: Node) -> None:
        if node.up:
            node.core.link_lost(peer.id, self.now)
            self._settle(node)

    # --- one node ------------------------------------------------------------------------

    def _settle(self, node: Node) -> None:
        """Carry out what a core asks for, and wake it up when it wants to be."""
        core = node.core
        for effect in core.take_events():
            self._perform(node, effect)
        due = core.deadline()
        if due is not None and due < node.armed:
            node.armed = due
            self._later(max(0.0, due - self.now), self._wake, node, due)

    def _wake(self, node: Node, armed: float) -> None:
        if node.armed != armed or not node.up:
            return
        node.armed = inf
        due = node.core.deadline()
        if due is not None and due <= self.now:
            node.core.tick(self.now)
        self._settle(node)

    def _perform(self, node: Node, effect: Effect) -> None:
        kind = type(effect)
        if kind is Tell:
            self._tell(node, effect)  # type: ignore[arg-type]
        elif kind is Echo:
            self._echo(node, effect)  # type: ignore[arg-type]
        elif kind is EchoVia:
            self._echo_via(node, effect)  # type: ignore[arg-type]
        elif kind is Notify and self.on_event is not None:
            self.on_event(node, effect.event)  # type: ignore[union-attr]

    # --- messages ------------------------------------------------------------------------

    def _count(self, node: Node, verb: str, size: int) -> None:
        node.sent_bytes += size
        node.sent_messages += 1
        self.sent_by[verb] = self.sent_by.get(verb, 0) + size

    def _tell(self, node: Node, tell: Tell) -> None:
        if tell.payload is not self._payload:  # the same one often goes to several nodes
            data = encode(tell.payload)
            self._payload, self._copy, self._size = tell.payload, decode(data), len(data)
        target = self._by_id[tell.node]
        if target.reset and target.id not in node.core.linked:
            return
        self._count(node, tell.verb, self._size + tell_overhead(tell.verb))
        if not self._lost():
            self._later(self._delay(), self._receive, target, node.id, tell.verb, self._copy)

    def _receive(self, node: Node, peer: NodeId, verb: str, payload: object) -> None:
        if node.up:
            node.core.receive(peer, verb, payload, self.now)
            self._settle(node)

    def _echo(self, node: Node, echo: Echo) -> None:
        target = self._by_id[echo.node]
        if target.id not in node.core.linked:
            self._later(0.0, self._echoed, node, echo.token, None)
            return
        self._count(node, ECHO, ask_bytes(ECHO, 1))
        answer, delay = self._answer(target, echo.timeout_s)
        self._later(delay, self._echoed, node, echo.token, answer)

    def _echo_via(self, node: Node, echo: EchoVia) -> None:
        helper, target = self._by_id[echo.helper], self._by_id[echo.target]
        self._count(node, ECHO_VIA, ask_bytes(ECHO_VIA, VIA_PAYLOAD_BYTES))
        if helper.reset:
            self._later(self._delay(), self._echoed, node, echo.token, None)
            return
        if not helper.up:
            self._later(echo.timeout_s, self._echoed, node, echo.token, None)
            return
        answer, delay = NO, 0.0
        if target.id in helper.core.linked:
            self._count(helper, ECHO, ask_bytes(ECHO, 1))
            found, delay = self._answer(target, echo.timeout_s * HELPER_SHARE)
            answer = NO if found is None else found
        self._count(helper, ECHO_VIA, reply_bytes())
        delay += self._trip()
        late = delay > echo.timeout_s
        delay = min(delay, echo.timeout_s)
        self._later(delay, self._echoed, node, echo.token, None if late else answer)

    def _answer(self, target: Node, timeout_s: float) -> tuple[int | None, float]:
        """What an echo comes to, and after how long; a link that is reset ends it at once."""
        delay = self._trip()
        if target.reset:
            return None, min(delay, timeout_s)
        if not target.up:
            return None, timeout_s
        self._count(target, ECHO, reply_bytes())
        return (target.core.answer_echo(), delay) if delay <= timeout_s else (None, timeout_s)

    def _echoed(self, node: Node, token: int, answer: int | None) -> None:
        if node.up:
            node.core.echo_done(token, answer, self.now)
            self._settle(node)

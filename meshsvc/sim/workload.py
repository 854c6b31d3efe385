"""An application that runs in every shard of every node, and a ledger of what became of it.

It asks and tells random shards of random nodes, some with slow answers, some cancelled. The
ledger is outside of the nodes: it knows what was sent, and says what cannot be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from meshsvc.errors import CallError
from meshsvc.interfaces import IMeshApplication
from meshsvc.model import LinkClass, Sent
from meshsvc.sim.crier import CRY

if TYPE_CHECKING:
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.lives import SimShard

ECHO, SLOW, TELL = "probe.echo", "probe.slow", "probe.tell"

ASK_S = 2.0

Life = tuple[str, int, int, int]
"""(node, generation, shard, incarnation)"""


@dataclass(slots=True, eq=False)
class Ask:
    """One ask of the workload; ``due`` is its deadline in virtual seconds."""

    token: int
    life: SimShard
    target: str
    due: float
    way: tuple[Any, LinkClass]
    ended: str = ""

    def excused(self) -> bool:
        """Whether nobody is there to whom it could have ended, or who could be on time."""
        reactor = self.life.reactor
        # Also after a busy time: what piled up during it is worked off first.
        just_back = 0 < reactor.resumed_at > reactor.time.now - 1.0
        return not reactor.alive or reactor.paused or just_back or bool(reactor.cost_s)

    def __str__(self) -> str:
        return f"{self.token} of {self.life.life} to {self.target}"


@dataclass(slots=True)
class Ledger:
    """What was asked and told, and what arrived."""

    on_fault: list[Callable[[str], None]] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    pending: dict[int, Ask] = field(default_factory=dict)
    next_token: int = 0
    tells: dict[tuple[Life, str], int] = field(default_factory=dict)
    heard: dict[tuple[Life, Life], int] = field(default_factory=dict)
    senders: dict[tuple[Life, str, int], tuple[int, int]] = field(default_factory=dict)

    def asked(self, life: SimShard, target: str, due: float, way: tuple[Any, LinkClass]) -> Ask:
        """An ask begins."""
        self.next_token += 1
        ask = self.pending[self.next_token] = Ask(self.next_token, life, target, due, way)
        return ask

    def ended(self, ask: Ask, how: str) -> None:
        """An ask ended."""
        if ask.ended:
            self.fault(f"the ask {ask} ended twice: {ask.ended}, then {how}")
        ask.ended = how
        self.outcomes[how] = self.outcomes.get(how, 0) + 1
        self.pending.pop(ask.token, None)

    def overdue(self, now: float) -> list[Ask]:
        """The asks that should have ended before ``now``."""
        return [ask for ask in self.pending.values() if ask.due < now]

    def told(self, sender: Life, receiver: Life, number: int) -> None:
        """A tell arrived: numbers of one sender's life rise, and so do a sender's lives."""
        last = self.heard.get((sender, receiver), 0)
        if number <= last:
            self.fault(f"tell {number} of {sender} came to {receiver} after {last}: not in order")
        self.heard[sender, receiver] = number
        self.delivered(sender, receiver)

    def delivered(self, sender: Life, receiver: Life) -> None:
        """Something of a life of a shard arrived: not after something of a later life."""
        node, generation, shard, incarnation = sender
        key = (receiver, node, shard)
        life = (generation, incarnation)
        if life < self.senders.get(key, life):
            self.fault(
                f"{receiver} was given something of life {life} of {node}/{shard}, after"
                f" {self.senders[key]}"
            )
        self.senders[key] = life

    def fault(self, words: str) -> None:
        """Something happened that cannot be."""
        for tell in self.on_fault:
            tell(words)


@implementer(IMeshApplication)
class Workload:
    """The application of one shard's process (one object a shard)."""

    name = "probe"

    def __init__(self, cluster: Cluster, rate: float) -> None:
        self.cluster, self.rate = cluster, rate

    def make_service(self, mesh: Any) -> IService:
        """Build the service."""
        return _Prober(self.cluster, mesh, self.rate)


class _Prober(Service):
    def __init__(self, cluster: Cluster, mesh: Any, rate: float) -> None:
        self._cluster, self._mesh, self._rate = cluster, mesh, rate
        self._rng = Random(cluster.rng.getrandbits(64))
        self._ledger = cluster.ledger
        self._timer: Any = None
        node = next(node for node in cluster.nodes if node.name == mesh.name)
        self._life = node.shards[mesh.shard]
        self._me: Life = (mesh.name, node.generation, mesh.shard, self._life.incarnation)

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._mesh.verbs.register(ECHO, self._echo)
        self._mesh.verbs.register(SLOW, self._slow)
        self._mesh.verbs.register_oneway(TELL, self._told)
        self._mesh.verbs.register_oneway(CRY, self._cried)
        self._again()

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._mesh.verbs.unregister(ECHO)
        self._mesh.verbs.unregister(TELL)
        self._mesh.verbs.unregister(CRY)
        done: Deferred[None] = self._mesh.verbs.unregister(SLOW)
        return done

    def _again(self) -> None:
        if self._rate > 0:
            wait = self._rng.expovariate(self._rate)
            self._timer = self._mesh.clock.callLater(wait, self._turn)

    def _turn(self) -> None:
        rng, cluster = self._rng, self._cluster
        node = cluster.nodes[rng.randrange(len(cluster.nodes))]
        shard = rng.randrange(node.shard_count)
        kind = rng.random()
        target = self._mesh.node(node.name).shard(shard)
        where = f"{node.name}/{shard}"
        if kind < 0.4:
            for _ in range(rng.randrange(1, 4)):
                self._tell(target, where)
        else:
            link_class = LinkClass.CONTROL if kind > 0.9 else LinkClass.DATA
            verb = SLOW if kind < 0.55 else ECHO
            self._ask(target.over(link_class), where, verb, (node.node_id, link_class))
        self._again()

    def _tell(self, target: Any, where: str) -> None:
        key = (self._me, where)
        number = self._ledger.tells.get(key, 0) + 1
        if target.tell(TELL, [list(self._me), number]) is Sent.ACCEPTED:
            self._ledger.tells[key] = number

    def _ask(self, target: Any, where: str, verb: str, way: tuple[Any, LinkClass]) -> None:
        rng = self._rng
        timeout_s = ASK_S * (0.05 + rng.random())
        due = self._cluster.time.now + timeout_s
        ask = self._ledger.asked(self._life, where, due, way)
        answer = target.ask(verb, [list(self._me), ask.token], timeout_s=timeout_s)
        answer.addCallbacks(self._answered, self._failed, (ask,), None, (ask,), None)
        answer.addErrback(self._odd, ask)
        if rng.random() < 0.05:
            self._mesh.clock.callLater(timeout_s * rng.random(), answer.cancel)

    def _answered(self, reply: Any, ask: Ask) -> None:
        if reply != [list(self._me), ask.token]:
            self._ledger.fault(f"the ask {ask} was answered with {reply}")
        self._ledger.ended(ask, "ok")

    def _failed(self, failure: Failure, ask: Ask) -> None:
        failure.trap(CallError)
        error: Any = failure.value
        self._ledger.ended(ask, error.kind)

    def _odd(self, failure: Failure, ask: Ask) -> None:
        self._ledger.fault(f"the ask {ask} ended in {failure.value!r}, which is no CallError")

    # --- as the one that is asked --------------------------------------------------------

    def _echo(self, call: Any) -> Any:
        self._heard(call)
        return call.payload

    def _slow(self, call: Any) -> Any:
        self._heard(call)
        return deferLater(
            self._mesh.clock, 1.5 * self._rng.random(), lambda: call.payload
        ).addErrback(lambda failure: failure.trap(Exception) and None)

    def _told(self, call: Any) -> None:
        sender, number = call.payload
        self._ledger.told(_life(sender), self._me, number)

    def _cried(self, call: Any) -> None:
        crier = self._cluster.crier
        if crier is not None:
            crier.heard(call.payload, self._me[:3])

    def _heard(self, call: Any) -> None:
        self._ledger.delivered(_life(call.payload[0]), self._me)
        if call.deadline is not None and call.deadline < call.now:
            self._ledger.fault(f"{self._me} was given work whose deadline had passed")


def _life(row: Any) -> Life:
    node, generation, shard, incarnation = row
    return (node, generation, shard, incarnation)

"""Clients that read and write the store through every node, one call after the other.

A client is no process of the cluster: its requests reach a node as bytes would, so that a node
that stands still leaves it waiting, and one that dies never answers. It then goes to another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from meshsvc.kv import api
from meshsvc.kv.errors import KvError
from meshsvc.kv.ports import REQUEST_S
from meshsvc.sim.linearizability import UNKNOWN, Operation
from meshsvc.sim.store.ledger import StoreLedger
from meshsvc.sim.weather import LOCAL_S

if TYPE_CHECKING:
    from meshsvc.kv.service import KvService
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.lives import SimShard

KEYS = 6
"""Keys of all clients: few, so that they meet."""

PAIR = (b"pair/a", b"pair/b")
"""Two keys that are only written together."""

PATIENCE_S = 9.0
"""How long a client waits before it goes to another node: more than a request may take."""

PER_NODE = 2


@dataclass(slots=True, eq=False)
class Call:
    """One call of a client; ``due`` is when it must have ended if its node was well."""

    number: int
    what: str
    life: SimShard
    key: bytes
    floor: int
    invoked: float
    row: tuple[Any, ...] = ()
    ended: bool = False
    lost: bool = False
    on_lost: Callable[[Call], None] | None = None

    @property
    def due(self) -> float:
        """When it must have ended, if its node was well."""
        return self.invoked + REQUEST_S + 1.0

    def excused(self) -> bool:
        """Whether its node was not well, or is gone."""
        reactor = self.life.reactor
        just_back = 0 < reactor.resumed_at > reactor.time.now - PATIENCE_S
        return not reactor.alive or reactor.paused or just_back or bool(reactor.cost_s)

    def __str__(self) -> str:
        return f"{self.what} {self.number} of {self.key.decode()} over {self.life.life}"


class Clients:
    """``PER_NODE`` clients for each node, which go to any node."""

    def __init__(self, cluster: Cluster, ledger: StoreLedger, rate: float) -> None:
        self.cluster, self.ledger, self.rate = cluster, ledger, rate
        self.rng = Random(f"clients of {cluster.seed}")
        for _ in range(PER_NODE * len(cluster.nodes)):
            _Client(self)


def service_of(life: SimShard | None) -> KvService | None:
    """The store's service in shard 0 of a node, None when it has none."""
    if life is None or life.zero is None or life.zero.store is None:
        return None
    return life.zero.store.kv


class _Client:
    def __init__(self, clients: Clients) -> None:
        self._cluster, self._ledger, self._rng = clients.cluster, clients.ledger, clients.rng
        self._rate = clients.rate
        self._again()

    def _again(self) -> None:
        self._cluster.time.after(self._rng.expovariate(self._rate), self._turn)

    def _turn(self) -> None:
        node = self._rng.choice(self._cluster.nodes)
        if self._ledger.calm:
            return
        if service_of(node.zero) is None:
            self._again()
            return
        kind = self._rng.random()
        for most, what in _KINDS:
            if kind < most:
                what(self, node.zero)
                return

    # --- kinds of calls ------------------------------------------------------------------

    def _get(self, life: SimShard) -> None:
        key = self._key()
        request = api.Range(key)
        self._call(life, "get", key, ("get",), lambda kv: kv.range(request))

    def _put(self, life: SimShard) -> None:
        key, value = self._key(), self._value()
        request = api.Put(key, value)
        self._call(life, "put", key, ("put", value), lambda kv: kv.put(request))

    def _cas(self, life: SimShard) -> None:
        key, value = self._key(), self._value()
        old = self._ledger.last_seen.get(key)
        compare = api.Compare(key)  # holds when it was never written
        if old is not None:
            compare = api.Compare(key, target=api.CompareTarget.VALUE, operand=old)
        request = api.Txn((compare,), (api.Put(key, value),), (api.Range(key),))
        self._call(life, "cas", key, ("cas", old, value), lambda kv: kv.txn(request))

    def _put_pair(self, life: SimShard) -> None:
        value = self._value()
        request = api.Txn(success=tuple(api.Put(key, value) for key in PAIR))
        self._call(life, "put-pair", PAIR[0], ("put", value), lambda kv: kv.txn(request))

    def _get_pair(self, life: SimShard) -> None:
        request = api.Range(b"pair/", b"pair0")
        self._call(life, "get-pair", PAIR[0], ("get",), lambda kv: kv.range(request))

    def _key(self) -> bytes:
        return b"k%d" % self._rng.randrange(KEYS)

    def _value(self) -> bytes:
        return b"%d" % self._ledger.next_number()

    # --- one call ------------------------------------------------------------------------

    def _call(
        self,
        life: SimShard,
        what: str,
        key: bytes,
        row: tuple[Any, ...],
        ask: Callable[[KvService], Any],
    ) -> None:
        ledger, now = self._ledger, self._cluster.time.now
        call = Call(ledger.next_number(), what, life, key, ledger.newest, now, row)
        call.on_lost = self.lost
        ledger.pending[call.number] = call
        life.reactor.post(LOCAL_S, self._send, call, ask)
        self._cluster.time.after(PATIENCE_S, self._give_up, call)

    def _send(self, call: Call, ask: Callable[[KvService], Any]) -> None:
        service = service_of(call.life)
        assert service is not None
        ask(service).addCallbacks(self._answered, self._failed, (call,), None, (call,), None)

    def _give_up(self, call: Call) -> None:
        # A late answer is still an answer, and goes into the history as one.
        if not call.ended and not call.lost:
            self._again()

    def lost(self, call: Call) -> None:
        """The node is gone, and the connection with it."""
        call.lost = True
        self._cluster.time.after(LOCAL_S, self._again)

    def _end(self, call: Call, how: str) -> None:
        waited = self._cluster.time.now < call.invoked + PATIENCE_S
        call.ended = True
        self._ledger.pending.pop(call.number, None)
        self._ledger.count(f"{call.what} {how}")
        if waited:
            self._again()

    def _failed(self, failure: Failure, call: Call) -> None:
        self._end(call, type(failure.value).__name__)
        if not failure.check(KvError, CancelledError):
            self._ledger.fault(f"{call} ended in {failure.value!r}, which is no KvError")
        note_unknown(self._ledger, call)

    def _answered(self, answer: Any, call: Call) -> None:
        self._end(call, "ok")
        answered(self._ledger, call, answer, self._cluster.time.now)


_KINDS: tuple[tuple[float, Any], ...] = (
    (0.35, _Client._get),
    (0.65, _Client._put),
    (0.88, _Client._cas),
    (0.94, _Client._put_pair),
    (1.0, _Client._get_pair),
)


def note_unknown(ledger: StoreLedger, call: Call) -> None:
    """A call ended without an answer, or never will: a write may have happened."""
    if call.row[0] != "get":
        ledger.history.append(Operation(call.key, call.row, UNKNOWN, call.invoked))


def answered(ledger: StoreLedger, call: Call, answer: Any, now: float) -> None:
    """Enter the answer to a call."""
    revision = answer.header.revision
    ledger.shown(revision, call.floor, str(call))
    row, seen = call.row, True
    if row[0] != "get" and getattr(answer, "succeeded", True):
        ledger.wrote(call.key, row[-1], revision, str(call))
    else:
        found = answer.responses[0] if row[0] == "cas" else answer
        seen = _shown(ledger, call, found)
        if row[0] == "cas" and seen == row[1]:
            ledger.fault(f"{call} did not find {row[1]!r}, and there it is")
        row = ("get",)
    ledger.history.append(Operation(call.key, row, seen, call.invoked, now))


def _shown(ledger: StoreLedger, call: Call, found: Any) -> Any:
    values = {kv.value for kv in found.kvs}
    if (call.what == "get-pair" and len(found.kvs) not in (0, 2)) or len(values) > 1:
        ledger.fault(f"{call} found {found.kvs}: half of a transaction")
    for kv in found.kvs:
        ledger.holds(kv.key, kv.value, kv.mod_revision, str(call))
        if kv.mod_revision > answer_revision(found, call):
            ledger.fault(f"{call} found {kv}, which is newer than the answer")
    return found.kvs[0].value if found.kvs else None


def answer_revision(found: Any, call: Call) -> float:
    """As of when a range was answered; inside a txn that is not said apart."""
    return float(found.header.revision) or float("inf")

"""Clients that hold leases: each grants one, hangs a key on it, renews it for a while, stops.

What a lease promises is counted from when the request was made, which is the least that its
client may rely on.
"""

from __future__ import annotations

from math import inf
from random import Random
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from meshsvc.kv import api
from meshsvc.kv.errors import KvError
from meshsvc.sim.store.clients import service_of
from meshsvc.sim.store.ledger import StoreLedger
from meshsvc.sim.weather import LOCAL_S

if TYPE_CHECKING:
    from meshsvc.sim.cluster import Cluster

PREFIX = b"lease/"

TTLS = (2, 6)
"""Seconds: short, so that many end within a run."""


def key_of(lease_id: int) -> bytes:
    """The key that hangs on a lease."""
    return PREFIX + b"%x" % lease_id


def lease_of(key: bytes) -> int:
    """The lease that a key hangs on, 0 for other keys."""
    return int(key[len(PREFIX) :], 16) if key.startswith(PREFIX) else 0


class Holder:
    """One client with one lease after the other."""

    def __init__(self, cluster: Cluster, ledger: StoreLedger, number: int) -> None:
        self._cluster, self._ledger = cluster, ledger
        self._rng = Random(f"holder {number} of {cluster.seed}")
        self._renewals = 0
        self._lease = 0
        self._ttl_s = 0
        self._next(1.0)

    def _next(self, wait_s: float) -> None:
        self._cluster.time.after(wait_s * (0.5 + self._rng.random()), self._turn)

    def _turn(self) -> None:
        if self._ledger.calm:
            return
        if not self._lease:
            self._ttl_s = self._rng.randint(*TTLS)
            self._renewals = self._rng.randrange(8)
            self._ask(api.LeaseGrant(self._ttl_s), "lease_grant", self._granted)
        elif self._renewals > 0:
            self._renewals -= 1
            self._ask(api.LeaseKeepAlive(self._lease), "lease_keepalive", self._renewed)
        elif self._rng.random() < 0.2:
            self._ledger.leases[self._lease].released = True
            self._ask(api.LeaseRevoke(self._lease), "lease_revoke", lambda *_: None)
            self._lease = 0
        else:
            self._lease = 0
        self._next(self._ttl_s / 3)

    def _ask(self, request: Any, method: str, answered: Any) -> None:
        life = self._rng.choice(self._cluster.nodes).zero
        invoked, over = self._cluster.time.now, self._over()
        if life is None or service_of(life) is None:
            return

        def send() -> None:
            asked = getattr(service_of(life), method)(request)
            asked.addCallback(answered, invoked, over)
            asked.addErrback(self._failed)

        life.reactor.post(LOCAL_S, send)

    def _over(self) -> bool:
        held = self._ledger.leases.get(self._lease)
        return held is not None and held.ended_at < inf

    def _failed(self, failure: Failure) -> None:
        self._ledger.count(f"lease {type(failure.value).__name__}")
        if not failure.check(KvError, CancelledError):
            self._ledger.fault(f"a lease request ended in {failure.value!r}, which is no KvError")

    def _granted(self, answer: api.LeaseGrantResult, invoked: float, _: bool) -> None:
        self._ledger.count("lease granted")
        self._lease = answer.lease_id
        self._ledger.promised(answer.lease_id, invoked + answer.ttl_s)
        request = api.Put(key_of(answer.lease_id), b"held", lease=answer.lease_id)
        self._ask(request, "put", lambda *_: None)

    def _renewed(self, answer: api.LeaseKeepAliveResult, invoked: float, over: bool) -> None:
        self._ledger.count("lease renewed" if answer.ttl_s else "lease gone")
        if answer.ttl_s and over:
            self._ledger.fault(f"lease {answer.lease_id:x} was renewed after its key was gone")
        if answer.ttl_s:
            self._ledger.promised(answer.lease_id, invoked + answer.ttl_s)
        elif answer.lease_id == self._lease:
            self._lease = 0

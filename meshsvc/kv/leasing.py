"""Leases as the service has them: grants go through the log, renewals to the leader's clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from meshsvc.kv import api, errors
from meshsvc.kv.keeper import LeaseKeeper
from meshsvc.kv.ports import Ports

if TYPE_CHECKING:
    from random import Random

    from twisted.internet.defer import Deferred

RENEW, LEFT = "renew", "left"
"""What a replica may ask the leader, with [lease id, whether keys are wanted] behind it."""

_NO_LEASE: dict[str, list[Any]] = {RENEW: [0], LEFT: [-1, 0, []]}


class Leasing(Ports):
    """Lease requests of ``backend.KvBackend``."""

    keeper: LeaseKeeper
    rng: Random

    def lease_grant(self, request: api.LeaseGrant) -> Deferred[api.LeaseGrantResult]:
        """Create a lease; id 0 becomes one that nobody has."""
        lease_id = request.lease_id
        while not lease_id or (not request.lease_id and lease_id in self.machine.leases):
            lease_id = self.rng.getrandbits(63)
        return self.propose(api.LeaseGrant(request.ttl_s, lease_id))

    def lease_revoke(self, request: api.LeaseRevoke) -> Deferred[api.LeaseRevokeResult]:
        """End a lease."""
        return self.propose(request)

    def lease_keepalive(self, request: api.LeaseKeepAlive) -> Deferred[api.LeaseKeepAliveResult]:
        """Renew a lease; the leader does."""
        # As of before: a client must not think that it held the lease at a later revision.
        header = self.machine.header()
        return self.ask_leader([RENEW, request.lease_id, False]).addCallback(
            lambda answer: api.LeaseKeepAliveResult(request.lease_id, answer[0], header)
        )

    def lease_time_to_live(
        self, request: api.LeaseTimeToLive
    ) -> Deferred[api.LeaseTimeToLiveResult]:
        """How long a lease has; the leader knows."""
        return self.ask_leader([LEFT, request.lease_id, request.keys]).addCallback(
            lambda answer: api.LeaseTimeToLiveResult(
                request.lease_id, answer[0], answer[1], tuple(answer[2]), self.machine.header()
            )
        )

    def leases(self) -> Deferred[api.LeasesResult]:
        """All leases."""
        return self.current().addCallback(
            lambda _: api.LeasesResult(
                tuple(sorted(lease.lease_id for lease in self.machine.leases)),
                self.machine.header(),
            )
        )

    def answer(self, payload: list[Any]) -> Deferred[list[Any]]:
        """What this replica, as the leader, says to ``ask_leader``.

        Fails with NotLeader when it is not, or not known to be.
        """
        what, lease_id, keys = payload
        answers: dict[str, Callable[[], list[Any]]] = {
            RENEW: lambda: self._renew(lease_id),
            LEFT: lambda: self._left(lease_id, keys),
        }

        def now(_: None) -> list[Any]:
            try:
                return answers[what]()
            except errors.LeaseNotFound:
                return _NO_LEASE[what]

        def call() -> Deferred[list[Any]]:
            if not self.keeper.leading:
                raise errors.NotLeader
            # A leader that was replaced, and does not know yet, must not promise more time.
            return self.current().addCallback(now)

        return self.guarded(call)

    def _renew(self, lease_id: int) -> list[Any]:
        ttl_s, command = self.keeper.renew(lease_id)
        if command is not None:
            self.propose(command).addErrback(lambda _: None)  # the next renewal says it again
        return [ttl_s]

    def _left(self, lease_id: int, keys: bool) -> list[Any]:
        found = self.keeper.time_to_live(lease_id, keys)
        return [found.ttl_s, found.granted_ttl_s, list(found.keys)]

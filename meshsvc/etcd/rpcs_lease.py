"""Lease: grant, revoke, keep alive, time to live, list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshsvc.etcd.proto import lease_pb2 as pb
from meshsvc.etcd.rpc import Outlet, Procedure, Streaming, Unary
from meshsvc.etcd.rpcs_kv import fill_header
from meshsvc.etcd.status import Code, RpcFailed
from meshsvc.kv import api
from meshsvc.kv.backend import KvBackend

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

MAX_RENEWALS = 1024
"""Renewals of one stream that wait for their answers: clients wait for each, a thousand leases
of one client may be due at once."""


class KeepAliveCall:
    """One LeaseKeepAlive call: renewals in, their answers out, each as soon as it is there."""

    def __init__(self, store: KvBackend, outlet: Outlet) -> None:
        self._store = store
        self._outlet = outlet
        self._waiting: set[Deferred[Any]] = set()
        self._ending = False
        self._closed = False

    def message(self, request: pb.LeaseKeepAliveRequest) -> None:
        """Renew one lease."""
        if len(self._waiting) >= MAX_RENEWALS:
            raise RpcFailed(Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests")
        answer = self._store.lease_keepalive(api.LeaseKeepAlive(request.ID))
        self._waiting.add(answer)
        answer.addCallbacks(self._renewed, self._failed)
        answer.addBoth(self._answered, answer)

    def half_closed(self) -> None:
        """The stream ends well once every renewal is answered."""
        self._ending = True
        self._end_if_done()

    def resume(self) -> None:
        """Nothing is held back: answers are as many as requests."""

    def close(self) -> None:
        """The client is gone."""
        self._closed = True
        for answer in list(self._waiting):
            answer.cancel()

    def _renewed(self, result: api.LeaseKeepAliveResult) -> None:
        if not self._closed:
            self._outlet.send(keepalive_result(result))

    def _failed(self, failure: Failure) -> None:
        if not self._closed:
            self._closed = True
            self._outlet.fail(failure.value)

    def _answered(self, _result: None, answer: Deferred[Any]) -> None:
        self._waiting.discard(answer)
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._ending and not self._waiting and not self._closed:
            self._closed = True
            self._outlet.finish()


def grant_result(result: api.LeaseGrantResult) -> bytes:
    """A granted lease, encoded."""
    m = pb.LeaseGrantResponse(ID=result.lease_id, TTL=result.ttl_s)
    fill_header(m.header, result.header)
    return m.SerializeToString()


def revoke_result(result: api.LeaseRevokeResult) -> bytes:
    """An ended lease, encoded."""
    m = pb.LeaseRevokeResponse()
    fill_header(m.header, result.header)
    return m.SerializeToString()


def keepalive_result(result: api.LeaseKeepAliveResult) -> bytes:
    """A renewed lease, encoded."""
    m = pb.LeaseKeepAliveResponse(ID=result.lease_id, TTL=result.ttl_s)
    fill_header(m.header, result.header)
    return m.SerializeToString()


def time_to_live_result(result: api.LeaseTimeToLiveResult) -> bytes:
    """What a lease has left, encoded."""
    m = pb.LeaseTimeToLiveResponse(
        ID=result.lease_id, TTL=result.ttl_s, grantedTTL=result.granted_ttl_s, keys=result.keys
    )
    fill_header(m.header, result.header)
    return m.SerializeToString()


def leases_result(result: api.LeasesResult) -> bytes:
    """All leases, encoded."""
    m = pb.LeaseLeasesResponse(leases=[pb.LeaseStatus(ID=i) for i in result.lease_ids])
    fill_header(m.header, result.header)
    return m.SerializeToString()


def _grant(store: KvBackend, m: pb.LeaseGrantRequest) -> Deferred[api.LeaseGrantResult]:
    return store.lease_grant(api.LeaseGrant(m.TTL, m.ID))


def _revoke(store: KvBackend, m: pb.LeaseRevokeRequest) -> Deferred[api.LeaseRevokeResult]:
    return store.lease_revoke(api.LeaseRevoke(m.ID))


def _time_to_live(
    store: KvBackend, m: pb.LeaseTimeToLiveRequest
) -> Deferred[api.LeaseTimeToLiveResult]:
    return store.lease_time_to_live(api.LeaseTimeToLive(m.ID, m.keys))


def _leases(store: KvBackend, _m: pb.LeaseLeasesRequest) -> Deferred[api.LeasesResult]:
    return store.leases()


LEASE: dict[str, Procedure] = {
    "LeaseGrant": Unary(pb.LeaseGrantRequest, pb.LeaseGrantResponse, _grant, grant_result),
    "LeaseRevoke": Unary(pb.LeaseRevokeRequest, pb.LeaseRevokeResponse, _revoke, revoke_result),
    "LeaseKeepAlive": Streaming(pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse, KeepAliveCall),
    "LeaseTimeToLive": Unary(
        pb.LeaseTimeToLiveRequest, pb.LeaseTimeToLiveResponse, _time_to_live, time_to_live_result
    ),
    "LeaseLeases": Unary(pb.LeaseLeasesRequest, pb.LeaseLeasesResponse, _leases, leases_result),
}

"""Random requests of every kind, as etcd's own protobuf classes (those of ``aetcd``).

Few keys and values, so that requests meet each other; a dozen keys at most, because etcd
sorts equal elements in an order of its own from thirteen on.
"""

from __future__ import annotations

from random import Random
from typing import Any

from aetcd.rpc import rpc_pb2 as pb

KEYS = [b"a", b"a/1", b"a/2", b"a/\xff", b"b", b"b/1", b"c\x00", b"c\xff", b"d", b"e", b"\xff"]
ENDS = [b"", b"\x00", b"a", b"a0", b"b", b"c", b"c\xff", b"z", b"\xff\xff"]
VALUES = [b"", b"1", b"2", b"three", bytes(range(256))]
LEASES = [101, 102, 103]
SERVICE = {"KV": "etcdserverpb.KV", "Lease": "etcdserverpb.Lease"}


class Requests:
    """A stream of (path, request, response class) from one seed.

    ``revision`` is to be kept at what the servers last said: revisions are chosen around it.
    """

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.revision = 1
        self.compacted = 0

    def next(self) -> tuple[str, Any, Any]:
        """Another request."""
        kinds = [self._put, self._range, self._delete, self._txn, self._compact]
        kinds += [self._grant, self._revoke, self._time_to_live, self._leases]
        weights = [30, 30, 8, 20, 1, 4, 2, 2, 1]
        return self.rng.choices(kinds, weights)[0]()

    def watch(self) -> pb.WatchCreateRequest:
        """A watch from a past, present or compacted revision."""
        start = self.rng.choice([0, 1, self._revision(), self._revision()])
        start = min(start, self.revision)  # one that begins later hears nothing now
        filters = self.rng.choice([[], [], [], [0], [1]])
        return pb.WatchCreateRequest(
            start_revision=max(0, start),
            prev_kv=self._rarely(),
            filters=filters,
            fragment=self._rarely(),
            **self._span(),
        )

    def _rarely(self) -> bool:
        return self.rng.random() < 0.2

    def _key(self) -> bytes:
        return b"" if self.rng.random() < 0.01 else self.rng.choice(KEYS)

    def _span(self) -> dict[str, bytes]:
        end = self.rng.choice(ENDS) if self.rng.random() < 0.5 else b""
        return {"key": self._key(), "range_end": end}

    def _revision(self) -> int:
        return self.rng.choice(
            [self.revision - self.rng.randrange(12), self.revision, self.revision + 5, -1]
        )

    def _lease(self) -> int:
        return self.rng.choice(LEASES)

    def put_request(self) -> pb.PutRequest:
        """A put; now and then one that contradicts itself."""
        request = pb.PutRequest(
            key=self._key(), value=self.rng.choice(VALUES), prev_kv=self._rarely()
        )
        if self._rarely():
            request.lease = self._lease()
        if self.rng.random() < 0.05:
            request.ignore_value = True
            if self.rng.random() < 0.7:
                request.value = b""
        if self.rng.random() < 0.05:
            request.ignore_lease = True
            if self.rng.random() < 0.7:
                request.lease = 0
        return request

    def range_request(self, inside: bool = False) -> pb.RangeRequest:
        """A range with any of its options; the same for both servers, so linearizable or not."""
        request = pb.RangeRequest(**self._span())
        rng = self.rng
        if self._rarely():
            request.limit = rng.randrange(-1, 4)
        if self._rarely() and (not inside or self._rarely()):
            request.revision = self._revision()
        if rng.random() < 0.4:
            request.sort_order = rng.randrange(3)
            request.sort_target = rng.randrange(5)
        request.serializable = self._rarely()
        request.keys_only = self._rarely()
        request.count_only = self._rarely()
        for bound in ("min_mod", "max_mod", "min_create", "max_create"):
            if rng.random() < 0.05:
                setattr(request, f"{bound}_revision", self._revision())
        return request

    def delete_request(self) -> pb.DeleteRangeRequest:
        """A delete of a key or a range."""
        span = self._span()
        if span["range_end"] in {b"\x00", b"z", b"\xff\xff"} and not self._rarely():
            span["range_end"] = b""
        return pb.DeleteRangeRequest(prev_kv=self._rarely(), **span)

    def txn_request(self, depth: int = 0) -> pb.TxnRequest:
        """A transaction, nested up to three deep; often with a key that is written twice."""
        rng = self.rng
        return pb.TxnRequest(
            compare=[self._compare() for _ in range(rng.choice([0, 1, 1, 2]))],
            success=[self._op(depth) for _ in range(rng.randrange(4))],
            failure=[self._op(depth) for _ in range(rng.randrange(3))],
        )

    def _op(self, depth: int) -> pb.RequestOp:
        kind = self.rng.random()
        if kind < 0.4:
            return pb.RequestOp(request_put=self.put_request())
        if kind < 0.65:
            return pb.RequestOp(request_range=self.range_request(inside=True))
        if kind < 0.8:
            request = self.delete_request()
            if request.range_end and request.range_end <= request.key:
                request.range_end = b""  # etcd's interval tree gives such no one meaning
            return pb.RequestOp(request_delete_range=request)
        if kind < 0.99 and depth < 3:
            return pb.RequestOp(request_txn=self.txn_request(depth + 1))
        return pb.RequestOp(request_put=self.put_request())

    def _compare(self) -> pb.Compare:
        rng = self.rng
        target = rng.randrange(5)
        compare = pb.Compare(key=self._key(), result=rng.randrange(4), target=target)
        if self._rarely():
            compare.range_end = rng.choice(ENDS)
        if self._rarely():
            target = rng.randrange(5)
        name = ("version", "create_revision", "mod_revision", "value", "lease")[target]
        number = rng.choice([0, 1, 2, self.revision, self._revision(), self._lease()])
        setattr(compare, name, rng.choice(VALUES) if target == 3 else number)
        return compare

    def _put(self):
        return "/etcdserverpb.KV/Put", self.put_request(), pb.PutResponse

    def _range(self):
        return "/etcdserverpb.KV/Range", self.range_request(), pb.RangeResponse

    def _delete(self):
        return "/etcdserverpb.KV/DeleteRange", self.delete_request(), pb.DeleteRangeResponse

    def _txn(self):
        return "/etcdserverpb.KV/Txn", self.txn_request(), pb.TxnResponse

    def _compact(self):
        at = self.rng.choice([self.revision - 8, self._revision()])
        request = pb.CompactionRequest(revision=at, physical=self._rarely())
        return "/etcdserverpb.KV/Compact", request, pb.CompactionResponse

    def _grant(self):
        request = pb.LeaseGrantRequest(
            TTL=self.rng.choice([3000, 9000, 9_000_000_001]), ID=self._lease()
        )
        return "/etcdserverpb.Lease/LeaseGrant", request, pb.LeaseGrantResponse

    def _revoke(self):
        request = pb.LeaseRevokeRequest(ID=self._lease())
        return "/etcdserverpb.Lease/LeaseRevoke", request, pb.LeaseRevokeResponse

    def _time_to_live(self):
        request = pb.LeaseTimeToLiveRequest(ID=self._lease(), keys=True)
        return "/etcdserverpb.Lease/LeaseTimeToLive", request, pb.LeaseTimeToLiveResponse

    def _leases(self):
        request = pb.LeaseLeasesRequest()
        return "/etcdserverpb.Lease/LeaseLeases", request, pb.LeaseLeasesResponse

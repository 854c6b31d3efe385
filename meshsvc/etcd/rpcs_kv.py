"""KV: ranges, puts, deletes, transactions, compaction as protobuf and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from meshsvc.etcd.proto import kv_pb2 as pb
from meshsvc.etcd.rpc import Procedure, Unary
from meshsvc.etcd.status import Code, RpcFailed
from meshsvc.kv import api, errors
from meshsvc.kv.backend import KvBackend

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

OPERANDS: dict[int, str] = {
    api.CompareTarget.VERSION: "version",
    api.CompareTarget.CREATE: "create_revision",
    api.CompareTarget.MOD: "mod_revision",
    api.CompareTarget.VALUE: "value",
    api.CompareTarget.LEASE: "lease",
}
PIECE_KEYS = 1000
"""Keys encoded between two turns of the reactor: about 2 ms, as JSON 5 ms."""

RESULTS: frozenset[int] = frozenset(api.CompareResult)
MAX_TOTAL_OPS = 8192
"""Compares and operations of a whole transaction: 25 ms of work. A txn of 64 txns of 64 puts
has half as many."""


def fill_header(into: pb.ResponseHeader, header: api.Header) -> None:
    """Write a header's fields; a zero is the same as none."""
    into.cluster_id = header.cluster_id
    into.member_id = header.member_id
    into.revision = header.revision
    into.raft_term = header.raft_term


def key_value(kv: api.KeyValue) -> pb.KeyValue:
    """One key as protobuf."""
    key, create_revision, mod_revision, version, value, lease = kv
    return pb.KeyValue(
        key=key,
        create_revision=create_revision,
        mod_revision=mod_revision,
        version=version,
        value=value,
        lease=lease,
    )


# requests


def range_request(m: pb.RangeRequest) -> api.Range:
    """A range in the store's words."""
    return api.Range(
        m.key,
        m.range_end,
        m.limit,
        m.revision,
        m.sort_order,
        m.sort_target,
        m.serializable,
        m.keys_only,
        m.count_only,
        m.min_mod_revision,
        m.max_mod_revision,
        m.min_create_revision,
        m.max_create_revision,
    )


def put_request(m: pb.PutRequest) -> api.Put:
    """A put in the store's words."""
    return api.Put(m.key, m.value, m.lease, m.prev_kv, m.ignore_value, m.ignore_lease)


def delete_request(m: pb.DeleteRangeRequest) -> api.DeleteRange:
    """A delete in the store's words."""
    return api.DeleteRange(m.key, m.range_end, m.prev_kv)


def txn_request(m: pb.TxnRequest) -> api.Txn:
    """A transaction in the store's words.

    Raises:
        KvError: too many operations, or one that is none.
        RpcFailed: a compare that is none.
    """
    return _TxnReader().read(m, api.MAX_TXN_OPS)


class _TxnReader:
    """Translates one transaction, and stops at the bounds before the work is done.

    The store's own rule comes first: operations beside each other and of the txns around them
    are at most ``MAX_TXN_OPS``. That still allows half a million in 2 MiB, hence the total.
    """

    def __init__(self) -> None:
        self._total = 0

    def read(self, m: pb.TxnRequest, most: int) -> api.Txn:
        """``most``: operations that are allowed beside each other."""
        count = max(len(m.compare), len(m.success), len(m.failure))
        self._total += len(m.compare) + len(m.success) + len(m.failure)
        if count > most or self._total > MAX_TOTAL_OPS:
            raise errors.TooManyOps
        left = most - count
        return api.Txn(
            tuple(map(_compare, m.compare)), self._ops(m.success, left), self._ops(m.failure, left)
        )

    def _ops(self, ops: Iterable[pb.RequestOp], left: int) -> tuple[api.Op, ...]:
        return tuple([self._op(op, left) for op in ops])

    def _op(self, op: pb.RequestOp, left: int) -> api.Op:
        kind = op.WhichOneof("request")
        if kind == "request_range":
            return range_request(op.request_range)
        if kind == "request_put":
            return put_request(op.request_put)
        if kind == "request_delete_range":
            return delete_request(op.request_delete_range)
        if kind == "request_txn":
            return self.read(op.request_txn, left)
        raise errors.KeyNotFound  # what etcd says of an operation that is none


def _compare(m: pb.Compare) -> api.Compare:
    if m.target not in OPERANDS or m.result not in RESULTS:
        raise RpcFailed(Code.INVALID_ARGUMENT, "etcdserver: unknown compare target or result")
    # An operand of another target counts as none: protobuf then gives the target's zero.
    operand = getattr(m, OPERANDS[m.target])
    return api.Compare(m.key, m.result, m.target, operand, m.range_end)


# results


def fill_range(m: pb.RangeResponse, result: api.RangeResult) -> None:
    """Write a range's answer but for its header."""
    m.count = result.count
    m.more = result.more
    m.kvs.extend(map(key_value, result.kvs))


def range_result(result: api.RangeResult) -> bytes:
    """The answer to a range, encoded."""
    m = pb.RangeResponse()
    fill_header(m.header, result.header)
    fill_range(m, result)
    return m.SerializeToString()


def range_pieces(result: api.RangeResult) -> Iterator[bytes] | None:
    """The answer to a large range in pieces of ``PIECE_KEYS`` keys; None for a small one."""
    return _pieces(result) if len(result.kvs) > PIECE_KEYS else None


def _pieces(result: api.RangeResult) -> Iterator[bytes]:
    first = pb.RangeResponse(count=result.count, more=result.more)
    fill_header(first.header, result.header)
    yield first.SerializeToString()
    for at in range(0, len(result.kvs), PIECE_KEYS):
        kvs = map(key_value, result.kvs[at : at + PIECE_KEYS])
        yield pb.RangeResponse(kvs=kvs).SerializeToString()


def fill_put(m: pb.PutResponse, result: api.PutResult) -> None:
    """Write a put's answer but for its header."""
    if result.prev_kv is not None:
        m.prev_kv.CopyFrom(key_value(result.prev_kv))


def put_result(result: api.PutResult) -> bytes:
    """The answer to a put, encoded."""
    m = pb.PutResponse()
    fill_header(m.header, result.header)
    fill_put(m, result)
    return m.SerializeToString()


def fill_delete(m: pb.DeleteRangeResponse, result: api.DeleteRangeResult) -> None:
    """Write a delete's answer but for its header."""
    m.deleted = result.deleted
    m.prev_kvs.extend(map(key_value, result.prev_kvs))


def delete_result(result: api.DeleteRangeResult) -> bytes:
    """The answer to a delete, encoded."""
    m = pb.DeleteRangeResponse()
    fill_header(m.header, result.header)
    fill_delete(m, result)
    return m.SerializeToString()


def fill_txn(m: pb.TxnResponse, result: api.TxnResult) -> None:
    """Write a transaction's answer but for its header; inner headers have only a revision."""
    m.succeeded = result.succeeded
    for inner in result.responses:
        _response(m.responses.add(), inner)


def _response(op: pb.ResponseOp, result: api.OpResult) -> None:
    into: Any
    if isinstance(result, api.RangeResult):
        into = op.response_range
        fill_range(into, result)
    elif isinstance(result, api.PutResult):
        into = op.response_put
        fill_put(into, result)
    elif isinstance(result, api.DeleteRangeResult):
        into = op.response_delete_range
        fill_delete(into, result)
    else:
        into = op.response_txn
        fill_txn(into, result)
    into.header.SetInParent()
    fill_header(into.header, result.header)


def txn_result(result: api.TxnResult) -> bytes:
    """The answer to a transaction, encoded."""
    m = pb.TxnResponse()
    fill_header(m.header, result.header)
    fill_txn(m, result)
    return m.SerializeToString()


def compact_result(result: api.CompactResult) -> bytes:
    """The answer to a compaction, encoded."""
    m = pb.CompactionResponse()
    fill_header(m.header, result.header)
    return m.SerializeToString()


# calls


def _range(store: KvBackend, m: pb.RangeRequest) -> Deferred[api.RangeResult]:
    return store.range(range_request(m))


def _put(store: KvBackend, m: pb.PutRequest) -> Deferred[api.PutResult]:
    return store.put(put_request(m))


def _delete(store: KvBackend, m: pb.DeleteRangeRequest) -> Deferred[api.DeleteRangeResult]:
    return store.delete_range(delete_request(m))


def _txn(store: KvBackend, m: pb.TxnRequest) -> Deferred[api.TxnResult]:
    return store.txn(txn_request(m))


def _compact(store: KvBackend, m: pb.CompactionRequest) -> Deferred[api.CompactResult]:
    return store.compact(api.Compact(m.revision, m.physical))


KV: dict[str, Procedure] = {
    "Range": Unary(pb.RangeRequest, pb.RangeResponse, _range, range_result, range_pieces),
    "Put": Unary(pb.PutRequest, pb.PutResponse, _put, put_result),
    "DeleteRange": Unary(pb.DeleteRangeRequest, pb.DeleteRangeResponse, _delete, delete_result),
    "Txn": Unary(pb.TxnRequest, pb.TxnResponse, _txn, txn_result),
    "Compact": Unary(pb.CompactionRequest, pb.CompactionResponse, _compact, compact_result),
}

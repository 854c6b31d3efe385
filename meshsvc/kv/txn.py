"""What one committed write does to the keys: put, delete, and txns of them.

A txn is decided before it is carried out: all compares, those of nested txns too, look at
the store as it was, then every operation of the branches taken is checked, then all are done.
So a txn that fails has changed nothing, and none is ever undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import eq, gt, lt, ne
from typing import Any, Protocol

from meshsvc.kv import ranges
from meshsvc.kv.api import (
    NO_HEADER,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    DeleteRangeResult,
    Header,
    KeyValue,
    Op,
    OpResult,
    Put,
    PutResult,
    Range,
    Txn,
    TxnResult,
)
from meshsvc.kv.errors import Compacted, KeyNotFound, LeaseNotFound
from meshsvc.kv.index import LEASE, VALUE, Version, bounds
from meshsvc.kv.mvcc import Mvcc

_HOLDS: dict[int, Callable[[Any, Any], bool]] = {
    CompareResult.EQUAL: eq,
    CompareResult.GREATER: gt,
    CompareResult.LESS: lt,
    CompareResult.NOT_EQUAL: ne,
}

_FIELDS: dict[int, int] = {
    CompareTarget.VERSION: 3,
    CompareTarget.CREATE: 1,
    CompareTarget.MOD: 2,
    CompareTarget.VALUE: 4,
    CompareTarget.LEASE: 5,
}

_ABSENT: Version = (b"", 0, 0, 0, b"", 0)


class LeaseIds(Protocol):
    """Which leases there are."""

    def __contains__(self, lease_id: object) -> bool:
        """Whether there is a lease with this id."""


@dataclass(frozen=True, slots=True)
class Branch:
    """The operations that a txn does, and for each txn among them, in order, what that does."""

    succeeded: bool
    ops: tuple[Op, ...]
    inner: tuple[Branch, ...]


def put(mvcc: Mvcc, leases: LeaseIds, request: Put) -> PutResult:
    """Do one put.

    Raises:
        LeaseNotFound, KeyNotFound: and nothing was changed.
    """
    check_put(mvcc, leases, request)
    return _put(mvcc, request)


def check_put(mvcc: Mvcc, leases: LeaseIds, request: Put) -> None:
    """Raise what ``put`` would."""
    _check_lease(leases, request)
    _check_key(mvcc, request)


def _check_lease(leases: LeaseIds, request: Put) -> None:
    if request.lease and request.lease not in leases:
        raise LeaseNotFound


def _check_key(mvcc: Mvcc, request: Put) -> None:
    if (request.ignore_value or request.ignore_lease) and mvcc.index.latest(request.key) is None:
        raise KeyNotFound


def _put(mvcc: Mvcc, request: Put) -> PutResult:
    value, lease = request.value, request.lease
    if not (request.prev_kv or request.ignore_value or request.ignore_lease):
        mvcc.put(request.key, value, lease)
        return PutResult(None, NO_HEADER)
    old = mvcc.index.latest(request.key)
    if old is not None:
        value = old[VALUE] if request.ignore_value else value
        lease = old[LEASE] if request.ignore_lease else lease
    mvcc.put(request.key, value, lease)
    return PutResult(KeyValue._make(old) if request.prev_kv and old is not None else None)


def delete(mvcc: Mvcc, request: DeleteRange) -> DeleteRangeResult:
    """Delete keys."""
    gone = mvcc.delete(bounds(request.key, request.range_end))
    kvs = tuple(map(KeyValue._make, gone)) if request.prev_kv else ()
    return DeleteRangeResult(len(gone), kvs)


def decide(mvcc: Mvcc, leases: LeaseIds, txn: Txn) -> Branch:
    """Which branches are taken, and whether all in them can be done.

    Raises:
        LeaseNotFound, KeyNotFound, FutureRevision, Compacted: the txn fails as a whole.
    """
    branch = _take(mvcc, txn)
    ops = list(_flat(branch))
    for op in ops:
        if isinstance(op, Put):  # etcd looks for the key first here, for the lease in a plain put
            _check_key(mvcc, op)
            _check_lease(leases, op)
    for op in ops:
        if isinstance(op, Range):
            # As in etcd: in a txn only 0 is now, and any other revision is what it says.
            if op.revision < 0 and op.revision < mvcc.compact_revision:
                raise Compacted
            mvcc.readable(op.revision)
    return branch


def carry_out(mvcc: Mvcc, branch: Branch) -> TxnResult:
    """Do what was decided; the header is left to whoever ends the revision."""
    inner = iter(branch.inner)
    return TxnResult(branch.succeeded, tuple([_do(mvcc, op, inner) for op in branch.ops]))


def puts_anything(txn: Txn) -> bool:
    """Whether some branch of a txn takes space: what a full store refuses."""
    return any(
        puts_anything(op) if isinstance(op, Txn) else isinstance(op, Put)
        for op in (*txn.success, *txn.failure)
    )


def _take(mvcc: Mvcc, txn: Txn) -> Branch:
    succeeded = all(_holds(mvcc, compare) for compare in txn.compare)
    ops = txn.success if succeeded else txn.failure
    return Branch(succeeded, ops, tuple([_take(mvcc, op) for op in ops if isinstance(op, Txn)]))


def _flat(branch: Branch) -> Iterator[Op]:
    inner = iter(branch.inner)
    for op in branch.ops:
        if isinstance(op, Txn):
            yield from _flat(next(inner))
        else:
            yield op


def _holds(mvcc: Mvcc, compare: Compare) -> bool:
    latest = mvcc.index.latest
    column, holds = _FIELDS[compare.target], _HOLDS[compare.result]
    keys = (
        mvcc.index.keys(bounds(compare.key, compare.range_end))
        if compare.range_end
        else (compare.key,)
    )
    found = False
    for key in keys:
        version = latest(key)
        if version is not None:
            found = True
            if not holds(version[column], compare.operand):
                return False
    if found:
        return True
    return compare.target != CompareTarget.VALUE and holds(_ABSENT[column], compare.operand)


def _do(mvcc: Mvcc, op: Op, inner: Iterator[Branch]) -> OpResult:
    # The answer to a part of a txn tells at which revision it was made, and nothing else.
    if isinstance(op, Txn):
        return carry_out(mvcc, next(inner))
    if isinstance(op, Range):
        return ranges.run(mvcc, op, Header(revision=mvcc.current))
    if isinstance(op, Put):
        done = _put(mvcc, op)
        return PutResult(done.prev_kv, Header(revision=mvcc.current))
    gone = delete(mvcc, op)
    return DeleteRangeResult(gone.deleted, gone.prev_kvs, Header(revision=mvcc.current))

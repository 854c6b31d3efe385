"""What is refused before it reaches the log: requests that can never be right.

The rules, their order and their answers are those of etcd's gRPC front, one of which is
not obvious: within one txn no key may be written twice, nor written and deleted, on any way
through nested txns that can be taken. The two branches of a nested txn may write the same key,
as only one of them is taken.
"""

from __future__ import annotations

from meshsvc.kv.api import (
    MAX_TXN_OPS,
    Compare,
    CompareTarget,
    DeleteRange,
    Op,
    Put,
    Range,
    Txn,
)
from meshsvc.kv.errors import (
    DuplicateKey,
    EmptyKey,
    LeaseProvided,
    NotBytes,
    TooManyOps,
    ValueProvided,
)
from meshsvc.kv.ranges import check_sort

_Deleted = list[tuple[bytes, bytes]]
"""Intervals as requests have them: key and range_end."""


def check(request: Op) -> None:
    """Check any request of the KV service.

    Raises:
        InvalidArgument: one of its kinds.
    """
    _check_op(request, MAX_TXN_OPS)
    if isinstance(request, Txn):
        _written(request.success)
        _written(request.failure)


def is_read_only(txn: Txn) -> bool:
    """Whether no branch of a txn writes."""
    return all(
        is_read_only(op) if isinstance(op, Txn) else isinstance(op, Range)
        for branch in (txn.success, txn.failure)
        for op in branch
    )


def is_serializable(txn: Txn) -> bool:
    """Whether a read-only txn may be answered from this node's state, as it is.

    A txn is that when all its ranges are. One that only compares is not: what it is asked
    for is whether something holds now.
    """
    ops = [*txn.success, *txn.failure]
    return bool(ops) and all(
        is_serializable(op) if isinstance(op, Txn) else isinstance(op, Range) and op.serializable
        for op in ops
    )


def _check_op(op: Op, max_ops: int) -> None:
    if isinstance(op, Txn):
        _check_txn(op, max_ops)
        return
    if not op.key:
        raise EmptyKey
    other = op.value if isinstance(op, Put) else op.range_end
    if type(op.key) is not bytes or type(other) is not bytes:
        raise NotBytes
    if isinstance(op, Put):
        if op.ignore_value and op.value:
            raise ValueProvided
        if op.ignore_lease and op.lease:
            raise LeaseProvided
    elif isinstance(op, Range):
        check_sort(op)


def _check_txn(txn: Txn, max_ops: int) -> None:
    count = max(len(txn.compare), len(txn.success), len(txn.failure))
    if count > max_ops:
        raise TooManyOps
    if not all(compare.key for compare in txn.compare):
        raise EmptyKey
    if not all(map(_is_well_typed, txn.compare)):
        raise NotBytes
    for op in (*txn.success, *txn.failure):
        _check_op(op, max_ops - count)


def _is_well_typed(compare: Compare) -> bool:
    operand = bytes if compare.target == CompareTarget.VALUE else int
    texts = type(compare.key) is bytes and type(compare.range_end) is bytes
    return texts and isinstance(compare.operand, operand)


def _written(ops: tuple[Op, ...]) -> tuple[set[bytes], _Deleted]:
    """The keys and intervals that a branch writes and deletes.

    Raises:
        DuplicateKey: when they overlap.
    """
    deleted: _Deleted = [(op.key, op.range_end) for op in ops if isinstance(op, DeleteRange)]
    puts: set[bytes] = set()
    for op in ops:
        if isinstance(op, Txn):
            puts_then, deleted_then = _written(op.success)
            puts_else, deleted_else = _written(op.failure)
            if puts & puts_then or puts & (puts_else - puts_then):
                raise DuplicateKey
            written = puts_then | puts_else
            if any(_covers(deleted, key) for key in sorted(written)):
                raise DuplicateKey
            puts |= written
            deleted += deleted_then + deleted_else
    for op in ops:
        if isinstance(op, Put):
            if op.key in puts or _covers(deleted, op.key):
                raise DuplicateKey
            puts.add(op.key)
    return puts, deleted


def _covers(deleted: _Deleted, key: bytes) -> bool:
    """Whether an interval holds a key. An end of one zero byte is taken literally, as etcd
    does here: a txn may delete everything from a key on and write behind it.
    """
    return any(first <= key < end if end else key == first for first, end in deleted)

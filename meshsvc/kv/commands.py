"""Requests as bytes in the log: positional CBOR, one array a command.

A txn within a txn is a byte string that holds it, so that nesting as deep as etcd allows does
not become depth of CBOR. ``EndLeases`` and ``Checkpoint`` carry the term of the leader that
made them: one that reaches the log under another leader says nothing, because that leader
counts the time of leases anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from meshsvc.errors import WireError
from meshsvc.kv.api import (
    Compact,
    Compare,
    DeleteRange,
    LeaseGrant,
    LeaseRevoke,
    Op,
    Put,
    Range,
    Txn,
)
from meshsvc.kv.upkeep import AlarmRequest
from meshsvc.wire.codec import decode as decode_cbor
from meshsvc.wire.codec import encode as encode_cbor


@dataclass(frozen=True, slots=True)
class EndLeases:
    """The leader of ``term`` saw these leases run out."""

    term: int
    lease_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is left of leases, as (id, seconds), by the clock of the leader of ``term``."""

    term: int
    remaining: tuple[tuple[int, int], ...]


Command = (
    Put | DeleteRange | Txn | Compact | LeaseGrant | LeaseRevoke | AlarmRequest | EndLeases
    | Checkpoint
)  # fmt: skip

# Codes of commands, and of operations within a txn. They are on disks: never reuse one.
PUT, DELETE, TXN, COMPACT, GRANT, REVOKE, ALARM, END, CHECKPOINT, RANGE = range(1, 11)


class BadCommand(WireError):
    """An entry of the log is no command: the log is damaged, or of a newer version."""

    reason = "bad-command"


def encode(command: Command) -> bytes:
    """A command as the log keeps it."""
    match command:
        case Put() | DeleteRange():
            fields = _op_fields(command)
        case Txn():
            fields = [TXN, *_txn_fields(command)]
        case Compact(revision):
            fields = [COMPACT, revision]
        case LeaseGrant(ttl_s, lease_id):
            fields = [GRANT, lease_id, ttl_s]
        case LeaseRevoke(lease_id):
            fields = [REVOKE, lease_id]
        case AlarmRequest(action, member_id, alarm):
            fields = [ALARM, int(action), member_id, int(alarm)]
        case EndLeases(term, lease_ids):
            fields = [END, term, list(lease_ids)]
        case Checkpoint(term, remaining):
            fields = [CHECKPOINT, term, list(remaining)]
    return encode_cbor(fields)


def decode(data: bytes) -> Command:
    """The command that an entry of the log holds.

    Raises:
        BadCommand: when it holds none.
    """
    try:
        fields = cast("Any", decode_cbor(data))
        return _COMMANDS[fields[0]](*fields[1:])
    except (WireError, TypeError, ValueError, IndexError, KeyError) as error:
        raise BadCommand(f"an entry of {len(data)} bytes is no command: {error!r}") from None


def _put(key: bytes, value: bytes, lease: int, flags: int) -> Put:
    if not flags:
        return Put(key, value, lease)
    return Put(key, value, lease, bool(flags & 1), bool(flags & 2), bool(flags & 4))


def _end(term: int, lease_ids: list[int]) -> EndLeases:
    return EndLeases(term, tuple(lease_ids))


def _checkpoint(term: int, remaining: list[list[int]]) -> Checkpoint:
    return Checkpoint(term, tuple([(lease_id, left) for lease_id, left in remaining]))


def read_range(
    key: bytes, range_end: bytes, limit: int, revision: int, bits: int, *rest: int
) -> Range:
    """The range in the fields of a row."""
    order, target, mod, new, mod_to, new_to = rest
    return Range(
        *(key, range_end, limit, revision, order, target),
        *(bool(bits & 1), bool(bits & 2), bool(bits & 4)),
        *(mod, mod_to, new, new_to),
    )


def _op_fields(op: Op) -> list[Any]:
    if isinstance(op, Put):
        flags = op.prev_kv | op.ignore_value << 1 | op.ignore_lease << 2
        return [PUT, op.key, op.value, op.lease, int(flags)]
    if isinstance(op, DeleteRange):
        return [DELETE, op.key, op.range_end, op.prev_kv]
    if isinstance(op, Txn):
        return [TXN, encode_cbor(_txn_fields(op))]
    return [RANGE, *range_fields(op)]


def range_fields(op: Range) -> list[Any]:
    """A range as a row; ``read_range`` takes it apart."""
    bits = op.serializable | op.keys_only << 1 | op.count_only << 2
    return [
        *(op.key, op.range_end, op.limit, op.revision, int(bits)),
        *(int(op.sort_order), int(op.sort_target), op.min_mod_revision, op.min_create_revision),
        *(op.max_mod_revision, op.max_create_revision),
    ]


def _txn_fields(txn: Txn) -> list[Any]:
    compares = [[c.key, c.range_end, int(c.result), int(c.target), c.operand] for c in txn.compare]
    branches = [[_op_fields(op) for op in branch] for branch in (txn.success, txn.failure)]
    return [compares, *branches]


def _txn(compare: list[Any], success: list[Any], failure: list[Any]) -> Txn:
    return Txn(
        tuple([Compare(key, result, target, operand, end)
               for key, end, result, target, operand in compare]),
        tuple([_OPS[op[0]](*op[1:]) for op in success]),
        tuple([_OPS[op[0]](*op[1:]) for op in failure]),
    )  # fmt: skip


def _nested(data: bytes) -> Txn:
    return _txn(*cast("Any", decode_cbor(data)))


_OPS: dict[int, Callable[..., Op]] = {
    PUT: _put,
    DELETE: DeleteRange,
    TXN: _nested,
    RANGE: read_range,
}

_COMMANDS: dict[int, Callable[..., Command]] = {
    PUT: _put,
    DELETE: DeleteRange,
    TXN: _txn,
    COMPACT: Compact,
    GRANT: lambda lease_id, ttl_s: LeaseGrant(ttl_s, lease_id),
    REVOKE: LeaseRevoke,
    ALARM: AlarmRequest,
    END: _end,
    CHECKPOINT: _checkpoint,
}

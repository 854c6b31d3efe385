"""Requests and answers of the store as they travel between shards, as positional rows.

Only what ``KvClient`` asks: keys, transactions, leases and watches. A request is
``[kind, ...]``, with the bytes of a command (``commands``) where it is one; an answer is a row
whose shape the kind of the request tells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshsvc.errors import WireError
from meshsvc.kv import api, commands

DO, RANGE, KEEPALIVE = range(3)

Request = (
    api.Range | api.Put | api.DeleteRange | api.Txn
    | api.LeaseGrant | api.LeaseRevoke | api.LeaseKeepAlive
)  # fmt: skip
Result = (
    api.RangeResult | api.PutResult | api.DeleteRangeResult | api.TxnResult
    | api.LeaseGrantResult | api.LeaseRevokeResult | api.LeaseKeepAliveResult
)  # fmt: skip

PUT, DELETE, TXN, READ, GRANT, REVOKE, KEPT = range(7)
"""The kinds of answers."""


def request_row(request: Request) -> list[Any]:
    """A request as it is sent."""
    if isinstance(request, api.Range):
        return [RANGE, *commands.range_fields(request)]
    if isinstance(request, api.LeaseKeepAlive):
        return [KEEPALIVE, request.lease_id]
    return [DO, commands.encode(request)]


def read_request(row: Any) -> Request:
    """What ``request_row`` gave.

    Raises:
        WireError: when it is anything else.
    """
    try:
        kind, *fields = row
        if kind == RANGE:
            return commands.read_range(*fields)
        if kind == KEEPALIVE:
            return api.LeaseKeepAlive(*fields)
        command = commands.decode(*fields)
    except (TypeError, ValueError) as error:
        raise WireError(f"this is no request to the store: {error}") from None
    allowed = (api.Put, api.DeleteRange, api.Txn, api.LeaseGrant, api.LeaseRevoke)
    if not isinstance(command, allowed):
        raise WireError(f"a {type(command).__name__} may not be asked of another shard")
    return command


def _header(header: api.Header) -> list[int]:
    return [header.cluster_id, header.member_id, header.revision, header.raft_term]


def result_row(result: Any) -> list[Any]:
    """An answer as it is sent."""
    kind, fields = _ROWS[type(result)]
    return [kind, _header(result.header), *fields(result)]


def read_result(row: Any) -> Any:
    """What ``result_row`` gave.

    Raises:
        WireError: when it is anything else.
    """
    try:
        kind, header, *fields = row
        return _RESULTS[kind](*fields, api.Header(*header))
    except (TypeError, ValueError, KeyError) as error:
        raise WireError(f"this is no answer of the store: {error}") from None


def _kvs(rows: list[list[Any]]) -> tuple[api.KeyValue, ...]:
    return tuple([api.KeyValue(*row) for row in rows])


def _prev(result: api.PutResult) -> list[Any]:
    return [result.prev_kv and list(result.prev_kv)]


def _deleted(result: api.DeleteRangeResult) -> list[Any]:
    return [result.deleted, [list(kv) for kv in result.prev_kvs]]


def _found(result: api.RangeResult) -> list[Any]:
    return [[list(kv) for kv in result.kvs], result.more, result.count]


def _branch(result: api.TxnResult) -> list[Any]:
    return [result.succeeded, [result_row(each) for each in result.responses]]


def _lease(result: api.LeaseGrantResult | api.LeaseKeepAliveResult) -> list[Any]:
    return [result.lease_id, result.ttl_s]


_ROWS: dict[type, tuple[int, Callable[[Any], list[Any]]]] = {
    api.PutResult: (PUT, _prev),
    api.DeleteRangeResult: (DELETE, _deleted),
    api.RangeResult: (READ, _found),
    api.TxnResult: (TXN, _branch),
    api.LeaseGrantResult: (GRANT, _lease),
    api.LeaseRevokeResult: (REVOKE, lambda _: []),
    api.LeaseKeepAliveResult: (KEPT, _lease),
}

_RESULTS: dict[int, Any] = {
    PUT: lambda kv, header: api.PutResult(kv and api.KeyValue(*kv), header),
    DELETE: lambda count, kvs, header: api.DeleteRangeResult(count, _kvs(kvs), header),
    READ: lambda kvs, more, count, header: api.RangeResult(_kvs(kvs), more, count, header),
    TXN: lambda done, rows, header: api.TxnResult(
        done, tuple([read_result(row) for row in rows]), header
    ),
    GRANT: api.LeaseGrantResult,
    REVOKE: api.LeaseRevokeResult,
    KEPT: api.LeaseKeepAliveResult,
}


# --- watches -------------------------------------------------------------------------------


def watch_row(request: api.WatchCreate) -> list[Any]:
    """A watch as it is asked for."""
    return [
        *(request.key, request.range_end, request.start_revision, request.progress_notify),
        *([int(each) for each in request.filters], request.prev_kv, request.watch_id),
    ]


def read_watch(row: Any) -> api.WatchCreate:
    """What ``watch_row`` gave.

    Raises:
        WireError: when it is anything else.
    """
    try:
        key, end, start, notify, filters, prev_kv, watch_id = row
        return api.WatchCreate(key, end, start, notify, tuple(filters), prev_kv, watch_id)
    except (TypeError, ValueError) as error:
        raise WireError(f"this is no watch: {error}") from None


def response_row(response: api.WatchResponse) -> list[Any]:
    """What a watch brought."""
    events = []
    if response.batch is not None:
        events = [
            [int(each.kind), list(each.kv), each.prev_kv and list(each.prev_kv)]
            for each in response.batch.events
        ]
    return [
        *(response.watch_id, _header(response.header), events, response.created),
        *(response.canceled, response.compact_revision, response.cancel_reason),
    ]


def read_response(row: Any) -> api.WatchResponse:
    """What ``response_row`` gave.

    Raises:
        WireError: when it is anything else.
    """
    try:
        watch_id, header, events, created, canceled, compacted, reason = row
        read = tuple(
            [
                api.Event(api.EventKind(kind), api.KeyValue(*kv), prev and api.KeyValue(*prev))
                for kind, kv, prev in events
            ]
        )
        batch = api.EventBatch(read, 0) if read else None
        return api.WatchResponse(
            watch_id, api.Header(*header), batch, created, canceled, compacted, reason
        )
    except (TypeError, ValueError) as error:
        raise WireError(f"this is nothing that a watch brings: {error}") from None

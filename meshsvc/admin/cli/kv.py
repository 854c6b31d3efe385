"""``meshsvc kv``: get, put, del, txn and watch keys of the store."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.exits import CliError
from meshsvc.admin.cli.kv_txn import transaction
from meshsvc.admin.cli.output import line, pretty, printable, show_row, show_rows
from meshsvc.admin.cli.store_client import (
    StoreError,
    decoded,
    encoded,
    kv_row,
    span,
    store_of,
)

KEYS = ["key", "value", "revision", "version", "lease"]
_MAX_VALUE = 1536 * 1024
"""What the store takes as one request; a byte more shows that standard input is too long."""

_ORDERS = {"ascend": "ASCEND", "descend": "DESCEND"}
_TARGETS = {
    "key": "KEY",
    "version": "VERSION",
    "create": "CREATE",
    "modify": "MOD",
    "value": "VALUE",
}
SORTS = tuple(_TARGETS)
ORDERS = tuple(_ORDERS)


def get(args: argparse.Namespace) -> int:
    """Print keys and their values; 1 when there is none."""
    body: dict[str, Any] = span(args) | {
        "limit": args.limit,
        "revision": args.revision,
        "serializable": args.serializable,
        "keys_only": args.keys_only,
        "count_only": args.count_only,
    }
    if args.sort_by or args.order:
        body["sort_target"] = _TARGETS[args.sort_by or "key"]
        body["sort_order"] = _ORDERS[args.order or "ascend"]
    answer = store_of(args).post("/v3/kv/range", body)
    count = int(answer.get("count", 0))
    if args.count_only:
        print(line({"count": count}) if args.output != "table" else count)
        return exits.OK if count else exits.UNHEALTHY
    found = answer.get("kvs", [])
    if args.value_only:
        for kv in found:
            sys.stdout.buffer.write(decoded(kv.get("value")) + b"\n")
    else:
        show_rows(args.output, [kv_row(kv) for kv in found], KEYS)
    if answer.get("more") and args.output == "table":
        print(f"meshsvc: {len(found)} of {count} keys: --limit left out the rest", file=sys.stderr)
    return exits.OK if found else exits.UNHEALTHY


def put(args: argparse.Namespace) -> int:
    """Set a key; the value - is read from standard input."""
    value: str | bytes = args.value
    if value == "-":
        value = sys.stdin.buffer.read(_MAX_VALUE + 1)
        if len(value) > _MAX_VALUE:
            raise CliError(exits.USAGE, f"the value is over {_MAX_VALUE} bytes, which no key holds")
    body: dict[str, Any] = {"key": encoded(args.key), "value": encoded(value)}
    body |= {"lease": args.lease, "prev_kv": args.prev}
    answer = store_of(args).post("/v3/kv/put", body)
    row: dict[str, Any] = {"revision": _revision(answer)}
    if "prev_kv" in answer:
        row["previous"] = kv_row(answer["prev_kv"])
    show_row(args.output, row, ["revision", "previous"])
    return exits.OK


def delete(args: argparse.Namespace) -> int:
    """Delete keys and print how many there were; 1 when there was none."""
    answer = store_of(args).post("/v3/kv/deleterange", span(args) | {"prev_kv": args.prev})
    deleted = int(answer.get("deleted", 0))
    row: dict[str, Any] = {"deleted": deleted, "revision": _revision(answer)}
    if args.prev:
        row["previous"] = [kv_row(kv) for kv in answer.get("prev_kvs", [])]
    show_row(args.output, row, ["deleted", "revision", "previous"])
    return exits.OK if deleted else exits.UNHEALTHY


def txn(args: argparse.Namespace) -> int:
    """Compare, then do one of two lists of operations, all at once; 1 when --else was done."""
    body = transaction(args.compare, args.then, args.other)
    answer = store_of(args).post("/v3/kv/txn", body)
    succeeded = bool(answer.get("succeeded"))
    responses = [_response(each) for each in answer.get("responses", [])]
    row = {"succeeded": succeeded, "revision": _revision(answer), "responses": responses}
    if args.output == "table":
        show_row("table", row, ["succeeded", "revision"])
        for each in responses:
            print()
            _show_response(each)
    else:
        print(pretty(row) if args.output == "json" else line(row))
    return exits.OK if succeeded else exits.UNHEALTHY


def watch(args: argparse.Namespace) -> int:
    """Print each change of keys, from now on or from a revision, until interrupted."""
    create = span(args) | {"start_revision": args.revision, "prev_kv": args.prev}
    left = args.limit
    for event in _events(args, create):
        print(line(event) if args.output != "table" else _event_line(event), flush=True)
        if left is not None:
            left -= 1
            if not left:
                break
    return exits.OK


def _events(args: argparse.Namespace, create: dict[str, Any]) -> Iterator[dict[str, Any]]:
    store = store_of(args)
    for result in store.results("/v3/watch", {"create_request": create}):
        if result.get("canceled"):
            at = int(result.get("compact_revision", 0))
            why = result.get("cancel_reason") or "the watch was cancelled"
            if at:
                why = f"revision {args.revision} is compacted: watch from {at} or later"
            raise StoreError(store.url, 11, why)
        for event in result.get("events", []):
            row = {"type": event.get("type", "PUT"), **kv_row(event["kv"])}
            if "prev_kv" in event:
                row["previous"] = kv_row(event["prev_kv"])
            yield row


def _event_line(event: dict[str, Any]) -> str:
    words = [str(event["revision"]), event["type"].lower(), event["key"]]
    if event["type"] == "PUT":
        words.append(event["value"])
    if "previous" in event:
        words.append(f"(was {event['previous']['value']})")
    return printable("  ".join(words))


def _response(each: dict[str, Any]) -> dict[str, Any]:
    if "response_put" in each:
        return {"put": {"revision": _revision(each["response_put"])}}
    if "response_delete_range" in each:
        return {"del": {"deleted": int(each["response_delete_range"].get("deleted", 0))}}
    found = each.get("response_range", {}).get("kvs", [])
    return {"get": [kv_row(kv) for kv in found]}


def _show_response(each: dict[str, Any]) -> None:
    if "get" in each:
        show_rows("table", each["get"], KEYS)
    else:
        name, row = next(iter(each.items()))
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in row.items()))


def _revision(answer: dict[str, Any]) -> int:
    return int(answer.get("header", {}).get("revision", 0))

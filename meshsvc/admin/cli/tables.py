"""``meshsvc tables``: list, get, put, delete, diff and join-status of replicated tables."""

from __future__ import annotations

import argparse
import time
from typing import Any
from urllib.parse import urlencode

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.client import AdminClient
from meshsvc.admin.cli.exits import CliError
from meshsvc.admin.cli.output import line, pretty, printable, show_row, show_rows
from meshsvc.admin.cli.progress import Progress
from meshsvc.admin.cli.talking import EXTRA_S, payload_of

LIST = ["name", "kind", "owned", "resolver", "rows", "tombstones", "memory", "joined", "apart"]
ROW = ["key", "value", "version", "owner"]
RESULT = ["ok", "changed", "version", "acked", "lost", "rejected"]
REPLICAS = ["replica", "rows", "tombstones", "content", "error"]
JOINS = ["table", "node", "phase", "rows", "tries", "why"]

DIFF_S = 120.0
"""Two looks at every copy, a second for each million rows, and one more for every group of keys."""

SETTLED = ("joined", "absent")
"""Phases in which nothing is left to be done: a node that does not hold a table needs no join."""

POLL_S = 0.2
LARGE = 10_000
"""Rows from which on a bar is drawn; fewer are there at once."""


def list_(args: argparse.Namespace) -> int:
    """Print the tables of the node: what each is, what it holds, with whom it is joined."""
    rows = AdminClient(args.admin).get("/v1/tables")
    if args.output == "table":
        for row in rows:
            peers = [peer for peer in row["peers"] if peer["phase"] not in SETTLED]
            row["apart"] = [f"{peer['node']} ({peer['phase']})" for peer in peers]
    show_rows(args.output, rows, LIST)
    return exits.OK


def get(args: argparse.Namespace) -> int:
    """Print the row of a key, in a bag each of its rows; 1 when there is none."""
    body = {"table": args.table, "key": key_of(args)}
    rows = AdminClient(args.admin).post("/v1/tables/get", body)["rows"]
    show_rows(args.output, [as_shown(args.output, row) for row in rows], columns_of(rows))
    return exits.OK


def put(args: argparse.Namespace) -> int:
    """Insert a row and print who has it; 1 when a member was lost or rejected it."""
    body = {"table": args.table, "key": key_of(args), "value": payload_of(args.json)}
    return _write(args, "put", body)


def delete(args: argparse.Namespace) -> int:
    """Delete a key, in a bag all its rows; 1 when there is none, or not everybody heard of it."""
    body: dict[str, Any] = {"table": args.table, "key": key_of(args)}
    if args.if_value is not None:
        body["if_value"] = payload_of(args.if_value)
    if args.if_version is not None:
        body["if_version"] = args.if_version
    return _write(args, "delete", body)


def _write(args: argparse.Namespace, verb: str, body: dict[str, Any]) -> int:
    body["timeout_s"] = args.timeout
    client = AdminClient(args.admin)
    result = client.post(f"/v1/tables/{verb}", body, args.timeout + EXTRA_S)
    show_row(args.output, result, RESULT)
    return exits.OK if result["ok"] and result["changed"] else exits.UNHEALTHY


def diff(args: argparse.Namespace) -> int:
    """Compare the copies of a table on all shards, name keys that differ; 1 when not equal."""
    body = {"table": args.table, "nodes": args.node, "limit": args.limit}
    report = AdminClient(args.admin).post("/v1/tables/diff", body, DIFF_S)
    if args.output == "table":
        show_rows("table", report["replicas"], REPLICAS)
        _print_differing(report)
    elif args.output == "jsonl":
        for row in (*report["replicas"], *report["differing"]):
            print(line(row))
    else:
        print(pretty(report))
    return exits.OK if report["equal"] else exits.UNHEALTHY


def _print_differing(report: dict[str, Any]) -> None:
    rows = [
        {"key": as_text(row["key"]), "behind": row["behind"], "versions": _versions(row)}
        for row in report["differing"]
    ]
    if rows:
        print()
        show_rows("table", rows, ["key", "behind", "versions"])
    if not report["complete"]:
        buckets = report["buckets_differing"]
        print(f"\nthere are more: {buckets} of 1024 groups of keys differ; see --limit")
    elif report["equal"]:
        print(f"\nall copies of {printable(report['table'])} are equal")
    elif not rows and not report["silent"]:
        print("\nnothing stayed different for long enough to be named")


def _versions(row: dict[str, Any]) -> str:
    """Which copies hold which version, those that agree together."""
    holding: dict[str, list[str]] = {}
    for name, version in row["versions"].items():
        text = "missing"
        if version is not None:
            gone = "deleted by" if version["deleted"] else "by"
            text = f"{version['version']} {gone} {version['writer']}"
        holding.setdefault(text, []).append(name)
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in holding.items())


def join_status(args: argparse.Namespace) -> int:
    """Print how far each table is with each member; 1 when one is neither joined nor absent."""
    client, deadline = AdminClient(args.admin), time.monotonic() + (args.wait or 0.0)
    path = "/v1/tables/joins" + (f"?{urlencode({'table': args.table})}" if args.table else "")
    progress = Progress("joining")
    while True:
        rows = client.get(path)
        open_ = [row for row in rows if row["phase"] not in SETTLED]
        if not open_ or time.monotonic() >= deadline:
            break
        moved, of = (sum(row[what] for row in open_) for what in ("moved", "of"))
        if of >= LARGE:
            progress.show(moved, of)
        time.sleep(POLL_S)
    progress.clear()
    if args.output == "table":
        for row in rows:
            row["rows"] = f"{row['moved']:,}/{row['of']:,}" if row["of"] else None
    show_rows(args.output, rows, JOINS)
    return exits.UNHEALTHY if open_ else exits.OK


def key_of(args: argparse.Namespace) -> Any:
    """The key of the command line: a text, or with ``--json-key`` what it is in JSON.

    Raises:
        CliError: when it is not JSON, or not text.
    """
    text: str = args.key
    if args.json_key:
        return payload_of(text)
    try:
        text.encode()
    except UnicodeEncodeError:
        advice = 'give bytes as --json-key \'{"base64": "..."}\''
        raise CliError(exits.USAGE, f"the key {text!r} is not UTF-8; {advice}") from None
    return text


def as_text(key: Any) -> str:
    """A key or value on one line; a text is shown as it is."""
    return key if key and isinstance(key, str) else line(key)


def as_shown(output: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row of a table; in columns the value is JSON, so that "1" and 1 are not alike."""
    if output != "table":
        return row
    return row | {"key": as_text(row["key"]), "value": line(row["value"])}


def columns_of(rows: list[dict[str, Any]]) -> list[str]:
    """The columns that these rows have."""
    return [name for name in ROW if any(name in row for row in rows)] or ROW[:3]

"""The verbs that show a node: status, members, mesh, shards, plugins."""

from __future__ import annotations

import argparse
from typing import Any

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.client import AdminClient
from meshsvc.admin.cli.exits import CliError
from meshsvc.admin.cli.output import printable, show_row, show_rows
from meshsvc.model import Epoch

STATUS = ["name", "id", "cluster", "generation", "pid", "version", "uptime_s", "epoch", "state"]
STATUS += ["addresses", "members", "store", "ready", "reasons"]
MEMBERS = ["name", "id", "status", "generation", "address", "shards", "rtt_ms"]
LINKS = ["peer", "state", "epoch", "owner_shard", "rtt_ms"]
SHARDS = ["index", "pid", "state", "incarnation", "restarts", "cpu", "lag_ms"]
PLUGINS = ["name", "interface", "state", "error"]

FORM_TIMEOUT_S = 35.0
"""A mesh forms within 30 s or not at all (see the promise MESH-8)."""


def status(args: argparse.Namespace) -> int:
    """Print the node in one row; 1 when it is not ready."""
    row = AdminClient(args.admin).get("/v1/status")
    shown = row
    if args.output == "table" and "members_alive" in row:  # the dead are members as well
        shown = row | {"members": f"{row['members_alive']} alive of {row.get('members')}"}
    show_row(args.output, shown, STATUS)
    return exits.OK if row.get("ready", True) else exits.UNHEALTHY


def members(args: argparse.Namespace) -> int:
    """Print every node that is known."""
    rows = AdminClient(args.admin).get("/v1/members")
    show_rows(args.output, _short_ids(args, rows), MEMBERS)
    return exits.OK


def mesh(args: argparse.Namespace) -> int:
    """Print the epoch, the roster and the data links."""
    _show_mesh(args, AdminClient(args.admin).get("/v1/mesh"))
    return exits.OK


def form(args: argparse.Namespace) -> int:
    """Form the mesh under an epoch that is given by hand, and print it."""
    try:
        epoch = Epoch.parse(args.epoch)
    except ValueError as error:
        raise CliError(exits.USAGE, str(error)) from None
    body = {"epoch": str(epoch)}
    _show_mesh(args, AdminClient(args.admin).post("/v1/mesh/form", body, FORM_TIMEOUT_S))
    return exits.OK


def shards(args: argparse.Namespace) -> int:
    """Print the shard processes of the node."""
    show_rows(args.output, AdminClient(args.admin).get("/v1/shards"), SHARDS)
    return exits.OK


def plugins(args: argparse.Namespace) -> int:
    """Print the plugins that were found; 1 when one of them is broken."""
    rows = AdminClient(args.admin).get("/v1/plugins")
    broken = [row for row in rows if row.get("error")]
    shown = rows
    if args.output == "table":
        shown = [row | {"error": _last_line(row.get("error"))} for row in rows]
    show_rows(args.output, shown, PLUGINS)
    if args.output == "table":
        for row in broken:
            print(f"\n{printable(str(row.get('name')))}:")
            print("\n".join("  " + printable(each) for each in str(row["error"]).splitlines()))
    return exits.UNHEALTHY if broken else exits.OK


def _show_mesh(args: argparse.Namespace, found: dict[str, Any]) -> None:
    if args.output != "table":
        show_row(args.output, found, [])
        return
    roster = [row.get("name") if isinstance(row, dict) else row for row in found["roster"]]
    show_row("table", found | {"roster": roster}, ["epoch", "state", "roster"])
    print()
    show_rows("table", found["links"], LINKS)


def _short_ids(args: argparse.Namespace, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if args.output != "table":
        return rows
    return [row | {"id": str(row.get("id") or "")[:8]} for row in rows]


def _last_line(text: str | None) -> str | None:
    return text.strip().splitlines()[-1] if text and text.strip() else None

"""``meshsvc raft``: how the groups of the consistent store are, and who is to lead them."""

from __future__ import annotations

import argparse
from typing import Any

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.client import AdminClient
from meshsvc.admin.cli.output import show_row, show_rows

STORE = ["cluster", "member", "missing", "revision", "compacted", "keys", "bytes", "quota"]
STORE += ["leases", "watches", "alarms"]
GROUPS = ["group", "role", "leader", "term", "quorum", "last", "stable", "commit", "applied"]
GROUPS += ["first", "snapshot", "voters", "learners"]
PEERS = ["group", "node", "member", "vote", "mode", "match", "behind", "under_way", "silent_s"]

EXTRA_S = 2.0
"""How much longer than a transfer its answer may take."""


def status(args: argparse.Namespace) -> int:
    """Print term, leader, log heads and how far each member is; 1 when something is missing."""
    return _show(args, AdminClient(args.admin).get("/v1/store"))


def transfer(args: argparse.Namespace) -> int:
    """Hand the leadership of both groups to a node, and print how they are then."""
    body = {"node": args.node, "timeout_s": args.timeout}
    client = AdminClient(args.admin)
    return _show(args, client.post("/v1/store/transfer", body, 2 * args.timeout + EXTRA_S))


def _show(args: argparse.Namespace, row: dict[str, Any]) -> int:
    if args.output == "table":
        show_row("table", row | {"alarms": _alarms(row["alarms"])}, STORE)
        groups = row["groups"]
        if groups:
            print()
            show_rows("table", groups, GROUPS)
        peers = [{"group": group["group"]} | peer for group in groups for peer in group["peers"]]
        if peers:
            print()
            show_rows("table", peers, PEERS)
    else:
        show_row(args.output, row, [])
    return exits.UNHEALTHY if row["missing"] else exits.OK


def _alarms(alarms: list[dict[str, Any]]) -> list[str]:
    return [f"{each['alarm']} of {each['node']}" for each in alarms]

"""The verbs that tell whether a node found its cluster and serves: ready, wait, discovery."""

from __future__ import annotations

import argparse
import sys
import time
from shutil import get_terminal_size
from typing import Any

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.client import AdminClient
from meshsvc.admin.cli.exits import CliError
from meshsvc.admin.cli.output import printable, show_row, show_rows

POLL_S = 0.25
"""Between two questions while waiting: a script does not notice, a node does not either."""

CLEAR_LINE = "\r\x1b[K"

STATE = ["backend", "phase", "discovery_works", "reason", "notes", "checked_ago_s"]
STATE += ["next_check", "next_check_in_s"]
FIELDS = ["available_nodes", "joined_nodes", "discovered_nodes", "unavailable_nodes"]
FIELDS += ["silent_nodes", "remote_nodes_without_discovery"]
FIELDS += ["remote_unknown_tables", "remote_nodes_with_unknown_tables"]
FIELDS += ["remote_missing_tables", "remote_nodes_with_missing_tables"]
FIELDS += ["conflict_tables", "conflict_nodes", "missing"]
PLACES = ["address", "node", "standing", "reason"]
HISTORY = ["ago_s", "node", "what"]

TROUBLE = ("unavailable_nodes", "silent_nodes", "conflict_nodes")
"""What makes ``meshsvc discovery`` end with 1, besides a check that failed."""


def ready(args: argparse.Namespace) -> int:
    """Print whether the node serves and what it waits for; 1 when it does not."""
    row = AdminClient(args.admin).get("/readyz", accept=(200, 503))
    show_row(args.output, row, ["ready", "reasons"])
    return exits.OK if row["ready"] else exits.UNHEALTHY


def wait(args: argparse.Namespace) -> int:
    """Return as soon as the node serves; 1 if it does not within --timeout, 69 if unreachable."""
    client, deadline = AdminClient(args.admin), time.monotonic() + args.timeout
    while True:
        row, code = _asked(client)
        over = code == exits.OK or time.monotonic() >= deadline
        _progress("" if over else "waiting: " + "; ".join(row["reasons"]))
        if over:
            show_row(args.output, row, ["ready", "reasons"])
            return code
        time.sleep(min(POLL_S, args.timeout))


def _asked(client: AdminClient) -> tuple[dict[str, Any], int]:
    """What the node says of itself, and the exit code that stands for it."""
    try:
        row = client.get("/readyz", accept=(200, 503))
    except CliError as error:
        if error.code != exits.UNREACHABLE:
            raise
        return {"ready": False, "reasons": [str(error)]}, exits.UNREACHABLE
    return row, exits.OK if row["ready"] else exits.UNHEALTHY


def _progress(text: str) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        # On one line, so that the next one can take its place.
        shown = printable(text)[: get_terminal_size().columns - 1]
        print(CLEAR_LINE + shown, end="", file=sys.stderr, flush=True)


def discovery(args: argparse.Namespace) -> int:
    """Print where this node looks for peers and how it stands with them; 1 when not well."""
    row = AdminClient(args.admin).get("/v1/discovery")
    if args.output == "table":
        show_row("table", row, [*STATE, *FIELDS])
        for title, columns in (("places", PLACES), ("history", HISTORY)):
            if row.get(title):
                print(f"\n{title}")
                show_rows("table", row[title], columns)
    else:
        show_row(args.output, row, [])
    well = row["discovery_works"] and not any(row.get(name) for name in TROUBLE)
    return exits.OK if well else exits.UNHEALTHY

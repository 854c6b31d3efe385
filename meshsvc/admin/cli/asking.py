"""The verbs that speak to all nodes: events send, query."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.client import AdminClient
from meshsvc.admin.cli.exits import CliError
from meshsvc.admin.cli.output import line, pretty, printable
from meshsvc.admin.cli.talking import EXTRA_S, payload_of, show_answers

SEND_S = 4.0
"""How long the node may take to send an event."""


def send_event(args: argparse.Namespace) -> int:
    """Send an event to every node; who hears of it is not told."""
    body = {"name": args.name, "payload": payload_of(args.json), "coalesce": args.coalesce}
    sent = AdminClient(args.admin).post("/v1/events", body, SEND_S)
    if args.output == "table":
        print(printable(f"sent {args.name}"))
    else:
        print(pretty(sent) if args.output == "json" else line(sent))
    return exits.OK


def query(args: argparse.Namespace) -> int:
    """Ask every node; print the answers, and why others did not answer."""
    body: dict[str, Any] = {"name": args.name, "payload": payload_of(args.json)}
    body["timeout_s"] = args.timeout
    if args.node:
        body["nodes"] = args.node
    if args.tag:
        body["tags"] = dict(map(_tag, args.tag))
    found = AdminClient(args.admin).post("/v1/query", body, args.timeout + EXTRA_S)
    if not found["answers"]:
        raise CliError(exits.UNHEALTHY, f"no node that is alive has {_wanted(args.tag)}")
    code = show_answers(args.output, found["answers"])
    if found["missing"] and args.output == "table":
        total, missing = len(found["answers"]), found["missing"]
        told = f"{total - len(missing)} of {total} answered; missing: {', '.join(missing)}"
        print(printable(told), file=sys.stderr)
    return code


def _wanted(tags: list[str] | None) -> str:
    return printable(f"the tags {', '.join(tags)}" if tags else "a name to be asked by")


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise CliError(exits.USAGE, f"{text!r} is no tag: write KEY=VALUE")
    return key, value

"""The verbs that talk: call, events."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.client import AdminClient, exit_for
from meshsvc.admin.cli.exits import CliError
from meshsvc.admin.cli.output import FORMATS, line, pretty, printable, show_rows
from meshsvc.admin.targets import parse_target

EXTRA_S = 2.0
"""How much longer than the call itself its HTTP answer may take."""

RTT_S = 2.0
"""How long the first node may take to say what it measured."""

_SHORT = 80
"""Characters of JSON that are shown on one line to people."""

_MAX_PAYLOAD = 1024 * 1024
"""What the admin port takes as a body."""


def call(args: argparse.Namespace) -> int:
    """Ask a verb of a target and print the reply."""
    try:
        target = parse_target(args.target)
    except ValueError as error:
        raise CliError(exits.USAGE, str(error)) from None
    body = {"target": args.target, "verb": args.verb_name, "timeout_s": args.timeout}
    body["payload"] = payload_of(args.json)
    answer = AdminClient(args.admin).post("/v1/call", body, args.timeout + EXTRA_S)
    reply = answer["reply"]
    if target.kind == "all" and isinstance(reply, list):
        return show_answers(args.output, reply)
    print(_reply_text(args.output, reply))
    return exits.OK


def rtt(args: argparse.Namespace) -> int:
    """Print the round trip between two nodes, as the first of them measures it; 1 if unknown."""
    client = AdminClient(args.admin)
    ids = {row["name"]: row["id"] for row in client.get("/v1/members")}
    for name in (args.a, args.b):
        if name not in ids:
            known = ", ".join(sorted(ids))
            raise CliError(exits.UNHEALTHY, f"no member is called {name!r}; members: {known}")
    body = {"target": f"{args.a}/0", "verb": "gossip.rtt", "payload": None, "timeout_s": RTT_S}
    reply = client.post("/v1/call", body, RTT_S + EXTRA_S)["reply"]
    measured = 0.0 if args.a == args.b else reply.get(ids[args.b])
    row = {"a": args.a, "b": args.b, "rtt_ms": None if measured is None else round(measured, 3)}
    if args.output != "table":
        print(pretty(row) if args.output == "json" else line(row))
    elif measured is None:
        print(f"{args.a} has not measured a round trip to {args.b} yet")
    else:
        print(f"{args.a} <-> {args.b}: {measured:.3f} ms")
    return exits.OK if measured is not None else exits.UNHEALTHY


def events(args: argparse.Namespace) -> int:
    """Print what happened, and with ``--follow`` what happens, oldest first."""
    follow = "1" if args.follow else "0"
    stream = AdminClient(args.admin).lines(f"/v1/events?follow={follow}")
    found = _take(stream, args.limit)
    if args.output == "json" and not args.follow:
        print(pretty(list(found)))
        return exits.OK
    for event in found:
        print(line(event) if args.output in FORMATS[1:] else _event_line(event), flush=True)
    return exits.OK


def payload_of(text: str) -> Any:
    """The value of a JSON argument; ``-`` reads it from stdin."""
    try:
        if text == "-":
            text = sys.stdin.read(_MAX_PAYLOAD + 1)
        return json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        advice = 'quote it for the shell, for example \'{"key": "a"}\''
        raise CliError(exits.USAGE, f"the payload is not JSON: {error}; {advice}") from None


def _no_json(constant: str) -> Any:
    raise ValueError(f"JSON has no {constant}")


def _reply_text(output: str, reply: object) -> str:
    text = line(reply)
    return text if output == "jsonl" or len(text) <= _SHORT else pretty(reply)


def show_answers(output: str, answers: list[dict[str, Any]]) -> int:
    """Print what each node answered; the exit code says whether all did."""
    rows = answers
    if output == "table":
        rows = [
            {"node": row.get("node"), "reply": line(row["reply"])}
            if "reply" in row
            else {"node": row.get("node"), "error": "{kind}: {text}".format(**row["error"])}
            for row in answers
        ]
    show_rows(output, rows, ["node", "reply", "error"])
    codes = {exit_for(503, row["error"]["kind"]) for row in answers if "error" in row}
    return exits.OK if not codes else codes.pop() if len(codes) == 1 else exits.UNHEALTHY


def _take(stream: Iterator[Any], limit: int | None) -> Iterator[dict[str, Any]]:
    left = limit
    if left is not None and left <= 0:
        return
    for event in stream:
        if event.get("type") == "heartbeat":
            continue
        yield event
        if left is not None:
            left -= 1
            if left <= 0:
                return


def _event_line(event: dict[str, Any]) -> str:
    at = event.get("at")
    clock = time.strftime("%H:%M:%S", time.localtime(at)) if isinstance(at, int | float) else "-"
    rest = {key: value for key, value in event.items() if key not in ("at", "type", "node")}
    words = [clock, str(event.get("type", "?")), str(event.get("node") or "")]
    words += [
        f"{key}={value if isinstance(value, str) else line(value)}" for key, value in rest.items()
    ]
    return printable("  ".join(word for word in words if word))

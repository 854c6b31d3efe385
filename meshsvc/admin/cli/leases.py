"""``meshsvc lease``: grant, revoke, keepalive, ttl and list."""

from __future__ import annotations

import argparse
import time
from typing import Any

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.exits import CliError
from meshsvc.admin.cli.output import show_row, show_rows
from meshsvc.admin.cli.store_client import StoreClient, shown, store_of

ROW = ["id", "ttl_s", "granted_s", "keys"]


def grant(args: argparse.Namespace) -> int:
    """Grant a lease and print its id; keys put with it go when it ends."""
    show_row(args.output, granted(store_of(args), args.ttl), ROW)
    return exits.OK


def revoke(args: argparse.Namespace) -> int:
    """End a lease; its keys are deleted."""
    store_of(args).post("/v3/lease/revoke", {"ID": args.id})
    show_row(args.output, {"id": f"{args.id:x}", "revoked": True}, ["id", "revoked"])
    return exits.OK


def keepalive(args: argparse.Namespace) -> int:
    """Keep a lease alive until interrupted, or once with --once; 1 when it has ended."""
    store = store_of(args)
    while True:
        left = renewed(store, args.id)
        if left <= 0:
            raise _ended(args.id)
        show_row(args.output, {"id": f"{args.id:x}", "ttl_s": left}, ["id", "ttl_s"])
        if args.once:
            return exits.OK
        time.sleep(left / 3)


def ttl(args: argparse.Namespace) -> int:
    """Print how long a lease has left, and its keys; 1 when it has ended."""
    body = {"ID": args.id, "keys": args.keys}
    answer = store_of(args).post("/v3/lease/timetolive", body)
    left = int(answer.get("TTL", 0))
    if left < 0 and args.output == "table":
        raise _ended(args.id)
    row: dict[str, Any] = {"id": f"{args.id:x}", "ttl_s": left}
    row["granted_s"] = int(answer.get("grantedTTL", 0))
    if args.keys:
        row["keys"] = [shown(key) for key in answer.get("keys", [])]
    show_row(args.output, row, ROW)
    return exits.OK if left >= 0 else exits.UNHEALTHY


def leases(args: argparse.Namespace) -> int:
    """Print every lease."""
    answer = store_of(args).post("/v3/lease/leases", {})
    rows = [{"id": f"{int(each['ID']):x}"} for each in answer.get("leases", [])]
    show_rows(args.output, rows, ["id"])
    return exits.OK


def _ended(lease: int) -> CliError:
    return CliError(exits.UNHEALTHY, f"lease {lease:x} has ended, or never was")


def granted(store: StoreClient, ttl_s: int) -> dict[str, Any]:
    """Grant a lease: its id in hexadecimal, and its seconds."""
    answer = store.post("/v3/lease/grant", {"TTL": ttl_s})
    return {"id": f"{int(answer['ID']):x}", "ttl_s": int(answer["TTL"])}


def renewed(store: StoreClient, lease: int) -> int:
    """Renew a lease; the seconds it then has, at most 0 when it has ended."""
    for result in store.results("/v3/lease/keepalive", {"ID": lease}, store.timeout_s):
        store.close()  # the stream stays open at the other end until we leave
        return int(result.get("TTL", 0))
    return 0

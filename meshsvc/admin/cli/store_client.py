"""Asking the store of a node over the JSON form of etcd's API, without Twisted.

Where the store listens is what the admin side of the node says, unless ``--store`` or
``MESHSVC_STORE`` names it; any server of etcd's v3 gateway will do. Keys and values are
bytes: on the command line and in what is printed they are text, with the bytes that are no
UTF-8 escaped.
"""

from __future__ import annotations

import argparse
import base64
import os
from typing import Any
from urllib.parse import urlsplit

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.client import AdminClient
from meshsvc.admin.cli.exits import CliError
from meshsvc.admin.cli.http_client import JsonClient

LISTENER = "etcd"
"""The name of the listener that serves the store."""

ANSWER_S = 10.0
"""For an answer: a node gives a request up after 7 to 8 s, and says why."""

_ANY_HOST = {"0.0.0.0", "::"}

_CODE_EXITS = {
    1: exits.RETRY,  # cancelled
    3: exits.USAGE,  # invalid argument
    4: exits.RETRY,  # deadline exceeded
    7: exits.DENIED,
    12: exits.USAGE,  # unimplemented
    14: exits.RETRY,  # unavailable
    16: exits.DENIED,
}
"""Exit codes by gRPC status; the others mean that the store answered no."""


class StoreError(CliError):
    """The store answered with an error; ``grpc`` is its status code."""

    def __init__(self, url: str, grpc: int, text: str) -> None:
        code = _CODE_EXITS.get(grpc, exits.UNHEALTHY)
        advice = "; trying again can help" if code == exits.RETRY else ""
        super().__init__(code, f"{url} answered: {text}{advice}")
        self.grpc = grpc


class StoreClient(JsonClient):
    """One address that serves etcd's v3 API as JSON."""

    what = "a store address"
    advice = "is [listen] etcd set there? Or name another with --store URL"

    def __init__(self, url: str, timeout_s: float = ANSWER_S) -> None:
        super().__init__(url, timeout_s)

    def error_in(self, status: int, answer: Any) -> CliError:
        """``{"error", "code", "message"}``, or the error in a stream."""
        error = answer.get("error")
        if isinstance(error, dict):
            return StoreError(self.url, int(error["grpc_code"]), str(error["message"]))
        return StoreError(self.url, int(answer["code"]), str(answer.get("message") or error))

    def results(self, path: str, body: object, silence_s: float | None = None) -> Any:
        """The ``result`` of each line of a stream; raises ``StoreError`` for an ``error``."""
        for line in self.lines(path, body, silence_s):
            if "error" in line:
                raise self.error_in(200, line)
            yield line["result"]


def store_of(args: argparse.Namespace) -> StoreClient:
    """The store that a command is to ask.

    Raises:
        CliError: when the node serves none.
    """
    named = getattr(args, "store", None) or os.environ.get("MESHSVC_STORE")
    if named:
        return StoreClient(named)
    admin = AdminClient(args.admin)
    at = admin.get("/v1/status").get("addresses", {}).get(LISTENER)
    if not at:
        text = "serves no store: set [listen] etcd in its config, or ask a node that has it"
        raise CliError(exits.UNHEALTHY, f"the node at {admin.url} {text}")
    host, _, port = at.rpartition(":")
    if host.strip("[]") in _ANY_HOST:
        host = urlsplit(admin.url).hostname or host
    return StoreClient(f"http://{host}:{port}")


def encoded(text: str | bytes) -> str:
    """Text of the command line as the API wants bytes."""
    data = text if isinstance(text, bytes) else os.fsencode(text)
    return base64.b64encode(data).decode("ascii")


def decoded(value: str | None) -> bytes:
    """Bytes as the API gives them; an absent field is empty."""
    return base64.b64decode(value or "")


def shown(value: str | None) -> str:
    """Bytes as they are printed."""
    return decoded(value).decode("utf-8", "backslashreplace")


def prefix_end(key: bytes) -> bytes:
    """The end of the range of all keys that begin with ``key``; NUL when there is no end."""
    stem = key.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"


def span(args: argparse.Namespace) -> dict[str, str]:
    """The key, or the range, that ``KEY --prefix``, ``--from-key`` or ``--range-end`` means."""
    key = os.fsencode(args.key)
    if args.prefix:
        return {"key": encoded(key or b"\0"), "range_end": encoded(prefix_end(key))}
    if args.from_key:
        return {"key": encoded(key or b"\0"), "range_end": encoded(b"\0")}
    if args.range_end is not None:
        return {"key": encoded(key), "range_end": encoded(args.range_end)}
    return {"key": encoded(key)}


def kv_row(kv: dict[str, Any]) -> dict[str, Any]:
    """One key as a row; numbers are numbers, the lease is in hexadecimal or None."""
    lease = int(kv.get("lease", 0))
    return {
        "key": shown(kv.get("key")),
        "value": shown(kv.get("value")),
        "revision": int(kv.get("mod_revision", 0)),
        "created": int(kv.get("create_revision", 0)),
        "version": int(kv.get("version", 0)),
        "lease": f"{lease:x}" if lease else None,
    }


def lease_id(text: str) -> int:
    """A lease as it is printed: hexadecimal.

    Raises:
        argparse.ArgumentTypeError: when it is not.
    """
    try:
        return int(text, 16)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no lease: write it in hexadecimal") from None

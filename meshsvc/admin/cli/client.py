"""Asking the admin side of a node: its address, and the exit codes of its errors."""

from __future__ import annotations

from typing import Any

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.exits import CliError
from meshsvc.admin.cli.http_client import JsonClient
from meshsvc.errors import CALL_ERRORS

DEFAULT_URL = "http://127.0.0.1:7701"
_STATUS_EXITS = {401: exits.DENIED, 403: exits.DENIED, 409: exits.UNHEALTHY}
_STATUS_EXITS |= {502: exits.UNHEALTHY, 503: exits.RETRY, 504: exits.RETRY}

_NOT_THERE = ("NoSuchTarget", "NoSuchTable", "NoSuchKey", "NoStore")

_ADVICE = {"UnknownVerb": "; `meshsvc call NODE/SHARD sys.info` lists those there are"}


class Answered(CliError):
    """The node answered with an error; ``kind`` is its type, ``status`` that of HTTP."""

    def __init__(self, url: str, status: int, kind: str, text: str) -> None:
        retry = exit_for(status, kind) == exits.RETRY
        advice = "; trying again can help" if retry else _ADVICE.get(kind, "")
        super().__init__(exit_for(status, kind), f"{url} answered {kind}: {text}{advice}")
        self.status = status
        self.kind = kind


def exit_for(status: int, kind: str) -> int:
    """The exit code for a typed error of the admin side."""
    call_error = CALL_ERRORS.get(kind)
    if call_error is not None:
        return exits.RETRY if call_error.retriable else exits.UNHEALTHY
    if kind in _NOT_THERE:
        return exits.UNHEALTHY
    if status in _STATUS_EXITS:
        return _STATUS_EXITS[status]
    return exits.USAGE if 400 <= status < 500 or status == 501 else exits.BUG


class AdminClient(JsonClient):
    """One node's admin address."""

    what = "an admin address"
    advice = "start it with `meshsvc run --config FILE`, or name another with --admin URL"

    def error_in(self, status: int, answer: Any) -> CliError:
        """``{"error": {"kind", "text"}}``."""
        error = answer["error"]
        return Answered(self.url, status, str(error["kind"]), str(error["text"]))

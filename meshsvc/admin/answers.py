"""The pure half of the admin HTTP side: JSON, typed errors, and which Host is served.

Every error is ``{"error": {"kind", "text"}}`` under the status that fits. A request must
be addressed to an IP, to localhost or to a name of this node: a web page that rebinds its
own name to this machine then gets nothing (DNS rebinding).
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Collection
from ipaddress import ip_address

from meshsvc.errors import (
    CallError,
    EpochConflict,
    EpochSuperseded,
    LocalError,
    NoOwner,
    NoSuchTarget,
)
from meshsvc.kv.errors import KvError
from meshsvc.mesh.controller import EpochUsed

MAX_DEPTH = 64
"""Nesting that is written as JSON: twice what any message may hold."""


class NoStore(LocalError):
    """The node that was asked about the store holds no part of it."""


_CALL_STATUS = {"UnknownVerb": 404, "HandlerFailed": 502, "TimedOut": 504, "Cancelled": 503}
_LOCAL_STATUS: dict[type[Exception], int] = {
    NoSuchTarget: 404,
    NoStore: 404,
    NoOwner: 503,
    EpochConflict: 409,
    EpochSuperseded: 409,
    EpochUsed: 409,
}


class Problem(Exception):
    """A request that is refused: HTTP status, and what the JSON error says."""

    def __init__(self, status: int, kind: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.kind = kind
        self.text = text

    def body(self) -> bytes:
        """The JSON error."""
        return to_json({"error": {"kind": self.kind, "text": self.text}})


def problem_of(error: BaseException) -> Problem | None:
    """The answer to an expected failure; None for one that is a fault of this program."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, CallError):
        return Problem(_CALL_STATUS.get(error.kind, 503), error.kind, str(error))
    if isinstance(error, LocalError):
        kind = type(error)
        return Problem(_LOCAL_STATUS.get(kind, 400), kind.__name__, str(error))
    if isinstance(error, KvError):
        return Problem(503 if error.retriable else 409, type(error).__name__, str(error))
    if isinstance(error, NotImplementedError):
        return Problem(501, "NotImplemented", str(error) or "this node cannot do that")
    return None


def to_json(value: object) -> bytes:
    """One line of JSON; bytes become ``{"base64": "..."}`` and keys become strings."""
    return json.dumps(_plain(value, 0), separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "backslashreplace"
    )


def _plain(value: object, depth: int) -> object:
    if isinstance(value, dict | list | tuple | set | frozenset):
        if depth >= MAX_DEPTH:
            return "..."
        if isinstance(value, dict):
            return {_key(key): _plain(item, depth + 1) for key, item in value.items()}
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return {"base64": base64.b64encode(value).decode()}
    if value is None or isinstance(value, str | bool | int):
        return value
    finite = isinstance(value, float) and math.isfinite(value)
    return value if finite else str(value)


def _key(key: object) -> str:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)


def read_object(body: bytes, *required: str) -> dict[str, object]:
    """The JSON object of a request body, with the required keys in it.

    Raises:
        Problem: 400 for what is not such an object.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Problem(400, "BadRequest", f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Problem(400, "BadRequest", "the body is not a JSON object")
    for key in required:
        if key not in found:
            raise Problem(400, "BadRequest", f"the body lacks {key!r}")
    return found


def host_served(header: str | None, names: Collection[str]) -> bool:
    """Whether a Host header is an IP literal, localhost or one of the given names.

    A request without one comes from no browser, hence is served.
    """
    if header is None:
        return True
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(:[0-9]{0,5})?", header.strip())
    if match is None:
        return False
    host = match[1].strip("[]").rstrip(".").lower()
    try:
        ip_address(host)
    except ValueError:
        return host == "localhost" or host in {name.lower() for name in names}
    return True

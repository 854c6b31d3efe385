"""Transactions as they are written on the command line.

``--if 'version(jobs/1) = 0'`` compares ``version``, ``create``, ``mod``, ``value`` or ``lease``
of a key by =, !=, < or >; ``--then`` and ``--else`` take ``put KEY VALUE``, ``get KEY`` or
``del KEY``, the last two with ``--prefix``. Words are quoted as for a shell.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.exits import CliError
from meshsvc.admin.cli.store_client import encoded, prefix_end

_COMPARE = re.compile(r"\s*(\w+)\((.+)\)\s*(=|!=|<|>)(?!=)\s*(.*?)\s*", re.DOTALL)
_RESULTS = {"=": "EQUAL", "!=": "NOT_EQUAL", "<": "LESS", ">": "GREATER"}
_TARGETS = {
    "version": ("VERSION", "version"),
    "create": ("CREATE", "create_revision"),
    "mod": ("MOD", "mod_revision"),
    "lease": ("LEASE", "lease"),
    "value": ("VALUE", "value"),
}


def transaction(
    compares: Sequence[str], then: Sequence[str], other: Sequence[str]
) -> dict[str, Any]:
    """The body of a transaction.

    Raises:
        CliError: (64) naming the text that cannot be read, and how to write it.
    """
    return {
        "compare": [_compare(text) for text in compares],
        "success": [_operation(text) for text in then],
        "failure": [_operation(text) for text in other],
    }


def _compare(text: str) -> dict[str, Any]:
    found = _COMPARE.fullmatch(text)
    if found is None or found[1] not in _TARGETS:
        fields = ", ".join(_TARGETS)
        raise CliError(
            exits.USAGE,
            f"--if {text!r}: write FIELD(KEY) OPERATOR VALUE, for example 'version(a) = 0';"
            f" the fields are {fields}, the operators = != < >",
        )
    target, field = _TARGETS[found[1]]
    value = _compared(text, found[1], found[4])
    row = {"key": encoded(found[2]), "target": target, "result": _RESULTS[found[3]]}
    return row | {field: value}


def _compared(text: str, field: str, value: str) -> str:
    if field == "value":
        words = _words(text, value)
        return encoded(words[0] if len(words) == 1 else value)
    try:
        return str(int(value, 16 if field == "lease" else 10))
    except ValueError:
        raise CliError(exits.USAGE, f"--if {text!r}: {value!r} is not a whole number") from None


def _operation(text: str) -> dict[str, Any]:
    words = _words(text, text)
    name = words[0] if words else ""
    prefix = "--prefix" in words[1:] and name != "put"
    rest = [word for word in words[1:] if not (prefix and word == "--prefix")]
    if name == "put" and len(rest) == 2:
        return {"request_put": {"key": encoded(rest[0]), "value": encoded(rest[1])}}
    if name in ("get", "del") and len(rest) == 1:
        body = {"key": encoded(rest[0])}
        if prefix:
            body["range_end"] = encoded(prefix_end(rest[0].encode()))
        return {"request_range" if name == "get" else "request_delete_range": body}
    text = f"{text!r}: write put KEY VALUE, get KEY [--prefix] or del KEY [--prefix]"
    raise CliError(exits.USAGE, text)


def _words(text: str, part: str) -> list[str]:
    try:
        return shlex.split(part)
    except ValueError as error:
        raise CliError(exits.USAGE, f"{text!r}: {error}") from None

"""How a command ends: the codes of sysexits.h that scripts can rely on, and the error for them."""

from __future__ import annotations

OK = 0
UNHEALTHY = 1
"""The node answered, and the answer is that something is wrong."""
USAGE = 64
UNREACHABLE = 69
BUG = 70
CANNOT_CREATE = 73
IO = 74
RETRY = 75
DENIED = 77
CONFIG = 78
INTERRUPTED = 130
"""What a shell says of a program that SIGINT ended."""

MEANINGS = {
    OK: "ok",
    UNHEALTHY: "unhealthy, or the call failed",
    USAGE: "wrong usage",
    UNREACHABLE: "the node cannot be reached",
    BUG: "a fault of meshsvc",
    CANNOT_CREATE: "a port cannot be had, or a file is there already",
    IO: "input or output failed",
    RETRY: "failed for now, trying again can help",
    DENIED: "denied",
    CONFIG: "the config is wrong",
    INTERRUPTED: "interrupted before it was done",
}


class CliError(Exception):
    """A command that ends with ``code`` and ``text`` on stderr: what, to whom, what to do."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code

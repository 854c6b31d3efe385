"""gRPC status codes, and what a failure of the store is as one."""

from __future__ import annotations

from enum import IntEnum

from meshsvc.errors import RemoteError
from meshsvc.kv.errors import KvError


class Code(IntEnum):
    """The status codes of gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcFailed(RemoteError):
    """How a call ends when it does not end well: ``code`` and ``text`` go to the client."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def status_of(error: BaseException | None) -> tuple[int, str] | None:
    """(code, text) of a failure that was meant for the client; None for a fault of ours."""
    if isinstance(error, KvError | RpcFailed):
        return error.code, error.text
    return None


FAULT = (Code.INTERNAL, "etcdserver: internal error")
"""What a client is told of a fault of ours; the log has the rest."""

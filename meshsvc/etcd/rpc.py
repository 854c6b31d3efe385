"""What a procedure of the API is to whoever carries it: gRPC or JSON.

``Unary`` takes one request and gives one answer. ``Streaming`` opens a ``Stream`` that is fed
requests and talks to an ``Outlet``. Neither knows how messages travel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf.message import Message

from meshsvc.kv.backend import KvBackend

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


class Outlet(Protocol):
    """The way back to the client of a stream."""

    def send(self, message: bytes) -> bool:
        """Send an encoded response; false asks to pause until ``Stream.resume``."""

    def finish(self, code: int = 0, text: str = "") -> None:
        """End the stream with a status; nothing is sent after it."""

    def fail(self, error: BaseException | None) -> None:
        """End the stream with the status that an error is; one of ours is logged as well."""

    def deferred(self) -> Deferred[None]:
        """A new one: the modules of procedures import no Twisted."""


class Stream(Protocol):
    """A call in progress that may see many requests and give many answers."""

    def message(self, request: Any) -> None:
        """The client sent a request.

        Raises:
            RpcFailed, KvError: the stream ends with that status.
        """

    def half_closed(self) -> None:
        """The client sends no more."""

    def resume(self) -> None:
        """The outlet has room again."""

    def close(self) -> None:
        """Nobody listens any more."""


@dataclass(frozen=True, slots=True)
class Unary:
    """One request, one answer."""

    request_type: type[Message]
    response_type: type[Message]
    call: Callable[[KvBackend, Any], Deferred[Any]]
    encode: Callable[[Any], bytes]
    """The store's result as the bytes of a ``response_type``."""
    pieces: Callable[[Any], Iterator[bytes] | None] | None = None
    """For results that may be too large to encode within one turn of the reactor: the same bytes
    piece by piece, or None when the result is small. The first piece has no repeated field, the
    others have nothing else, and each is a ``response_type`` of its own."""


@dataclass(frozen=True, slots=True)
class Streaming:
    """``open`` begins the call. ``one_request``: the client sends exactly one."""

    request_type: type[Message]
    response_type: type[Message]
    open: Callable[[KvBackend, Outlet], Stream]
    one_request: bool = False


Procedure = Unary | Streaming

"""gRPC over HTTP/2 as bytes: message prefixes, request heads, time-outs, trailers.

Source: the gRPC project's "gRPC over HTTP2" protocol description. Messages are not compressed:
a compressed one is refused with UNIMPLEMENTED, which says what is accepted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from meshsvc.etcd.http2.headers import RequestHead, literal_block
from meshsvc.etcd.status import Code, RpcFailed

MAX_MESSAGE_BYTES = 2 * 1024 * 1024
"""etcd's: the largest request (1.5 MiB) and 512 KiB above it, so that the store's own answer
to a request that is a little too large reaches the client."""

MAX_STATUS_TEXT = 2048
"""Characters of a status text: it has to fit one header block, three bytes a character."""

PREFIX_BYTES = 5

TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])\Z")
UNIT_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

CONTENT_TYPE = re.compile(r"application/grpc(?:\+proto)?(?:;.*)?\Z")

HEAD = [(":status", "200"), ("content-type", "application/grpc")]
RESPONSE_HEAD = literal_block(HEAD)
OK_TRAILERS = literal_block([("grpc-status", "0"), ("grpc-message", "")])


@dataclass(frozen=True, slots=True)
class CallHead:
    """What a request's head says to gRPC. ``refusal`` is how the call ends at once, if it does."""

    path: str
    timeout_s: float | None = None
    needs_leader: bool = False
    """The client wants its stream ended when the node has no leader."""
    refusal: bytes | None = None
    """A header block that ends the stream."""


def read_head(head: RequestHead) -> CallHead:
    """Judge a request head; the result is remembered with the head."""
    if isinstance(head.memo, CallHead):
        return head.memo
    call = head.memo = _judge(head)
    return call


def _judge(head: RequestHead) -> CallHead:
    fields = head.fields
    if head.method != "POST":
        return CallHead(head.path, refusal=literal_block([(":status", "405"), ("allow", "POST")]))
    if not CONTENT_TYPE.match(fields.get("content-type", "")):
        return CallHead(head.path, refusal=literal_block([(":status", "415")]))
    encoding = fields.get("grpc-encoding", "identity")
    if encoding != "identity":
        text = f'grpc: Decompressor is not installed for grpc-encoding "{encoding}"'
        return CallHead(head.path, refusal=failure_block(Code.UNIMPLEMENTED, text))
    timeout = fields.get("grpc-timeout")
    if timeout is not None and not TIMEOUT.match(timeout):
        text = f"malformed grpc-timeout: {timeout}"
        return CallHead(head.path, refusal=failure_block(Code.INTERNAL, text))
    return CallHead(head.path, _seconds(timeout), fields.get("hasleader") == "true")


def _seconds(timeout: str | None) -> float | None:
    if timeout is None:
        return None
    return int(timeout[:-1]) * UNIT_S[timeout[-1]]


def status_fields(code: int, text: str) -> list[tuple[str, str]]:
    """The status as header fields; the text percent-encoded as gRPC demands."""
    encoded = quote(text[:MAX_STATUS_TEXT], safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}~")
    return [("grpc-status", str(int(code))), ("grpc-message", encoded)]


def trailers(code: int, text: str) -> bytes:
    """The header block that ends a response whose head was sent."""
    return OK_TRAILERS if code == Code.OK else literal_block(status_fields(code, text))


def failure_block(code: int, text: str) -> bytes:
    """The one header block of a response that is nothing but a status."""
    accepted = ("grpc-accept-encoding", "identity")
    extra = [accepted] if code == Code.UNIMPLEMENTED else []
    return literal_block([*HEAD, *extra, *status_fields(code, text)])


def pack(message: bytes) -> bytes:
    """A message with its prefix."""
    return b"\x00" + len(message).to_bytes(4, "big") + message


class MessageReader:
    """Cuts the messages of one stream out of its data."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def buffered(self) -> int:
        """Bytes held of a message that is not whole."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that ``data`` completes.

        Raises:
            RpcFailed: a message is compressed or larger than ``MAX_MESSAGE_BYTES``.
        """
        buffer = self._buffer
        if not buffer and len(data) >= PREFIX_BYTES:
            size = message_size(data)
            if size + PREFIX_BYTES == len(data):
                return [data[PREFIX_BYTES:]]
        buffer += data
        messages: list[bytes] = []
        while len(buffer) >= PREFIX_BYTES:
            end = PREFIX_BYTES + message_size(buffer)
            if len(buffer) < end:
                break
            messages.append(bytes(buffer[PREFIX_BYTES:end]))
            del buffer[:end]
        return messages


def message_size(prefix: bytes | bytearray) -> int:
    """The length of the message that starts with these five bytes.

    Raises:
        RpcFailed: it is compressed or too large.
    """
    if prefix[0]:
        text = "grpc: compressed flag set with identity or empty encoding"
        raise RpcFailed(Code.INTERNAL, text)
    size = int.from_bytes(prefix[1:PREFIX_BYTES], "big")
    if size > MAX_MESSAGE_BYTES:
        text = f"grpc: received message larger than max ({size} vs. {MAX_MESSAGE_BYTES})"
        raise RpcFailed(Code.RESOURCE_EXHAUSTED, text)
    return size

"""Protobuf as JSON, by the rules of etcd's gateway.

Names are those of the ``.proto`` files, bytes are base64, 64-bit integers are strings, fields
at their default are left out, unknown fields are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from meshsvc.etcd.gateway.paths import HTTP_STATUS
from meshsvc.etcd.status import Code, RpcFailed

MAX_DEPTH = 100
"""Nesting of a request: protobuf's own bound."""

_decoder = json.JSONDecoder()


def parse_requests(body: bytes, request_type: type[Message]) -> Iterator[Message]:
    """The messages in a body: one, or for a stream any number, one after the other.

    Raises:
        RpcFailed: with INVALID_ARGUMENT, naming what is wrong.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _invalid(f"the body is not UTF-8: {error.reason}") from error
    at = _after_space(text, 0)
    while at < len(text):
        try:
            value, at = _decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise _invalid(f"the body is not JSON: {error}") from error
        yield _message(value, request_type)
        at = _after_space(text, at)


def _message(value: Any, request_type: type[Message]) -> Message:
    if not isinstance(value, dict):
        raise _invalid(f"json: cannot unmarshal {type(value).__name__} into a request")
    try:
        return json_format.ParseDict(value, request_type(), max_recursion_depth=MAX_DEPTH)
    except (json_format.ParseError, ValueError, TypeError, RecursionError) as error:
        raise _invalid(str(error) or "the request is nested too deep") from error


def to_json(message: Message) -> str:
    """A response as one line of JSON."""
    fields = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return json.dumps(fields, separators=(",", ":"))


def error_body(code: int, text: str) -> bytes:
    """The body of a request that failed."""
    return json.dumps({"error": text, "code": int(code), "message": text}).encode()


def stream_error(code: int, text: str, reason: str) -> bytes:
    """The last line of a stream that failed; ``reason`` is the phrase of its HTTP status."""
    status = HTTP_STATUS.get(code, 500)
    error = {"grpc_code": int(code), "http_code": status, "message": text, "http_status": reason}
    return json.dumps({"error": error}).encode() + b"\n"


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _invalid(text: str) -> RpcFailed:
    return RpcFailed(Code.INVALID_ARGUMENT, text)

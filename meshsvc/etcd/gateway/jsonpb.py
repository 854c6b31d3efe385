"""Protobuf as JSON, by the rules of etcd's gateway.

Names are those of the ``.proto`` files (camelCase is taken as well), bytes are base64, 64-bit
integers are strings (numbers are taken as well), enums are names or numbers, fields at their
default are left out, unknown fields are ignored, null is the default. Protobuf's own
``json_format`` is three times slower and takes bytes that are not base64 for others.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from meshsvc.etcd.gateway.paths import HTTP_STATUS
from meshsvc.etcd.status import Code, RpcFailed

MAX_DEPTH = 100
"""Nesting of a request: protobuf's own bound."""

URL_SAFE = str.maketrans("-_", "+/")

INTEGERS = {
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_UINT32,
    FieldDescriptor.TYPE_INT32,
}
AS_STRINGS = {FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64}

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
        message = request_type()
        _fill(message, value, 0)
        yield message
        at = _after_space(text, at)


def to_json(message: Message) -> str:
    """A response as one line of JSON."""
    return json.dumps(_fields(message), separators=(",", ":"))


def join_pieces(texts: list[str], name: str) -> str:
    """The JSON of a message from that of its pieces (see ``rpc.Unary``).

    The first piece has all but the repeated field ``name``, the others nothing but that.
    """
    first, *rest = texts
    opening = f'{{"{name}":['
    items = ",".join(text[len(opening) : -2] for text in rest)
    return f"{first[:-1]},{opening[1:]}{items}]}}"


def error_body(code: int, text: str) -> bytes:
    """The body of a request that failed."""
    return json.dumps({"error": text, "code": int(code), "message": text}).encode()


def stream_error(code: int, text: str, reason: str) -> bytes:
    """The last line of a stream that failed; ``reason`` is the phrase of its HTTP status."""
    status = HTTP_STATUS.get(code, 500)
    error = {"grpc_code": int(code), "http_code": status, "message": text, "http_status": reason}
    return json.dumps({"error": error}).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class _Field:
    """How one field is read and written."""

    name: str
    repeated: bool
    nested: bool
    read: Callable[[Any], Any]
    write: Callable[[Any], Any]


@cache
def _fields_of(descriptor: Descriptor) -> dict[str, _Field]:
    """Both names of each field to how it is read; there are as many entries as messages."""
    found = {}
    for f in descriptor.fields:
        nested = f.type == FieldDescriptor.TYPE_MESSAGE
        field = _Field(f.name, f.is_repeated, nested, _reader(f), _writer(f))
        found[f.name] = found[f.json_name] = field
    return found


def _reader(f: FieldDescriptor) -> Callable[[Any], Any]:
    if f.type == FieldDescriptor.TYPE_BYTES:
        return _read_bytes
    if f.type in INTEGERS:
        return _read_integer
    if f.enum_type is not None:
        return _enum_reader(f.enum_type)
    wanted = bool if f.type == FieldDescriptor.TYPE_BOOL else str

    def read(value: Any) -> Any:
        if not isinstance(value, wanted):
            raise TypeError(f"{value!r:.40} is no {wanted.__name__}")
        return value

    return read


def _writer(f: FieldDescriptor) -> Callable[[Any], Any]:
    if f.type == FieldDescriptor.TYPE_MESSAGE:
        return _fields
    if f.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: b64encode(value).decode("ascii")
    if f.type in AS_STRINGS:
        return str
    if f.enum_type is not None:
        names = {v.number: v.name for v in f.enum_type.values}
        return lambda value: names.get(value, value)
    return lambda value: value


def _fill(message: Message, value: Any, depth: int) -> None:
    if not isinstance(value, dict):
        raise _invalid(f"json: cannot unmarshal {type(value).__name__} into a message")
    if depth > MAX_DEPTH:
        raise _invalid("the request is nested too deep")
    known = _fields_of(message.DESCRIPTOR)
    for name, given in value.items():
        field = known.get(name)
        if field is None or given is None:
            continue
        try:
            _set(message, field, given, depth)
        except (TypeError, ValueError, OverflowError) as error:
            raise _invalid(f"field {name}: {error}") from error


def _set(message: Message, field: _Field, given: Any, depth: int) -> None:
    if not field.repeated:
        if field.nested:
            inner = getattr(message, field.name)
            inner.SetInParent()
            _fill(inner, given, depth + 1)
        else:
            setattr(message, field.name, field.read(given))
        return
    if not isinstance(given, list):
        raise TypeError(f"{given!r:.40} is no list")
    into = getattr(message, field.name)
    for each in given:
        if field.nested:
            _fill(into.add(), each, depth + 1)
        else:
            into.append(field.read(each))


def _fields(message: Message) -> dict[str, Any]:
    known = _fields_of(message.DESCRIPTOR)
    found = {}
    for descriptor, value in message.ListFields():
        field = known[descriptor.name]
        found[field.name] = [*map(field.write, value)] if field.repeated else field.write(value)
    return found


def _read_bytes(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no base64 string")
    try:
        return binascii.a2b_base64(value.translate(URL_SAFE), strict_mode=True)
    except ValueError as error:
        raise ValueError(f"illegal base64 data: {error}") from error


def _read_integer(value: Any) -> int:
    if isinstance(value, str):
        return int(value) if len(value) <= 20 else _no_integer(value)
    if isinstance(value, bool) or not (isinstance(value, int) or value == value // 1):
        return _no_integer(value)
    return int(value)


def _no_integer(value: Any) -> int:
    raise ValueError(f"{value!r:.40} is no integer of 64 bits")


def _enum_reader(enum: EnumDescriptor) -> Callable[[Any], int]:
    numbers = {v.name: v.number for v in enum.values}

    def read(value: Any) -> int:
        if isinstance(value, str):
            if value not in numbers:
                raise ValueError(f"unknown value {value!r:.40} for enum {enum.name}")
            return numbers[value]
        return _read_integer(value)

    return read


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _invalid(text: str) -> RpcFailed:
    return RpcFailed(Code.INVALID_ARGUMENT, text)

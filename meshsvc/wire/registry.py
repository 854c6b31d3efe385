"""The registry of wire messages: code, fields and who may send each.

A message is a frozen dataclass; on the wire it is the CBOR array ``[code, field, ...]`` in
the order of the fields. A field is ``int``, ``str``, ``bytes``, ``bool``, ``float`` or a
``tuple`` (an array of anything); its annotation is checked on the way in. Fields after
those this version knows are ignored: a newer minor version added them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from enum import Enum
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from meshsvc.errors import UnknownCode, WireError, WrongRole
from meshsvc.wire.codec import decode, encode


class Role(Enum):
    """Who is on the other end of a stream, hence what it may say."""

    DIALER = "dialer"
    ACCEPTOR = "acceptor"
    PEER = "peer"
    SHARD = "shard"
    SUPERVISOR = "supervisor"

    __hash__ = object.__hash__  # an Enum hashes its name in Python, once for each message


_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "str": (str,),
    "bytes": (bytes,),
    "bool": (bool,),
    "float": (float, int),
    "tuple[object, ...]": (list, tuple),
}

M = TypeVar("M")


class _Entry(NamedTuple):
    code: int
    cls: type
    senders: frozenset[Role]
    names: tuple[str, ...]
    types: tuple[tuple[type, ...], ...]
    exact: tuple[type, ...] | None
    values: Callable[[Any], tuple[object, ...]]


_by_code: dict[int, _Entry] = {}
_by_class: dict[type, _Entry] = {}


def message(code: int, *senders: Role) -> Callable[[type[M]], type[M]]:
    """Enter a frozen dataclass into the registry under a code no other message has."""

    def enter(cls: type[M]) -> type[M]:
        if code in _by_code:
            raise ValueError(f"code {code} is taken by {_by_code[code].cls.__name__}")
        known = fields(cls)  # type: ignore[arg-type]
        names = tuple(field.name for field in known)
        types = tuple(_TYPES[str(field.type)] for field in known)
        exact = (int, *(kinds[0] for kinds in types))
        entry = _Entry(
            *(code, cls, frozenset(senders), names, types),
            *(None if list in exact else exact, _getter(names)),
        )
        _by_code[code] = _by_class[cls] = entry
        return cls

    return enter


def _getter(names: tuple[str, ...]) -> Callable[[Any], tuple[object, ...]]:
    if not names:
        return lambda _: ()
    if len(names) == 1:
        one = attrgetter(names[0])
        return lambda value: (one(value),)
    return attrgetter(*names)


def registered() -> Iterable[tuple[int, type, frozenset[Role]]]:
    """Every message as (code, class, who may send it), for tests and the docs."""
    return [(entry.code, entry.cls, entry.senders) for entry in _by_code.values()]


def code_of(cls: type) -> int:
    """The code of a message, for a hot path that encodes its fields without making one."""
    return _by_class[cls].code


def encode_message(value: object) -> bytes:
    """The body of a frame that carries this message."""
    entry = _by_class[type(value)]
    return encode((entry.code, *entry.values(value)))


def decode_message(body: bytes, sender: Role) -> Any:
    """The message in a frame's body, checked against what ``sender`` may say.

    Raises:
        WrongRole: when that role may not send the message.
        UnknownCode: when no message has the code.
        WireError: when the body is not strict CBOR or a field has the wrong type.
    """
    value = decode(body)
    if type(value) is not list or not value or type(value[0]) is not int:
        raise WireError("a frame must hold an array that starts with a message code")
    entry = _by_code.get(value[0])
    if entry is None:
        raise UnknownCode(f"message code {value[0]} is not known")
    if sender not in entry.senders:
        raise WrongRole(f"a {sender.value} may not send {entry.cls.__name__}")
    # Nearly every message has exactly the types it should and no array: one comparison.
    if tuple(map(type, value)) == entry.exact:
        return entry.cls(*value[1:])
    return entry.cls(*_checked(entry, value))


def _checked(entry: _Entry, value: list[object]) -> list[object]:
    checked: list[object] = []
    count = len(entry.names)
    if len(value) <= count:
        raise WireError(f"{entry.cls.__name__} has {count} fields, {len(value) - 1} came")
    for name, types, item in zip(entry.names, entry.types, value[1:], strict=False):
        kind = type(item)
        if kind not in types:
            raise WireError(f"{entry.cls.__name__}.{name} must be {types[0].__name__}")
        checked.append(tuple(item) if kind is list else item)  # type: ignore[arg-type]
    return checked

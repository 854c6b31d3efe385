"""Strict CBOR: what is sent can be decoded by any peer, what is not strict is refused.

Why it is more than ``dumps`` and ``loads``: the stock decoder accepts trailing bytes and
duplicate keys, and its built-in tags build regular expressions, MIME messages and cyclic
lists from a peer's bytes. Here every tag, indefinite length, duplicate key, trailing byte
and nesting below ``MAX_DEPTH`` ends in a typed ``WireError``.

On the way out a nested container is decoded again before it is accepted, because the encoder
has no option against values that become tags (dates, sets, big integers) or against depth,
and one such value in a batch would cost the whole link. Scalars and flat containers of them,
which hot paths send, are only looked at.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any, NoReturn

from cbor2 import CBORDecodeError, CBORDecoder, dumps

from meshsvc.errors import NotEncodable, TagRefused, TrailingBytes, WireError

MAX_DEPTH = 32
"""Containers within containers; messages nest 4 deep, the rest is left to payloads."""

MAX_PAYLOAD_DEPTH = 28
"""A payload travels inside a batch inside an envelope, which take the difference."""

MAX_INT = 2**64 - 1
MIN_INT = -(2**64)
"""Integers beyond these bounds become tags (RFC 8949, section 3.4.3)."""

# Tags that the decoder has built-in behaviour for, hence never reach its tag hook.
_BUILT_IN_TAGS = (
    *(0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261),
    *(1004, 43000, 55799),
)

_SCALARS = frozenset((bytes, str, bool, float, type(None)))


class _Tag(Exception):
    pass


def _refuse_tag(*_: object) -> NoReturn:
    raise _Tag


_REFUSED = dict.fromkeys(_BUILT_IN_TAGS, _refuse_tag)


def encode(value: object) -> bytes:
    """CBOR of a value that this code built itself and that is known to be strict."""
    return dumps(value)


def encode_payload(value: object) -> bytes:
    """CBOR of a value a user handed in.

    Accepts None, bool, int (64 bit), float, str, bytes, and lists, tuples and dicts of
    those, up to ``MAX_PAYLOAD_DEPTH`` deep.

    Raises:
        NotEncodable: for anything else, naming the type and what to send instead.
    """
    return copy_payload(value)[0]


def copy_payload(value: Any) -> tuple[bytes, object]:
    """As ``encode_payload``, with a copy of the value as a receiver gets it, tuples as lists."""
    kind = type(value)
    if kind in _SCALARS:
        return _dump(value), value
    if kind is int:
        if MIN_INT <= value <= MAX_INT:
            return dumps(value), value
        raise NotEncodable(f"the integer {value!r} is wider than 64 bits: send it as a string")
    data = _dump(value)
    if _is_flat(value, kind):
        return data, dict(value) if kind is dict else list(value)
    try:
        return data, decode(data, MAX_PAYLOAD_DEPTH)
    except WireError as error:
        raise NotEncodable(
            f"a {kind.__name__} payload is not plain CBOR ({error}): send None, bool, int, float,"
            f" str, bytes, and lists and dicts of those, at most {MAX_PAYLOAD_DEPTH} deep"
        ) from error


def _is_flat(value: Any, kind: type) -> bool:
    """Whether a container visibly holds plain scalars only, which is most payloads: looking
    costs half of decoding.
    """
    if kind is dict:
        for key in value:
            if type(key) is not str:
                return False
        value = value.values()
    elif kind is not list and kind is not tuple:
        return False
    for item in value:
        inner = type(item)
        if inner not in _SCALARS and not (inner is int and MIN_INT <= item <= MAX_INT):
            return False
    return True


def _dump(value: object) -> bytes:
    try:
        return dumps(value)
    except Exception as error:  # the encoder raises many types, a user's __len__ any at all
        raise NotEncodable(
            f"a {type(value).__name__} payload cannot be encoded ({error}): send None, bool, int,"
            " float, str, bytes, and lists and dicts of those"
        ) from error


def decode(data: bytes, max_depth: int = MAX_DEPTH) -> object:
    """The one value that ``data`` holds; lists come back as lists, maps as dicts.

    Raises:
        TagRefused: for any tag.
        TrailingBytes: when bytes follow the value.
        WireError: for everything else that is not strict CBOR.
    """
    stream = BytesIO(data)
    try:
        value = CBORDecoder(
            stream,
            tag_hook=_refuse_tag,
            semantic_decoders=_REFUSED,
            max_depth=max_depth,
            allow_indefinite=False,
            allow_duplicate_keys=False,
        ).decode()
    except _Tag:
        raise TagRefused("the frame holds a CBOR tag; none is part of the protocol") from None
    except CBORDecodeError as error:
        if isinstance(error.__cause__, _Tag):
            raise TagRefused("the frame holds a CBOR tag; none is part of the protocol") from None
        raise WireError(f"the frame is not strict CBOR: {error}") from None
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise WireError(f"the frame is not strict CBOR: {error}") from None
    left = len(data) - stream.tell()
    if left:
        raise TrailingBytes(f"{left} bytes follow the value in the frame")
    return value

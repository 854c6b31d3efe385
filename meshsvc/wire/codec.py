"""Strict CBOR: what is sent can be decoded by any peer, what is not strict is refused.

Why it is more than ``dumps`` and ``loads``: the stock decoder accepts trailing bytes and
duplicate keys, and its built-in tags build regular expressions, MIME messages and cyclic
lists from a peer's bytes. Here every tag, indefinite length, duplicate key, trailing byte
and nesting below ``MAX_DEPTH`` ends in a typed ``WireError``.

On the way out a nested container is decoded again before it is accepted, because the encoder
has no option against values that become tags (dates, sets, big integers) or against depth,
and one such value in a batch would cost the whole link. Scalars and flat containers of them,
which hot paths send, are only looked at.

On the way in decoders are used again, because setting one up costs as much as a short frame
takes to decode. One that raised is dropped: what it had begun is nobody's next frame.
"""

from __future__ import annotations

from collections import defaultdict
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
_KEPT_BYTES = 4096
"""A decoder that waits for its next frame keeps the last one alive, unless it is larger."""


class _Tag(Exception):
    pass


def _refuse_tag(*_: object) -> NoReturn:
    raise _Tag


_NOTHING = BytesIO()
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
    kind = type(value)
    try:
        data = dumps(value)
    except Exception as error:  # the encoder raises many types, a user's __len__ any at all
        raise _not_encodable(value, error) from error
    if kind not in _SCALARS and not _is_plain(value, kind):
        _decoded(value, data)
    return data


def copy_payload(value: Any) -> tuple[bytes, object]:
    """As ``encode_payload``, with a copy of the value as a receiver gets it, tuples as lists."""
    kind = type(value)
    try:
        data = dumps(value)
    except Exception as error:
        raise _not_encodable(value, error) from error
    if kind in _SCALARS:
        return data, value
    if not _is_plain(value, kind):
        return data, _decoded(value, data)
    if kind is int:
        return data, value
    return data, dict(value) if kind is dict else list(value)


def _is_plain(value: Any, kind: type) -> bool:
    """Whether a value visibly is an integer of 64 bits or a container of plain scalars only,
    which is most payloads: looking costs half of encoding.
    """
    if kind is dict:
        for key, item in value.items():
            inner = type(item)
            if type(key) is not str or (
                inner not in _SCALARS and (inner is not int or not MIN_INT <= item <= MAX_INT)
            ):
                return False
        return True
    if kind is list or kind is tuple:
        for item in value:
            inner = type(item)
            if inner not in _SCALARS and (inner is not int or not MIN_INT <= item <= MAX_INT):
                return False
        return True
    return kind is int and MIN_INT <= value <= MAX_INT


def _decoded(value: object, data: bytes) -> object:
    if type(value) is int:
        raise NotEncodable(f"the integer {value!r} is wider than 64 bits: send it as a string")
    try:
        return decode(data, MAX_PAYLOAD_DEPTH)
    except WireError as error:
        kind = type(value).__name__
        raise NotEncodable(
            f"a {kind} payload is not plain CBOR ({error}): send None, bool, int, float,"
            f" str, bytes, and lists and dicts of those, at most {MAX_PAYLOAD_DEPTH} deep"
        ) from error


def _not_encodable(value: object, error: Exception) -> NotEncodable:
    return NotEncodable(
        f"a {type(value).__name__} payload cannot be encoded ({error}): send None, bool, int,"
        " float, str, bytes, and lists and dicts of those"
    )


_idle: defaultdict[int, list[CBORDecoder]] = defaultdict(list)  # by depth; one a thread at most


def _new_decoder(max_depth: int) -> CBORDecoder:
    return CBORDecoder(
        _NOTHING,
        tag_hook=_refuse_tag,
        semantic_decoders=_REFUSED,
        max_depth=max_depth,
        allow_indefinite=False,
        allow_duplicate_keys=False,
    )


def decode(data: bytes, max_depth: int = MAX_DEPTH) -> object:
    """The one value that ``data`` holds; lists come back as lists, maps as dicts.

    Raises:
        TagRefused: for any tag.
        TrailingBytes: when bytes follow the value.
        WireError: for everything else that is not strict CBOR.
    """
    idle = _idle[max_depth]
    try:
        decoder = idle.pop()
    except IndexError:
        decoder = _new_decoder(max_depth)
    stream = decoder.fp = BytesIO(data)
    try:
        value = decoder.decode()
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
    if len(data) > _KEPT_BYTES:
        decoder.fp = _NOTHING
    idle.append(decoder)
    return value

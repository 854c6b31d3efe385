"""What the body of an envelope holds: a CBOR array of items, each a positional array.

==========================  =========================================================
``[verb, payload]``         a tell
``[verb, payload, id, ms]`` an ask, with the milliseconds left to its deadline
``[id, payload]``           the reply to ask ``id``
``[id, kind, text, type]``  ask ``id`` failed: a key of ``CALL_ERRORS``; ``type`` is the
                            exception's when the kind is HandlerFailed
``[id]``                    the caller of ask ``id`` is no longer interested
``[id, n, of, bytes, 0]``   part ``n`` of ``of`` of an item too large for one frame
==========================  =========================================================

Items are encoded one by one when they are handed in, so that a bad payload is its sender's
error and never costs the batch; the batch is then a concatenation.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

from meshsvc.errors import CALL_ERRORS, CallError, HandlerFailed, NotEncodable, WireError
from meshsvc.wire.codec import decode, encode, encode_payload

MAX_BATCH = 512 * 1024
"""Bytes of items in one envelope: half a frame, so that its header always fits."""

MAX_ITEM = 64 * 1024 * 1024
"""Bytes of one item; beyond it a payload belongs into a stream or a file."""

MAX_VERB = 128
"""Characters of a verb; it travels with every call and labels its metrics."""

_head16 = Struct(">BH").pack
_head32 = Struct(">BI").pack
_reply32 = Struct(">BBI").pack
_ARRAY, _BYTES = 0x80, 0x40
_SHORT = 65536
"""Numbers from here to 32 bits have one form, of five bytes: those of most calls."""


def join(items: list[bytes]) -> bytes:
    """The body that holds these encoded items."""
    if len(items) == 1:
        return b"\x81" + items[0]
    return _head(_ARRAY, len(items)) + b"".join(items)


def seal(head: bytes, seq: int, body: bytes) -> bytes:
    """The encoded envelope that begins with ``head``, from ``envelope_head``."""
    return b"".join((head, encode(seq), _head(_BYTES, len(body)), body))


def envelope_head(code: int, fields: tuple[object, ...]) -> bytes:
    """The bytes of an envelope up to its ``seq``: its code and the fields before that."""
    return _head(_ARRAY, len(fields) + 3) + encode((code, *fields))[1:]  # without its own head


def _head(major: int, count: int) -> bytes:
    if count < 24:
        return bytes((major + count,))
    if count < 256:
        return bytes((major + 0x18, count))
    if count < _SHORT:
        return _head16(major + 0x19, count)
    return _head32(major + 0x1A, count)


def split(body: bytes) -> list[list[object]]:
    """The items of a body, each a list with at least one element.

    Raises:
        WireError: when the body is not an array of non-empty arrays.
    """
    items = decode(body)
    if type(items) is not list:
        raise WireError("an envelope's body must be an array of items")
    for item in items:
        if type(item) is not list or not item:
            raise WireError("an item must be a non-empty array")
    return items


def verb_prefix(verb: str, fields: int) -> bytes:
    """The bytes of an item of ``fields`` elements up to and with its verb.

    Raises:
        NotEncodable: when the verb is empty, too long or not text.
    """
    if type(verb) is not str or not 0 < len(verb) <= MAX_VERB:
        raise NotEncodable(f"{verb!r} is not a verb: use 1 to {MAX_VERB} characters, app.action")
    return bytes((0x80 + fields,)) + encode(verb)


def ask_suffix(call_id: int, remaining_ms: int) -> bytes:
    """The bytes of an ask behind its payload."""
    if _SHORT <= call_id <= 0xFFFFFFFF:
        return _head32(0x1A, call_id) + encode(remaining_ms)
    return encode(call_id) + encode(remaining_ms)


def reply(call_id: int, payload: object) -> bytes:
    """The item that answers an ask.

    Raises:
        NotEncodable: when the payload has no strict CBOR form or is too large.
    """
    data = encode_payload(payload)
    if len(data) > MAX_ITEM:
        raise NotEncodable(f"a reply of {len(data)} bytes is over the limit of {MAX_ITEM}")
    if _SHORT <= call_id <= 0xFFFFFFFF:
        return _reply32(0x82, 0x1A, call_id) + data
    return b"\x82" + encode(call_id) + data


def failure(call_id: int, error: CallError) -> bytes:
    """The item that ends an ask with an error; texts are cut to 2,000 characters."""
    type_ = error.type if isinstance(error, HandlerFailed) else ""
    text = error.text if isinstance(error, HandlerFailed) else str(error)
    safe = text[:2000].encode("utf-8", "replace").decode("utf-8")
    return encode((call_id, error.kind, safe, type_))


def cancel(call_id: int) -> bytes:
    """The item that tells the other side that nobody waits for an ask."""
    return encode((call_id,))


def parts(call_id: int, item: bytes) -> list[bytes]:
    """An oversize item cut into part items that each fit a batch."""
    size = MAX_BATCH - 64  # room for the part's own fields
    count = -(-len(item) // size)
    return [encode((call_id, n, count, item[n * size : (n + 1) * size], 0)) for n in range(count)]


def error_of(item: list[object]) -> CallError:
    """The error that a failure item carries; an unknown kind reads as HandlerFailed."""
    _, kind, text, type_ = item
    cls = CALL_ERRORS.get(str(kind), HandlerFailed)
    if cls is HandlerFailed:
        return HandlerFailed(str(type_) or str(kind), str(text))
    return cls(str(text))


def asks_in(body: bytes) -> Iterable[int]:
    """The ids of the asks in a body that could not be delivered; nothing if unreadable."""
    try:
        items = split(body)
    except WireError:
        return ()
    return [
        item[2]
        for item in items
        if len(item) == 4 and type(item[0]) is str and type(item[2]) is int
    ]


def replies_in(body: bytes) -> Iterable[int]:
    """The ids of the asks that a body answers; nothing if unreadable."""
    try:
        items = split(body)
    except WireError:
        return ()
    return [item[0] for item in items if type(item[0]) is int and len(item) in (2, 4)]


class Assembly:
    """Puts parts together; bounded, because a peer decides how many it begins.

    Parts of one item arrive in order on one lane, so a gap means the item is lost.
    """

    MOST = 16
    """Unfinished items kept; each sender has one at a time per lane, so this is generous."""

    def __init__(self) -> None:
        self._open: dict[tuple[object, object, object], tuple[int, list[bytes], int]] = {}

    def add(self, source: object, stream: object, item: list[object]) -> bytes | None:
        """Take one part; return the whole item's bytes when it was the last one.

        Raises:
            WireError: when a part is out of order, out of range or over ``MAX_ITEM``.
        """
        key = (source, stream, item[0])
        n, of, data = item[1], item[2], item[3]
        if type(n) is not int or type(of) is not int or type(data) is not bytes:
            raise WireError("a part has fields of the wrong type")
        expected, have, size = self._open.pop(key, (0, [], 0))
        size += len(data)
        if n != expected or not n < of or size > MAX_ITEM + MAX_BATCH:
            raise WireError(f"part {n} of {of} came where part {expected} was due")
        have.append(data)
        if n + 1 == of:
            return b"".join(have)
        while len(self._open) >= self.MOST:
            del self._open[next(iter(self._open))]
        self._open[key] = (n + 1, have, size)
        return None

    def forget(self, source: object) -> None:
        """Drop what a source that is gone had begun."""
        for key in [key for key in self._open if key[0] == source]:
            del self._open[key]

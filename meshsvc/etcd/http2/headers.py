"""Header blocks: decoded by ``hpack``, remembered where that is sound; encoded as literals.

Why it is hard: an HPACK block may change the table that later blocks refer to, so its
meaning depends on all blocks before it. A block that only refers to the table and leaves it
alone means the same until the table changes, and clients repeat such blocks with every
request: those are remembered, and forgotten when any block touches the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from meshsvc.etcd.http2.frames import ErrorCode, Violation

REMEMBERED = 64
"""Blocks remembered a connection: one for each method a client calls, with its options."""

CONNECTION_FIELDS = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
PSEUDO_FIELDS = frozenset((b":method", b":scheme", b":path", b":authority"))
NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+\Z")
VALUE = re.compile(rb"[^\x00\r\n]*\Z")


class Malformed(Exception):
    """A request head that RFC 9113 calls malformed: its stream is reset."""


class RequestHead:
    """What a request's header block says.

    ``memo`` is free for the layer above: what it derives from a head is derived once, as the
    same object is given for each repetition of a block.
    """

    __slots__ = ("content_length", "fields", "memo", "method", "path")

    def __init__(self, method: str, path: str, fields: dict[str, str]) -> None:
        self.method = method
        self.path = path
        self.fields = fields
        self.content_length = _content_length(fields.get("content-length"))
        self.memo: Any = None


class HeaderDecoder:
    """The receiving side of HPACK for one connection."""

    def __init__(self, max_bytes: int) -> None:
        self._decoder = Decoder(max_header_list_size=max_bytes)
        self._known: dict[bytes, RequestHead] = {}
        self.recall = self._known.get
        """The head of a block that was decoded before and means the same still, or None."""

    def decode(self, block: bytes) -> RequestHead:
        """The head of a request.

        Raises:
            Malformed: decoded, but no valid request.
            Violation: not decodable: the connection's table is lost with it.
        """
        fields = self.decode_fields(block)
        head = parse_head(fields)
        if not touches_table(block):
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[block] = head
        return head

    def decode_fields(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """The fields of any block: every one must be decoded, or the next mean nothing.

        Raises:
            Violation: not decodable, or larger than the limit.
        """
        if touches_table(block):
            self._known.clear()
        try:
            return [(bytes(f[0]), bytes(f[1])) for f in self._decoder.decode(block, raw=True)]
        except OversizedHeaderListError as error:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, f"headers too large: {error}") from error
        except (HPACKError, ValueError, IndexError, OverflowError) as error:
            raise Violation(ErrorCode.COMPRESSION_ERROR, f"header block: {error}") from error


def parse_head(fields: Iterable[tuple[bytes, bytes]]) -> RequestHead:
    """Check a field list against RFC 9113, section 8, and make it a head.

    Raises:
        Malformed: says which rule it breaks.
    """
    pseudo: dict[bytes, bytes] = {}
    plain: dict[str, str] = {}
    for name, value in fields:
        if not VALUE.match(value):
            raise Malformed("a field value holds a line break or a zero byte")
        if name.startswith(b":"):
            if name not in PSEUDO_FIELDS or name in pseudo or plain:
                raise Malformed(f"pseudo field {name!r} is unknown, repeated or late")
            pseudo[name] = value
            continue
        _check_name(name, value)
        key = name.decode("ascii")
        text = value.decode("latin-1")
        plain[key] = f"{plain[key]},{text}" if key in plain else text
    missing = {b":method", b":scheme", b":path"} - pseudo.keys()
    if missing or not pseudo[b":path"].startswith((b"/", b"*")):
        raise Malformed("the request has no method, scheme or path")
    method, path = (pseudo[name].decode("latin-1") for name in (b":method", b":path"))
    if b":authority" in pseudo:
        plain.setdefault("host", pseudo[b":authority"].decode("latin-1"))
    return RequestHead(method, path, plain)


def touches_table(block: bytes) -> bool:
    """Whether decoding a block changes the dynamic table (RFC 7541, section 6).

    A block that cannot be followed to its end counts as one that does.
    """
    at, size = 0, len(block)
    while at < size:
        first = block[at]
        if first & 0x80:
            at = _after_integer(block, at, 0x7F)
        elif first & 0x60:  # 01: literal that is added; 001: table size
            return True
        else:
            named = first & 0x0F
            at = _after_integer(block, at, 0x0F)
            for _ in range(1 if named else 2):
                at = _after_string(block, at)
    return at > size


def literal_block(fields: Iterable[tuple[str, str]]) -> bytes:
    """Encode fields without the dynamic table and without Huffman: a constant of bytes.

    ``:status`` 200 is the one field taken from the static table.
    """
    out = bytearray()
    for name, value in fields:
        if (name, value) == (":status", "200"):
            out.append(0x88)
            continue
        out.append(0x00)
        for text in (name.encode("ascii"), value.encode("latin-1")):
            out += _integer(len(text)) + text
    return bytes(out)


def _check_name(name: bytes, value: bytes) -> None:
    if not NAME.match(name):
        raise Malformed(f"field name {name[:40]!r} is not lower-case token characters")
    if name in CONNECTION_FIELDS or (name == b"te" and value != b"trailers"):
        raise Malformed(f"field {name.decode()!r} has no place in HTTP/2")


def _content_length(text: str | None) -> int:
    if text is None:
        return -1
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Malformed(f"content-length {text[:40]!r} is no number")
    return int(text)


def _integer(value: int) -> bytes:
    if value < 0x7F:
        return bytes((value,))
    value -= 0x7F
    out = bytearray((0x7F,))
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _integer_at(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """(value, index after it); an index beyond the block when it is cut off or absurd."""
    value = block[at] & mask if at < len(block) else 0
    at += 1
    if value < mask:
        return value, at
    for shift in (0, 7, 14, 21):
        if at >= len(block):
            break
        value += (block[at] & 0x7F) << shift
        at += 1
        if not block[at - 1] & 0x80:
            return value, at
    return value, len(block) + 1


def _after_integer(block: bytes, at: int, mask: int) -> int:
    return _integer_at(block, at, mask)[1]


def _after_string(block: bytes, at: int) -> int:
    length, at = _integer_at(block, at, 0x7F)
    return at + length

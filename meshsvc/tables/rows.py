"""What a table holds: keys, values, and the version that decides between two rows of a key.

A row's version is (stamp of the hybrid clock, origin, dead). The greater one wins, whoever
compares and in whatever order rows arrive, which makes merging commutative, associative and
idempotent. The origin (one life of one shard) makes versions of different writers distinct;
rows written by one call share one version and one ``Row``.

Keys are ``str``, ``bytes`` or ``int`` of 64 bits, and nothing else: ``1``, ``1.0`` and
``True`` are one key to a dict, so floats and booleans are refused where a key is written.
Values are what a payload may be. What is stored is never the caller's own list or dict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from meshsvc.errors import BadKey, BadTable, TooLarge
from meshsvc.model import Incarnation, NodeId, ShardId
from meshsvc.wire.codec import MAX_INT, MIN_INT, copy_payload, encode

Key = str | bytes | int
KEY_TYPES = frozenset((str, bytes, int))

MAX_KEY_BYTES = 1024
"""Keys travel in every summary that two copies compare."""

MAX_NAME = 63
MAX_ROW_BYTES = 256 * 1024
"""Default of ``[tables] max_row``: larger values belong into a file, and in here its name."""

MAX_BATCH_ROWS = 50_000
"""Rows of one call: about 50 ms of work for each copy."""


class Kind(StrEnum):
    """What a table is: one row a key, the same in the order of keys, or many rows a key."""

    SET = "set"
    ORDERED = "ordered"
    BAG = "bag"


class Origin(NamedTuple):
    """Who wrote a row: one life of one shard of one life of a node."""

    node: NodeId
    incarnation: Incarnation
    shard: ShardId
    shard_incarnation: Incarnation


class Owner(NamedTuple):
    """The life of a node that a row ends with."""

    node: NodeId
    incarnation: Incarnation


class Row(NamedTuple):
    """The version of a row, whether it is a tombstone, and whose it is; shared by a batch."""

    stamp: int
    origin: Origin
    dead: bool
    owner: Owner | None


def beats(new: Row, old: Row) -> bool:
    """Whether one row of a key wins against another; rows do not beat themselves."""
    return new[0] > old[0] or (new[0] == old[0] and new[1:3] > old[1:3])


@dataclass(frozen=True, slots=True)
class Schema:
    """What every node must agree on to share a table."""

    name: str
    kind: Kind = Kind.SET
    owned: bool = False
    resolver: str = "last-writer"

    def wire(self) -> list[object]:
        """As it travels."""
        return [self.name, self.kind.value, self.owned, self.resolver]

    @classmethod
    def read(cls, row: Sequence[Any]) -> Schema:
        """Read what ``wire`` made.

        Raises:
            BadTable: when it is something else.
        """
        try:
            name, kind, owned, resolver = row
            return cls(check_name(name), Kind(kind), bool(owned), str(resolver))
        except (ValueError, TypeError) as error:
            raise BadTable(f"{row!r:.100} is no schema of a table: {error}") from error

    def objection(self, theirs: Schema) -> str:
        """Why two nodes cannot share it, in words; empty when they can."""
        for what in ("kind", "owned", "resolver"):
            mine, other = getattr(self, what), getattr(theirs, what)
            if mine != other:
                return f"{what} is {mine} here and {other} there"
        return ""


def check_name(name: object) -> str:
    """The name of a table.

    Raises:
        BadTable: when it is not 1 to 63 of letters, digits, "-", "_" and ".".
    """
    fit = isinstance(name, str) and 0 < len(name) <= MAX_NAME
    if not fit or not str(name).replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise BadTable(
            f"{name!r:.80} does not name a table: use 1 to {MAX_NAME} letters, digits, - _ and ."
        )
    return str(name)


def check_kind(kind: object) -> Kind:
    """The kind of a table.

    Raises:
        BadTable: when it is none.
    """
    try:
        return Kind(kind)  # type: ignore[arg-type]
    except ValueError:
        raise BadTable(f"{kind!r:.80} is no kind of table: use {', '.join(Kind)}") from None


def check_key(key: object) -> Key:
    """A key that may be written.

    Raises:
        BadKey: when it is of another type, wider than 64 bits, no text or too long.
    """
    kind = type(key)
    if kind is str and key.isascii():  # type: ignore[attr-defined]
        size = len(key)  # type: ignore[arg-type]
    elif kind is str:
        try:
            size = len(key.encode())  # type: ignore[attr-defined]
        except UnicodeEncodeError:
            raise BadKey(f"the key {key!r:.80} holds half a character: no text") from None
    elif kind is bytes:
        size = len(key)  # type: ignore[arg-type]
    elif kind is int and MIN_INT <= key <= MAX_INT:  # type: ignore[operator]
        return key  # type: ignore[return-value]
    else:
        raise BadKey(
            f"{key!r:.80} is no key: use str, bytes or an int of 64 bits (floats and booleans"
            " would be the same key as an int)"
        )
    if size > MAX_KEY_BYTES:
        raise BadKey(f"a key of {size} bytes is over the limit of {MAX_KEY_BYTES}")
    return key  # type: ignore[return-value]


def own_copy(key: Key, value: object, most: int) -> tuple[object, int]:
    """A value as a table stores it, checked and no alias of the caller's, and about its bytes.

    Raises:
        NotEncodable: when it has no strict CBOR form.
        TooLarge: when it takes more than ``most`` bytes.
    """
    kind = type(value)
    if kind is bytes or (kind is str and value.isascii()):  # type: ignore[attr-defined]
        size = len(value)  # type: ignore[arg-type]
    elif value is None or kind is bool or kind is float:
        return value, 9
    else:
        data, value = copy_payload(value)
        size = len(data)
    if size > most:
        raise TooLarge(
            f"the value of {key!r:.80} takes {size} bytes, the limit is {most}"
            " ([tables] max_row): store it elsewhere, and where it is in here"
        )
    return value, size


def element(value: object) -> bytes:
    """What tells the rows of one key of a bag apart."""
    return encode(value)


def key_bytes(key: Key) -> bytes:
    """A key as bytes, different for every key of every type."""
    if isinstance(key, str):
        return b"s" + key.encode("utf-8", "surrogatepass")
    if isinstance(key, bytes):
        return b"b" + key
    return b"i%d" % key

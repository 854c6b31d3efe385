"""What one node says of itself, and how two copies of it become one.

All values of a node are stamped from one counter of its own, so (generation, version) orders
everything it ever said. A greater generation replaces a state, a lower one is ignored, equal
ones merge key by key: the greater version of a key wins. Merging is commutative, associative
and idempotent, so it does not matter over whom, in what order or how often a state arrives.

A part of a state says from which version on it is complete (``base``). It is taken only by
who knows everything up to there; otherwise a version would be skipped for good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Any

from meshsvc.errors import RemoteError
from meshsvc.model import Address, Incarnation, NodeId, NodeInfo
from meshsvc.wire.codec import encode

KEYS = "keys"
"""Lists the keys that exist: an older value of any other key was deleted by its owner."""

BEAT = "beat"
"""Stamped anew by a node that was suspected, to say that it lives."""

INTERNAL = frozenset((KEYS, BEAT))
"""Keys that no subscriber hears of."""

MAX_KEY = 128
"""Characters of a key: they are names, and travel with every value."""

MAX_VALUE_BYTES = 4096
"""Encoded bytes of a value: it is copied to every node of the cluster."""

MAX_STATE_BYTES = 256 * 1024
"""Encoded bytes of all values of a node, so that any state fits a frame of 1 MiB."""

MAX_COUNT = 2**63 - 1
"""No counter of ours reaches it; beyond it, integers are tags or other trouble."""

Values = Mapping[str, tuple[Any, int]]
"""Key to (value, version)."""


class BadRow(RemoteError):
    """A peer sent a row that breaks the rules; it is counted under ``reason`` and ignored."""

    def __init__(self, reason: str, text: str = "") -> None:
        super().__init__(text or reason)
        self.reason = reason


@dataclass(frozen=True)
class EndpointState:
    """Everything known of one life of a node, up to ``version``; never changed in place.

    That is why what follows from it is worked out once and kept.
    """

    node_id: NodeId
    generation: int
    version: int
    values: Values = field(repr=False)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key."""
        found = self.values.get(key)
        return default if found is None else found[0]

    def version_of(self, key: str) -> int:
        """The version of a key, 0 when the node never set it."""
        found = self.values.get(key)
        return 0 if found is None else found[1]

    @cached_property
    def info(self) -> NodeInfo:
        """The identity that the standard keys spell."""
        return NodeInfo(
            self.node_id,
            self.get("name"),
            Incarnation(self.generation),
            _address(self.get("address")),
            self.get("shards"),
        )

    @cached_property
    def public(self) -> Mapping[str, Any]:
        """The values that others hear of, without their versions."""
        return {key: entry[0] for key, entry in self.values.items() if key not in INTERNAL}

    @property
    def left(self) -> bool:
        """Whether the node said that it stopped on purpose."""
        return bool(self.get("status") == "left")

    def since(self, base: int) -> Delta:
        """The part that is newer than ``base``."""
        if base <= 0:
            return Delta(self, 0)
        newer = {key: entry for key, entry in self.values.items() if entry[1] > base}
        return Delta(EndpointState(self.node_id, self.generation, self.version, newer), base)

    @cached_property
    def fingerprint(self) -> int:
        """64 bits of (node, generation, version), the same on every node and in every run."""
        text = f"{self.node_id}.{self.generation}.{self.version}".encode()
        return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")


@dataclass(frozen=True, slots=True)
class Delta:
    """A state without what is at or below ``base``; whole when ``base`` is 0."""

    state: EndpointState
    base: int

    def row(self) -> list[object]:
        """The encodable row ``[node, generation, base, version, [[key, value, version]...]]``."""
        state = self.state
        values = [[key, value, version] for key, (value, version) in state.values.items()]
        return [state.node_id, state.generation, self.base, state.version, values]


class Fit(Enum):
    """What a delta is to one who knows a state."""

    NEWS = "news"
    KNOWN = "known"
    GAP = "gap"


def fit(delta: Delta, mine: EndpointState | None) -> Fit:
    """Whether a delta can be merged into what is known."""
    theirs = delta.state
    if mine is None or theirs.generation > mine.generation:
        return Fit.NEWS if delta.base == 0 else Fit.GAP
    if theirs.generation < mine.generation or theirs.version <= mine.version:
        return Fit.KNOWN
    return Fit.NEWS if delta.base <= mine.version else Fit.GAP


def merge(one: EndpointState, other: EndpointState) -> EndpointState:
    """The least state that holds both (contract GSP-2)."""
    if one.generation != other.generation:
        return one if one.generation > other.generation else other
    values = dict(one.values)
    for key, entry in other.values.items():
        have = values.get(key)
        if have is None or entry[1] > have[1]:
            values[key] = entry
    version = max(one.version, other.version)
    return EndpointState(one.node_id, one.generation, version, _without_deleted(values))


def _without_deleted(values: dict[str, tuple[Any, int]]) -> dict[str, tuple[Any, int]]:
    listed = values.get(KEYS)
    if listed is None:
        return values
    exist, stamp = listed
    gone = [key for key, entry in values.items() if entry[1] < stamp and key not in exist]
    for key in gone:
        del values[key]
    return values


def changed(old: EndpointState, new: EndpointState) -> dict[str, Any]:
    """The keys of one generation that subscribers should hear of; None for a deleted one."""
    found = {
        key: value
        for key, (value, version) in new.values.items()
        if version > old.version_of(key) and key not in INTERNAL
    }
    found.update({key: None for key in old.values if key not in new.values})
    return found


@lru_cache(maxsize=16384)
def _address(text: str) -> Address:
    """As ``Address.parse``; each of a few thousand is read again with every update."""
    return Address.parse(text)


# --- rows from a peer --------------------------------------------------------------------


def parse_delta(row: object) -> Delta:
    """Read the row of a delta.

    Raises:
        BadRow: when anything about it is not as ``Delta.row`` writes it.
    """
    if type(row) is not list or len(row) < 5 or type(row[4]) is not list:
        raise BadRow("malformed", "a delta row has five fields")
    node_id, generation, version = parse_digest([row[0], row[1], row[3]])
    base = _count(row[2])
    values = dict(_entry(entry, version) for entry in row[4])
    if base > version or len(encode(row[4])) > MAX_STATE_BYTES + 64 * len(values):
        raise BadRow("malformed", f"the row of {node_id} contradicts itself or is too large")
    _check_standard(values, whole=base == 0)
    state = EndpointState(node_id, generation, version, _without_deleted(values))
    return Delta(state, base)


def parse_digest(row: object) -> tuple[NodeId, int, int]:
    """Read ``[node, generation, version]``.

    Raises:
        BadRow: when it is anything else.
    """
    if type(row) is not list or len(row) < 3 or type(row[0]) is not str or len(row[0]) != 32:
        raise BadRow("malformed", "a digest row is a node id, a generation and a version")
    return NodeId(row[0]), _count(row[1]), _count(row[2])


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise BadRow("malformed", f"{value!r} is not a count")
    return value


def _entry(entry: object, newest: int) -> tuple[str, tuple[Any, int]]:
    if type(entry) is not list or len(entry) < 3 or type(entry[0]) is not str:
        raise BadRow("malformed", "a value is written as key, value and version")
    key, value, version = entry[0], entry[1], _count(entry[2])
    if not 0 < len(key) <= MAX_KEY or not 0 < version <= newest:
        raise BadRow("malformed", f"the version of {key[:MAX_KEY]!r} is out of its state's range")
    return key, (value, version)


def _check_standard(values: dict[str, tuple[Any, int]], *, whole: bool) -> None:
    for key, right in _STANDARD.items():
        entry = values.get(key)
        if (entry is None and whole) or (entry is not None and not right(entry[0])):
            raise BadRow("identity", f"the value of {key!r} is missing or unusable")
    listed = values.get(KEYS)
    if listed is not None and type(listed[0]) is not list:
        raise BadRow("malformed", "the list of keys is not a list")


def _is_address(value: object) -> bool:
    try:
        return type(value) is str and _address(value).port > 0
    except ValueError:
        return False


_STANDARD: dict[str, Callable[[Any], bool]] = {
    "name": lambda value: type(value) is str and 0 < len(value) <= MAX_KEY,
    "address": _is_address,
    "shards": lambda value: type(value) is int and 1 <= value <= 256,
}
"""Without these a node cannot be dialed or shown: whole states that lack them are refused."""

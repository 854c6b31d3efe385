"""The frozen values every floor speaks in: who (node, shard), which life of it, which mesh.

Nothing here has behaviour beyond ordering, parsing and printing, and nothing here does I/O.
Plain ``NewType`` aliases are used where a value is on the wire in every frame, so that
encoding one costs what encoding an ``int`` or ``str`` costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, NewType

NodeId = NewType("NodeId", str)
"""32 lowercase hex digits, minted once per data directory and never reused."""

Incarnation = NewType("Incarnation", int)
"""One life of a node or of a shard; a later life always has the greater number.

A node's incarnation is its gossip generation (unix seconds at least), a shard's counts the
times its process was started within that life of the node, from 1.
"""

ShardId = NewType("ShardId", int)
"""0 to 255: the position of a shard process within its node."""

MAX_SHARDS = 256
"""Shards of one node: every pair of shards holds two bus connections, so N*N sockets."""


class LinkClass(IntEnum):
    """Which plane a link belongs to; a pair of nodes holds at most one link of each."""

    CONTROL = 0
    DATA = 1


class Sent(IntEnum):
    """What became of a frame or message that was handed to a bounded outbox."""

    ACCEPTED = 0
    FULL = 1
    DISCONNECTED = 2


@dataclass(frozen=True, slots=True, order=True)
class Epoch:
    """(term, attempt), compared lexicographically; both are at least 1 once minted.

    ``NO_EPOCH`` (0.0) sorts below every minted epoch and means "none adopted yet".
    """

    term: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.term}.{self.attempt}"

    @property
    def minted(self) -> bool:
        """Whether a controller may have issued this epoch."""
        return self.term >= 1 and self.attempt >= 1

    @classmethod
    def parse(cls, text: str) -> Epoch:
        """Read ``"T.A"``.

        Raises:
            ValueError: when the text is not two positive integers joined by a dot.
        """
        term, dot, attempt = text.partition(".")
        if not (dot and term.isdecimal() and attempt.isdecimal()):
            raise ValueError(f"{text!r} is not an epoch: write TERM.ATTEMPT, for example 3.1")
        epoch = cls(int(term), int(attempt))
        if not epoch.minted:
            raise ValueError(f"{text!r} is not an epoch: term and attempt start at 1")
        return epoch


NO_EPOCH = Epoch(0, 0)


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A TCP address as ``host`` (name or numeric) and ``port``."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``"host:port"`` or ``"[v6]:port"``.

        Raises:
            ValueError: when there is no host, or the port is not 0 to 65535.
        """
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!r}: put an IPv6 host in brackets, for example [::1]:7700")
        if not (colon and host and port.isdecimal() and int(port) <= 65535):
            raise ValueError(
                f"{text!r} is not an address: write host:port, for example 10.0.0.1:7700"
            )
        return cls(host, int(port))


class ShardAddress(NamedTuple):
    """One shard of one node, whichever life of it is current.

    A named tuple, not a dataclass: it is the key of every message's look-ups, and hashes
    four times faster.
    """

    node: NodeId
    shard: ShardId

    def __str__(self) -> str:
        return f"{self.node[:8]}/{self.shard}"


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What a node says of itself when it connects, and what a roster lists.

    ``name`` is for people and unique within a cluster; ``node_id`` is the identity;
    ``incarnation`` is this life of it; ``address`` is where its peer port can be dialed.
    """

    node_id: NodeId
    name: str
    incarnation: Incarnation
    address: Address
    shards: int


@dataclass(frozen=True, slots=True)
class Roster:
    """The members of one epoch, in the order that decides who dials whom.

    A node awaits data links from members after it and dials members before it.
    """

    epoch: Epoch
    members: tuple[NodeInfo, ...]

    def index(self, node_id: NodeId) -> int | None:
        """The position of a node, or None when the roster leaves it out."""
        for position, member in enumerate(self.members):
            if member.node_id == node_id:
                return position
        return None

    def get(self, node_id: NodeId) -> NodeInfo | None:
        """The entry of a node, or None when the roster leaves it out."""
        for member in self.members:
            if member.node_id == node_id:
                return member
        return None

"""Rosters: who is in a mesh, in which order, and which links that asks of one shard.

Rules kept here:

* the order of a roster is the same whoever computes it from the same nodes: the configured
  names first, in their order, then all others by name;
* of one pair exactly one side dials: the member with the greater index;
* rows from the wire are checked in full before anything is built from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from meshsvc.errors import WireError
from meshsvc.model import (
    MAX_SHARDS,
    Address,
    Epoch,
    Incarnation,
    NodeId,
    NodeInfo,
    Roster,
    ShardId,
)

LinkOwner = Callable[[NodeId, int], ShardId]
"""(peer, shards of this node) -> the shard that owns this node's data link to the peer."""

MAX_MEMBERS = 1024
"""Members of one roster: a row takes at most 400 bytes, and one frame holds them all."""

MAX_TERM = 2**62
"""Terms from beyond are garbage: the next one has to fit the wire's 64 bits as well."""

MAX_HOST = 255
"""Characters of a host or node name (RFC 1035's bound of a domain name)."""

Members = tuple[NodeInfo, ...]


@dataclass(frozen=True, slots=True)
class Duty:
    """One data link that a roster asks of this node.

    ``owner`` is the shard of this node that has to see to it; ``dial`` tells whether that
    shard dials the peer or awaits it.
    """

    peer: NodeInfo
    dial: bool
    owner: ShardId


def order(nodes: Iterable[NodeInfo], names: Sequence[str]) -> Members:
    """The members of a roster in the order that decides who dials whom.

    Args:
        nodes: in any order; of two lives of one node the later is taken.
        names: configured names, which come first and in this order.
    """
    latest: dict[NodeId, NodeInfo] = {}
    for node in nodes:
        held = latest.get(node.node_id)
        if held is None or held.incarnation < node.incarnation:
            latest[node.node_id] = node
    rank = {name: position for position, name in enumerate(names)}
    last = len(rank)
    return tuple(
        sorted(
            latest.values(), key=lambda node: (rank.get(node.name, last), node.name, node.node_id)
        )
    )


def duties(roster: Roster, me: NodeId, shards: int, owner: LinkOwner) -> tuple[Duty, ...]:
    """Every data link that ``me`` is to hold, in the order of the roster.

    Empty when the roster leaves ``me`` out.
    """
    mine = roster.index(me)
    if mine is None:
        return ()
    return tuple(
        Duty(peer, position < mine, owner(peer.node_id, shards))
        for position, peer in enumerate(roster.members)
        if position != mine
    )


def rows(members: Members) -> tuple[object, ...]:
    """Members as encodable rows ``[node id, name, incarnation, host, port, shards]``."""
    return tuple(
        [
            node.node_id,
            node.name,
            node.incarnation,
            node.address.host,
            node.address.port,
            node.shards,
        ]
        for node in members
    )


def from_wire(term: object, attempt: object, members: object) -> Roster:
    """The roster in an epoch and rows that a peer sent.

    Raises:
        WireError: naming what is wrong with which row, or with the epoch.
    """
    epoch = epoch_from_wire(term, attempt)
    if not isinstance(members, list | tuple) or not 1 <= len(members) <= MAX_MEMBERS:
        raise WireError(f"a roster must be an array of 1 to {MAX_MEMBERS} rows")
    nodes = tuple(_node(position, row) for position, row in enumerate(members))
    if len({node.node_id for node in nodes}) != len(nodes):
        raise WireError("a node is listed twice in the roster")
    return Roster(epoch, nodes)


def epoch_from_wire(term: object, attempt: object) -> Epoch:
    """A minted epoch out of two values a peer sent.

    Raises:
        WireError: when either is no integer of at least 1, or absurdly large.
    """
    if not (_within(term, 1, MAX_TERM) and _within(attempt, 1, MAX_TERM)):
        raise WireError(f"{term!r}.{attempt!r} is not an epoch")
    return Epoch(term, attempt)  # type: ignore[arg-type]  # _within checked the types


def plausible(epoch: Epoch) -> bool:
    """Whether a controller may have minted this epoch."""
    return 1 <= epoch.term <= MAX_TERM and 1 <= epoch.attempt <= MAX_TERM


def _within(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _text(value: object) -> bool:
    return type(value) is str and 1 <= len(value) <= MAX_HOST


def _node(position: int, row: object) -> NodeInfo:
    if not isinstance(row, list | tuple) or len(row) < 6:
        raise WireError(f"row {position} of the roster must hold six fields")
    node_id, name, incarnation, host, port, shards = row[:6]
    if not (_text(node_id) and _text(name) and _text(host)):
        raise WireError(f"row {position} of the roster lacks an id, a name or a host")
    if not (_within(incarnation, 1, MAX_TERM) and _within(port, 0, 65535)):
        raise WireError(f"row {position} of the roster has a wrong incarnation or port")
    if not _within(shards, 1, MAX_SHARDS):
        raise WireError(f"row {position} of the roster has {shards!r} shards, 1 to 256 exist")
    return NodeInfo(NodeId(node_id), name, Incarnation(incarnation), Address(host, port), shards)

"""What a node gossips of its control links, so that others find ways around a cut.

In a healthy cluster every node has a link to every other and nobody says anything: silence
means "linked to all members". A node that lacks some links lists the missing ones, or the
ones it has when those are fewer. So the cost is that of the damage: nothing without any, one
value of some bytes a node when one node cannot reach another, and at worst (a cluster of a
thousand nodes cut in two halves that only a third party sees) ``MAX_LISTED`` entries from
each, two kilobytes a node, once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from meshsvc.model import NodeId

KEY = "links"
"""The key of the endpoint state."""

SHORT = 16
"""Characters of a node id that are gossiped: 64 of its 128 random bits tell nodes apart."""

MAX_LISTED = 128
"""Nodes in one claim: it is exact in clusters of up to twice as many. Beyond that a node with
more missing links than this lists some of the links it has, which is true, if not all."""

MISSING, HAVE = "-", "+"


@dataclass(frozen=True, slots=True)
class Claim:
    """``listed`` are the links a node has (``have``), or those it lacks of all there are."""

    have: bool
    listed: frozenset[str]

    def says(self, node: NodeId) -> bool:
        """Whether it says that there is a link to a node."""
        return (node[:SHORT] in self.listed) == self.have


SILENT = Claim(have=False, listed=frozenset())


def joined(one: tuple[NodeId, Claim], other: tuple[NodeId, Claim]) -> bool:
    """Whether two nodes have a link, as far as they say.

    One that denies it is believed, but a list of links may have been cut short: of two of
    those one that names the other is enough.
    """
    said = (one[1].says(other[0]), other[1].says(one[0]))
    return any(said) if one[1].have and other[1].have else all(said)


def parse(text: object) -> Claim:
    """Read a gossiped claim; what is no claim counts as silence."""
    if type(text) is not str or text[:1] not in (MISSING, HAVE):
        return SILENT
    ids = text[1:]
    if len(ids) % SHORT or len(ids) > SHORT * MAX_LISTED:
        return SILENT
    listed = frozenset(ids[at : at + SHORT] for at in range(0, len(ids), SHORT))
    return Claim(text[0] == HAVE, listed)


def spell(missing: Collection[NodeId], have: Iterable[NodeId]) -> str | None:
    """The claim of a node as it is gossiped; None when no link is missing.

    Args:
        missing: the nodes it lacks a link to.
        have: those it has one to, the most useful to others first.
    """
    if not missing:
        return None
    linked = list(have)
    if len(missing) <= min(MAX_LISTED, len(linked)):
        return MISSING + _ids(missing)
    return HAVE + _ids(linked[:MAX_LISTED])


def _ids(nodes: Iterable[NodeId]) -> str:
    return "".join(sorted(node[:SHORT] for node in nodes))

"""The state of discovery as people and metrics see it: CETS' status fields, from facts.

Gathering the facts, which takes questions to other nodes, is the service's affair; this
module only compares. A node that did not answer in time is named as silent and is in none of
the comparisons, so that one stopped node costs a status neither its answer nor its truth.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any

from meshsvc.discovery.places import Place, Standing
from meshsvc.model import NodeId

MAX_TABLES = 4096
"""Tables of one node that are told to others: each takes some 40 bytes of an answer."""

MARK_BYTES = 8
"""Two different lists of nodes share a mark once in 2**64 comparisons."""

Marks = Mapping[str, bytes]
"""Tables by name, each with a mark of the nodes that replicate it: equal for equal nodes."""


@dataclass(frozen=True, slots=True)
class PeerState:
    """What the discovery of one node said of itself."""

    start: int
    tables: Marks


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything a status is made of, by names of nodes.

    ``peers`` are other nodes that are alive: with their state, with None where discovery
    does not run, and with a reason in words where no answer came.
    """

    me: str
    places: Sequence[Place]
    tables: Marks
    peers: Mapping[str, PeerState | str | None]
    reason: str | None


@dataclass(frozen=True, slots=True)
class Status:
    """The fields of CETS' status; every list is of names, sorted, each once.

    Attributes:
        available_nodes: alive, with discovery running; this one included.
        unavailable_nodes: found by the backend, and not reachable.
        joined_nodes: those with the same of our tables as this one, replicated by the same
            nodes; this one included.
        discovered_nodes: what the backend found last.
        discovery_works: whether the last check succeeded; ``reason`` says why not.
        remote_nodes_without_discovery: alive, and do not know of discovery.
        remote_unknown_tables: tables that others have and this node has not, and who has.
        remote_missing_tables: tables of this node that others do not have, and who has not.
        conflict_tables: tables of this node that others replicate with other nodes, and who.
        silent_nodes: alive, and gave no answer in time: not compared.
    """

    available_nodes: list[str]
    unavailable_nodes: list[str]
    joined_nodes: list[str]
    discovered_nodes: list[str]
    discovery_works: bool
    reason: str = ""
    remote_nodes_without_discovery: list[str] = field(default_factory=list)
    remote_unknown_tables: list[str] = field(default_factory=list)
    remote_nodes_with_unknown_tables: list[str] = field(default_factory=list)
    remote_missing_tables: list[str] = field(default_factory=list)
    remote_nodes_with_missing_tables: list[str] = field(default_factory=list)
    conflict_tables: list[str] = field(default_factory=list)
    conflict_nodes: list[str] = field(default_factory=list)
    silent_nodes: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """The fields by name, as JSON can carry them."""
        return asdict(self)

    def gauges(self) -> dict[str, int]:
        """A number for each field: the length of a list, 1 for true."""
        return {
            name: int(value) if isinstance(value, bool) else len(value)
            for name, value in self.row().items()
            if isinstance(value, bool | list)
        }


def marks(replicas: Mapping[str, Collection[NodeId]]) -> dict[str, bytes]:
    """The mark of each table, of at most ``MAX_TABLES`` by name."""
    return {name: _mark(replicas[name]) for name in sorted(replicas)[:MAX_TABLES]}


def _mark(nodes: Collection[NodeId]) -> bytes:
    text = "\n".join(sorted(nodes)).encode()
    return blake2b(text, digest_size=MARK_BYTES).digest()


def state_row(start: int, tables: Marks) -> list[object]:
    """What a node answers when it is asked for its state."""
    return [start, dict(tables)]


def read_state(row: Any) -> PeerState | None:
    """The state in an answer; None when it holds none."""
    if not isinstance(row, list | tuple) or len(row) < 2:
        return None
    start, tables = row[:2]
    if type(start) is not int or not isinstance(tables, dict) or len(tables) > MAX_TABLES:
        return None
    if not all(type(k) is str and type(v) is bytes for k, v in tables.items()):
        return None
    return PeerState(start, tables)


def compare(facts: Facts) -> Status:
    """The status that follows from the facts."""
    ours = facts.tables
    states = {name: s for name, s in facts.peers.items() if isinstance(s, PeerState)}
    unknown, missing, conflict = _Pairs(), _Pairs(), _Pairs()
    joined = {facts.me}
    for name, state in states.items():
        theirs = state.tables
        unknown.add(name, (table for table in theirs if table not in ours))
        missing.add(name, (table for table in ours if table not in theirs))
        both = (table for table in ours if table in theirs)
        conflict.add(name, (table for table in both if theirs[table] != ours[table]))
        if name not in missing.nodes and name not in conflict.nodes:
            joined.add(name)
    return Status(
        available_nodes=sorted({facts.me, *states}),
        unavailable_nodes=_named(facts.places, Standing.UNAVAILABLE),
        joined_nodes=sorted(joined),
        discovered_nodes=_named(facts.places, *Standing),
        discovery_works=facts.reason is None,
        reason=facts.reason or "",
        remote_nodes_without_discovery=sorted(n for n, s in facts.peers.items() if s is None),
        remote_unknown_tables=sorted(unknown.tables),
        remote_nodes_with_unknown_tables=sorted(unknown.nodes),
        remote_missing_tables=sorted(missing.tables),
        remote_nodes_with_missing_tables=sorted(missing.nodes),
        conflict_tables=sorted(conflict.tables),
        conflict_nodes=sorted(conflict.nodes),
        silent_nodes=sorted(n for n, s in facts.peers.items() if isinstance(s, str)),
    )


class _Pairs:
    """Which tables differ in one way, and at which nodes."""

    def __init__(self) -> None:
        self.tables: set[str] = set()
        self.nodes: set[str] = set()

    def add(self, node: str, tables: Iterable[str]) -> None:
        differing = set(tables)
        self.tables |= differing
        if differing:
            self.nodes.add(node)


def _named(places: Sequence[Place], *standings: Standing) -> list[str]:
    return sorted({place.name for place in places if place.standing in standings})

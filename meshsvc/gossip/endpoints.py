"""The states of all endpoints this node knows, and those that are about to replace them.

What arrives is merged into one pending state per endpoint and applied once a turn, however
many messages brought it: a flood of updates costs memory for the endpoints, not for the
messages (contract GSP-4).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum

from meshsvc.gossip.buckets import Buckets
from meshsvc.gossip.states import Delta, EndpointState, Fit, fit, merge
from meshsvc.model import NodeId

MAX_ENDPOINTS = 8192
"""Several times the largest cluster this is tested with; a flood of invented ids stops here."""

MAX_AHEAD_S = 365 * 86400
"""A generation further ahead of this node's clock than a year is no clock but a mistake."""


class Took(Enum):
    """What became of an offered delta."""

    NEWS = "news"
    KNOWN = "known"
    GAP = "gap"
    GENERATION = "generation"
    REMOVED = "removed"
    SELF = "self"
    FULL = "full"


class Endpoints:
    """Applied states, pending ones, and running fingerprints of the applied."""

    def __init__(self, me: NodeId) -> None:
        self._me = me
        self._states: dict[NodeId, EndpointState] = {}
        self._pending: dict[NodeId, EndpointState] = {}
        self._removed: set[NodeId] = set()
        self.buckets = Buckets()
        self.summary = 0
        """XOR of all fingerprints: equal on nodes that know the same."""

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[EndpointState]:
        return iter(self._states.values())

    def get(self, node: NodeId) -> EndpointState | None:
        """The applied state of a node."""
        return self._states.get(node)

    @property
    def pending(self) -> int:
        """How many endpoints have something that is not applied yet."""
        return len(self._pending)

    @property
    def removed(self) -> frozenset[NodeId]:
        """The nodes that will never be listed again."""
        return frozenset(self._removed)

    def newest(self, node: NodeId) -> EndpointState | None:
        """The state of a node with what is pending."""
        return self._pending.get(node) or self._states.get(node)

    def admits(self, node: NodeId, generation: int, now: float) -> Took | None:
        """Why a life of a node is not taken, whoever speaks of it; None when it may be."""
        if node in self._removed:
            return Took.REMOVED
        if generation > now + MAX_AHEAD_S:
            return Took.GENERATION
        if node == self._me:
            return Took.SELF
        known = node in self._states or node in self._pending
        if not known and len(self._states) + len(self._pending) >= MAX_ENDPOINTS:
            return Took.FULL
        return None

    def offer(self, delta: Delta, now: float) -> Took:
        """Merge a delta into what is pending, if it is news and may be taken."""
        theirs = delta.state
        refused = self.admits(theirs.node_id, theirs.generation, now)
        if refused is not None:
            return refused
        newest = self.newest(theirs.node_id)
        how = fit(delta, newest)
        if how is Fit.NEWS:
            merged = theirs if newest is None else merge(newest, theirs)
            self._pending[theirs.node_id] = merged
            return Took.NEWS
        return Took.GAP if how is Fit.GAP else Took.KNOWN

    def apply(self) -> list[tuple[EndpointState | None, EndpointState]]:
        """Publish all that is pending; answers (what was known, what is known now)."""
        pending, self._pending = self._pending, {}
        return [(self.put(state), state) for state in pending.values()]

    def put(self, state: EndpointState) -> EndpointState | None:
        """Publish a state, and answer the one it replaces."""
        node = state.node_id
        old = self._states.get(node)
        self._states[node] = state
        if old is None:
            self.summary ^= state.fingerprint
            self.buckets.add(node, state.fingerprint)
        else:
            difference = state.fingerprint ^ old.fingerprint
            self.summary ^= difference
            self.buckets.change(node, difference)
        return old

    def remove(self, node: NodeId) -> None:
        """Drop a node for good."""
        self._removed.add(node)
        self._pending.pop(node, None)
        old = self._states.pop(node, None)
        if old is not None:
            self.summary ^= old.fingerprint
            self.buckets.drop(node, old.fingerprint)

    def digests(self, nodes: Iterable[NodeId] | None = None) -> list[list[object]]:
        """A row ``[node, generation, version]`` for each of ``nodes``, or for all."""
        states = self if nodes is None else (self._states[node] for node in nodes)
        return [[s.node_id, s.generation, s.version] for s in states]

    def deltas(self, wanted: Iterable[tuple[NodeId, int]]) -> list[Delta]:
        """What is known of each node since a version; unknown nodes are left out."""
        found = ((self._states.get(node), base) for node, base in wanted)
        return [state.since(base) for state, base in found if state is not None]

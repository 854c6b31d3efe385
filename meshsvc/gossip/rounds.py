"""Anti-entropy: SYN says what is known, ACK sends and asks, ACK2 sends what was asked for.

All three are one-way, and each is answered from the state at hand, so a lost one costs a
round and nothing else. A SYN without digests is answered with everything: that is how a node
looks before it joins. Above ``SUMMARY_ABOVE`` endpoints a SYN carries only a fingerprint of
everything, and the digests follow if it differs; where all is the same, nobody answers.

Payloads:
    SYN   [summary, [[node, generation, version]...] or None]
    ACK   [[delta...], [[node, generation, version]...] wanted newer than this]
    ACK2, PUSH   [[delta...]]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from meshsvc.gossip.endpoints import Endpoints, Took
from meshsvc.gossip.states import BadRow, Delta, parse_delta, parse_digest
from meshsvc.model import NodeId
from meshsvc.wire.codec import encode

if TYPE_CHECKING:
    from random import Random

SYN = "gossip.syn"
ACK = "gossip.ack"
ACK2 = "gossip.ack2"
PUSH = "gossip.push"

SUMMARY_ABOVE = 64
"""Endpoints; 64 digests are 3 KiB, in 1,000 nodes they would be a megabyte a second."""

MAX_BYTES = 256 * 1024
"""Deltas of one message; with the largest single state on top it still fits a frame."""

MAX_ROWS = 16384
"""Rows of one message that are looked at: twice as many as there can be endpoints."""

ROUNDS_TO_ALL = 10
"""Every live peer is contacted within this many rounds (contract GSP-3)."""


MAX_PEERS_A_ROUND = 128
"""Peers that get a SYN in one round: a tenth of the largest cluster this is meant for."""


ASK_ALL: tuple[int, list[object]] = (0, [])
"""The SYN of a node that wants to read everything before it joins; it is always answered."""


class Rotation:
    """Takes turns among peers, so that each comes up within a fixed number of rounds.

    The order is this node's own; a new peer comes first.
    """

    def __init__(self, rng: Random, rounds: int, most: int) -> None:
        """``rounds`` until all had their turn, unless that takes over ``most`` a round."""
        self._rng = rng
        self._rounds = rounds
        self._most = most
        self._order: deque[NodeId] = deque()

    def next(self, peers: Collection[NodeId]) -> list[NodeId]:
        """The peers whose turn it is."""
        fresh = sorted(set(peers).difference(self._order))
        self._rng.shuffle(fresh)
        self._order.extendleft(fresh)
        share = min(self._most, -(-len(peers) // self._rounds))
        chosen: list[NodeId] = []
        while len(chosen) < share:
            node = self._order.popleft()
            if node in peers:
                chosen.append(node)
        self._order.extend(chosen)
        return chosen


def turns(rng: Random) -> Rotation:
    """Whose turn it is to get a SYN."""
    return Rotation(rng, ROUNDS_TO_ALL, MAX_PEERS_A_ROUND)


@dataclass(slots=True)
class Lesson:
    """What came of taking deltas.

    Attributes:
        news: the nodes of which something new was said.
        own: deltas that spoke of this node itself.
        missing: rows to ask for, because something before a delta is not known here.
        refused: why others were refused.
    """

    news: list[NodeId] = field(default_factory=list)
    own: list[Delta] = field(default_factory=list)
    missing: list[object] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


class Rounds:
    """The answers to SYN, ACK and ACK2."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    def syn(self) -> list[object]:
        """The SYN of a round."""
        if len(self._endpoints) > SUMMARY_ABOVE:
            return [self._endpoints.summary, None]
        return self.full_syn()

    def full_syn(self) -> list[object]:
        """A SYN with every digest."""
        return [self._endpoints.summary, self._endpoints.digests()]

    def answer_syn(self, payload: Any, now: float) -> tuple[str, list[object]] | None:
        """(verb, payload) of the answer; None when both know the same.

        Raises:
            BadRow: for a payload that is none.
        """
        summary, rows = split(payload, 2)
        if rows is not None and not rows:
            everything = self._endpoints.deltas((s.node_id, 0) for s in self._endpoints)
            return ACK, [_within_budget(everything), []]
        if summary == self._endpoints.summary:
            return None
        if rows is None:
            return SYN, self.full_syn()
        deltas, wanted = self._compare(_rows(rows), now)
        return (ACK, [deltas, wanted]) if deltas or wanted else None

    def _compare(self, rows: list[Any], now: float) -> tuple[list[object], list[object]]:
        behind: list[tuple[int, NodeId, int]] = []
        wanted: list[tuple[int, list[object]]] = []
        told: set[NodeId] = set()
        for row in rows:
            node, generation, version = parse_digest(row)
            told.add(node)
            mine = self._endpoints.get(node)
            if mine is None or generation > mine.generation:
                if self._endpoints.admits(node, generation, now) is None:
                    wanted.append((version, [node, generation, 0]))
            elif generation < mine.generation:
                behind.append((mine.version, node, 0))
            elif version < mine.version:
                behind.append((mine.version - version, node, version))
            elif version > mine.version and self._endpoints.admits(node, 0, now) is None:
                wanted.append((version - mine.version, [node, generation, mine.version]))
        behind.extend((s.version, s.node_id, 0) for s in self._endpoints if s.node_id not in told)
        # Who is furthest behind goes first: the budget may not reach to the end.
        behind.sort(reverse=True)
        wanted.sort(key=lambda item: item[0], reverse=True)
        deltas = self._endpoints.deltas((node, base) for _, node, base in behind)
        return _within_budget(deltas), [row for _, row in wanted]

    def answer_wanted(self, rows: Any) -> list[object]:
        """The deltas that an ACK asks for; a later life than asked for is sent whole.

        Raises:
            BadRow: for rows that are none.
        """
        wanted: list[tuple[NodeId, int]] = []
        for row in _rows(rows):
            node, generation, version = parse_digest(row)
            mine = self._endpoints.get(node)
            if mine is not None and mine.generation >= generation:
                wanted.append((node, version if mine.generation == generation else 0))
        return _within_budget(self._endpoints.deltas(wanted))

    def learn(self, rows: Any, now: float) -> Lesson:
        """Take deltas.

        Raises:
            BadRow: when ``rows`` is no list; a bad row among good ones is only refused.
        """
        lesson = Lesson()
        for row in _rows(rows):
            try:
                delta = parse_delta(row)
            except BadRow as error:
                lesson.refused.append(error.reason)
                continue
            took = self._endpoints.offer(delta, now)
            if took is Took.NEWS:
                lesson.news.append(delta.state.node_id)
            elif took is Took.GAP:
                lesson.missing.append(self._known(delta))
            elif took is Took.SELF:
                lesson.own.append(delta)
            elif took is not Took.KNOWN:
                lesson.refused.append(took.value)
        return lesson

    def _known(self, delta: Delta) -> list[object]:
        theirs = delta.state
        mine = self._endpoints.newest(theirs.node_id)
        same = mine is not None and mine.generation == theirs.generation
        version = mine.version if mine is not None and same else 0
        return [theirs.node_id, theirs.generation, version]


def packed(deltas: Iterable[Delta]) -> list[object]:
    """The payload of an ACK2 or PUSH."""
    return [_within_budget(deltas)]


def _within_budget(deltas: Iterable[Delta]) -> list[object]:
    rows: list[object] = []
    left = MAX_BYTES
    for delta in deltas:
        row = delta.row()
        rows.append(row)
        left -= len(encode(row))
        if left <= 0:
            break
    return rows


def split(payload: Any, count: int) -> list[Any]:
    """The first ``count`` fields of a payload.

    Raises:
        BadRow: when there are fewer.
    """
    if type(payload) is not list or len(payload) < count:
        raise BadRow("malformed", f"the payload has not {count} fields")
    return payload[:count]


def _rows(rows: Any) -> list[Any]:
    if type(rows) is not list or len(rows) > MAX_ROWS:
        raise BadRow("malformed", "rows are a list, and not too many")
    return rows

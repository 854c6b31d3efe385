"""Anti-entropy: SYN says what is known, ACK sends and asks, ACK2 sends what was asked for.

All three are one-way, and each is answered from the state at hand, so a lost one costs a
round and nothing else. A SYN without digests is answered with everything: that is how a node
looks before it joins. Where all is the same, nobody answers.

Above ``SUMMARY_ABOVE`` endpoints a SYN carries only a fingerprint of everything. If that
differs, the answer is a SYN with the fingerprints of all buckets, and the answer to that one
with the digests of those buckets that differ; then it goes on as above.

Payloads:
    SYN   [summary, None]                                 the same as yours?
    SYN   [summary, 1024 bytes]                           in which buckets not?
    SYN   [summary, [[node, generation, version]...]]     this is all I know
    SYN   [summary, [[node, generation, version]...], [bucket...]]     all of these buckets
    ACK   [[delta...], [[node, generation, version]...] wanted newer than this]
    ACK2, PUSH   [[delta...]]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from meshsvc.gossip.buckets import COUNT
from meshsvc.gossip.endpoints import Endpoints, Took
from meshsvc.gossip.states import BadRow, Delta, parse_delta, parse_digest
from meshsvc.model import NodeId
from meshsvc.wire.codec import encode

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

ASK_ALL: tuple[int, list[object]] = (0, [])
"""The SYN of a node that wants to read everything before it joins; it is always answered."""


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
        return [self._endpoints.summary, self._endpoints.digests()]

    def answer_syn(self, payload: Any, now: float) -> tuple[str, list[object]] | None:
        """(verb, payload) of the answer; None when both know the same.

        Raises:
            BadRow: for a payload that is none.
        """
        summary, told = split(payload, 2)
        mine, buckets = self._endpoints.summary, self._endpoints.buckets
        if type(told) is list and not told and len(payload) == 2:
            everything = self._endpoints.deltas((s.node_id, 0) for s in self._endpoints)
            return ACK, [_within_budget(everything), []]
        if summary == mine:
            return None
        if told is None:
            return SYN, [mine, buckets.packed()]
        if type(told) is bytes:
            differ = buckets.differing(told)
            return SYN, [mine, self._endpoints.digests(buckets.nodes(differ)), differ]
        scope = buckets.nodes(_bucket_numbers(payload[2])) if len(payload) > 2 else None
        deltas, wanted = self._compare(_rows(told), scope, now)
        return (ACK, [deltas, wanted]) if deltas or wanted else None

    def _compare(
        self, rows: list[Any], scope: list[NodeId] | None, now: float
    ) -> tuple[list[object], list[object]]:
        """(deltas, wanted); ``scope`` holds the nodes the rows are about, None for all."""
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
        for state in self._endpoints if scope is None else map(self._endpoints.get, scope):
            if state is not None and state.node_id not in told:
                behind.append((state.version, state.node_id, 0))
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


def _bucket_numbers(numbers: Any) -> list[int]:
    if type(numbers) is not list or len(numbers) > COUNT:
        raise BadRow("malformed", "the numbers of buckets are a list")
    if not all(type(number) is int and 0 <= number < COUNT for number in numbers):
        raise BadRow("malformed", f"buckets are numbered 0 to {COUNT - 1}")
    return numbers

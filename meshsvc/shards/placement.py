"""Rendezvous hashing: which node and which shard own a key, computed by everyone alike.

Every candidate gets a score from the key and its own seed, and the highest score owns the key
(Thaler and Ravishankar 1998). A candidate that joins takes only the keys it now wins, about
1/(N+1) of them, and one that leaves gives up only its own. Nodes are weighted by their number
of shards (score ``ln(u)/w``, Schindelhauer and Schomaker 2005); then the node's shards compete.

The rules: scores are integers mixed by the finaliser of splitmix64 over an 8-byte blake2b of the
key, so that they are equal on every machine and Python; golden vectors pin them. Group 0, the
control group, is decided before any hash is taken and is always on shard 0.

Why the arithmetic looks odd: all candidates are mixed at once, as 64-bit lanes 128 bits apart
in one Python integer. A lane times a 64-bit constant stays within its 128 bits, so lanes never
touch, and ten candidates cost half of what a loop over them does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from math import log
from struct import Struct
from typing import Final

from zope.interface import implementer

from meshsvc.interfaces import IPlacement
from meshsvc.model import MAX_SHARDS, NodeId, ShardAddress, ShardId

_WORD: Final = 2**64 - 1
_GAMMA: Final = 0x9E3779B97F4A7C15
_MIX_1: Final = 0xBF58476D1CE4E5B9
_MIX_2: Final = 0x94D049BB133111EB

CONTROL_GROUP = 0
"""The group that elects the controller; it lives on shard 0 whatever the number of shards."""

MAX_TABLES = 64
"""Candidate sets remembered: a shard routes by one at a time, a change of view by two."""

MAX_PEERS = 4096
"""Owners of links remembered; a cluster has hundreds of nodes at most."""

Candidate = tuple[NodeId, int]
"""A node and its number of shards."""


def mix(word: int) -> int:
    """The finaliser of splitmix64: a bijection of 64-bit words that scatters every bit."""
    word = ((word ^ word >> 30) * _MIX_1) & _WORD
    word = ((word ^ word >> 27) * _MIX_2) & _WORD
    return word ^ word >> 31


def key_hash(key: str | bytes) -> int:
    """64 bits of a key; a str counts as its UTF-8 bytes (surrogates included)."""
    data = key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


class Contest:
    """Seeds that compete for keys; all of them are scored at once."""

    __slots__ = ("_low", "_ones", "_seeds", "_size", "_unpack")

    def __init__(self, seeds: Sequence[int]) -> None:
        count = len(seeds)
        self._ones = sum(1 << 128 * lane for lane in range(count))
        self._low = self._ones * _WORD
        self._seeds = sum(seed << 128 * lane for lane, seed in enumerate(seeds))
        self._size = 16 * count
        self._unpack = Struct("<" + "Q8x" * count).unpack

    def scores(self, word: int) -> tuple[int, ...]:
        """``mix(word ^ seed)`` of every seed, in their order."""
        low = self._low
        lanes = word * self._ones ^ self._seeds
        lanes = ((lanes ^ lanes >> 30 & low) * _MIX_1) & low
        lanes = ((lanes ^ lanes >> 27 & low) * _MIX_2) & low
        lanes ^= lanes >> 31 & low
        return self._unpack(lanes.to_bytes(self._size, "little"))

    def winner(self, word: int) -> int:
        """The position of the highest score."""
        scores = self.scores(word)
        return scores.index(max(scores))


@lru_cache(maxsize=MAX_SHARDS)
def _shard_contest(shards: int) -> Contest:
    # The seeds of splitmix64's own stream, so that those of N shards begin those of N + 1.
    return Contest([mix((index + 1) * _GAMMA & _WORD) for index in range(shards)])


class _Table:
    """One set of candidates, ready to score keys; sorted, so that any order answers alike."""

    __slots__ = ("_nodes", "_owners", "_shards", "_weights")

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        able = sorted((node, shards) for node, shards in candidates if shards > 0)
        self._nodes = Contest([key_hash(node) for node, _ in able])
        self._shards = [_shard_contest(shards) for _, shards in able]
        self._owners = [
            [ShardAddress(node, ShardId(index)) for index in range(shards)] for node, shards in able
        ]
        counts = [shards for _, shards in able]
        # Equal weights change nothing, and comparing the integers is cheaper.
        self._weights = counts if len(set(counts)) > 1 else None

    def owner(self, key: str | bytes) -> ShardAddress | None:
        """The owner of a key, or None when no candidate has a shard."""
        if not self._owners:
            return None
        word = key_hash(key)
        if self._weights is None:
            node = self._nodes.winner(word)
        else:
            node = self._weighted(word, self._weights)
        return self._owners[node][self._shards[node].winner(word)]

    def _weighted(self, word: int, weights: list[int]) -> int:
        # log() may differ in its last bit between C libraries; for that to change an owner, two
        # of the scores would have to agree in 52 bits.
        scores = [
            log((score + 1) / 2**64) / weight
            for score, weight in zip(self._nodes.scores(word), weights, strict=True)
        ]
        return scores.index(max(scores))


@implementer(IPlacement)
class Rendezvous:
    """The placement that meshsvc ships: rendezvous over nodes, then over the node's shards."""

    name = "rendezvous"

    def __init__(self) -> None:
        self._tables: dict[tuple[Candidate, ...], _Table] = {}
        self._last: tuple[tuple[Candidate, ...], _Table] | None = None

    def owner(self, key: str | bytes, candidates: Sequence[Candidate]) -> ShardAddress | None:
        """The owner of a key, or None when there are no candidates with a shard.

        Pass the same tuple for as long as the candidates are the same: that is what makes a
        call cheap. Other sequences give the same answers.
        """
        last = self._last
        # A tuple cannot change, so being the same object is being equal.
        if last is not None and last[0] is candidates:
            return last[1].owner(key)
        return self._table(tuple(candidates)).owner(key)

    def _table(self, candidates: tuple[Candidate, ...]) -> _Table:
        table = self._tables.get(candidates)
        if table is None:
            if len(self._tables) >= MAX_TABLES:
                self._tables.clear()
            table = self._tables[candidates] = _Table(candidates)
        self._last = (candidates, table)
        return table


@lru_cache(maxsize=MAX_PEERS)
def link_owner(peer: NodeId, shards: int) -> ShardId:
    """The shard that holds the data link to a peer; control links are shard 0's.

    Both ends compute this, each with its own number of shards. ``shards`` is at least 1.
    """
    return shard_of(peer, shards)


def group_shard(group: int, shards: int) -> ShardId:
    """The shard of a node that hosts a group; the control group is always on shard 0.

    Raises:
        ValueError: when the group is negative or wider than 64 bits: it is never aliased.
    """
    if group == CONTROL_GROUP:
        return ShardId(0)
    if not 0 < group <= _WORD:
        raise ValueError(f"{group} is no group: they are 0 to 2**64 - 1")
    return shard_of(group.to_bytes(8, "big"), shards)


def shard_of(key: str | bytes, shards: int) -> ShardId:
    """The shard of a node that owns a key, among its ``shards``.

    Raises:
        ValueError: when ``shards`` is not 1 to 256.
    """
    if not 1 <= shards <= MAX_SHARDS:
        raise ValueError(f"a node has 1 to {MAX_SHARDS} shards, not {shards}")
    return ShardId(_shard_contest(shards).winner(key_hash(key)))

"""Which shard gets the next connection, and what is still on the way to each.

Rules: shards that listen take turns, so that clients spread evenly; one that has ``CAP``
connections on the way that it did not take yet is passed over; so is one whose oldest has
been on the way for over ``LATE_S``, as long as another can serve. A turn that is passed
over is not made up for, or a shard that comes back would be flooded.
"""

from __future__ import annotations

from bisect import bisect_right, insort

from meshsvc.model import ShardId

CAP = 64
"""Connections on the way to one shard: what a stopped shard can hold up at most. It also
keeps descriptors in flight far below the usual limit of 1024 of a process."""

LATE_S = 1.0
"""A live reactor takes a connection within milliseconds."""


class Handover:
    """Turns by listener, and connections on the way by shard and sequence number."""

    def __init__(self, cap: int = CAP, late_s: float = LATE_S) -> None:
        self._cap = cap
        self._late_s = late_s
        self._listening: dict[str, list[ShardId]] = {}
        self._last: dict[str, ShardId] = {}
        self._on_way: dict[ShardId, dict[int, float]] = {}
        self._seq = 0

    def join(self, listener: str, shard: ShardId) -> None:
        """A shard asks for its share of a listener; asking twice changes nothing."""
        shards = self._listening.setdefault(listener, [])
        if shard not in shards:
            insort(shards, shard)

    def leave(self, shard: ShardId) -> None:
        """A shard's process ended: what was on the way to it is gone with it."""
        for shards in self._listening.values():
            if shard in shards:
                shards.remove(shard)
        self._on_way.pop(shard, None)

    def listens(self, listener: str, shard: ShardId) -> bool:
        """Whether a shard takes connections of a listener."""
        return shard in self._listening.get(listener, ())

    def wanted(self, listener: str) -> bool:
        """Whether any shard takes connections of a listener."""
        return bool(self._listening.get(listener))

    def choose(self, listener: str, now: float) -> ShardId | None:
        """Whose turn it is; None when every shard that listens is full, or none does."""
        shards = self._listening.get(listener, [])
        start = bisect_right(shards, self._last[listener]) if listener in self._last else 0
        free = [shard for shard in (*shards[start:], *shards[:start]) if self.has_room(shard)]
        prompt = [shard for shard in free if not self._late(shard, now)]
        if not free:
            return None
        chosen = (prompt or free)[0]
        self._last[listener] = chosen
        return chosen

    def crowded(self, listener: str, now: float) -> bool:
        """Whether all that listen are full, but some are quick enough to be waited for."""
        shards = self._listening.get(listener, ())
        full = bool(shards) and not any(self.has_room(shard) for shard in shards)
        return full and not all(self._late(shard, now) for shard in shards)

    def has_room(self, shard: ShardId) -> bool:
        """Whether a shard is below its cap."""
        return len(self._on_way.get(shard, ())) < self._cap

    def sent(self, shard: ShardId, now: float) -> int:
        """A connection is about to leave for a shard; its sequence number."""
        self._seq += 1
        self._on_way.setdefault(shard, {})[self._seq] = now
        return self._seq

    def settled(self, shard: ShardId, seq: int) -> bool:
        """A connection arrived or was not sent after all; false when it was not on the way."""
        return self._on_way.get(shard, {}).pop(seq, None) is not None

    def on_way(self, shard: ShardId) -> int:
        """How many connections a shard did not take yet."""
        return len(self._on_way.get(shard, ()))

    def _late(self, shard: ShardId, now: float) -> bool:
        # Sequence numbers only rise, so the first entry is the oldest.
        oldest = next(iter(self._on_way.get(shard, {}).values()), now)
        return now - oldest > self._late_s

"""Which shards have fallen silent, counted in the supervisor's own ticks.

Wall time would not do: a supervisor that was stopped for a minute, or a machine that slept,
would find every shard a minute late and kill them all. A tick that did not happen cannot
count against anybody.
"""

from __future__ import annotations

import math

from meshsvc.model import ShardId

TICK_S = 1.0
"""How often shards beat and the supervisor looks: idle processes wake no more often."""

_LEAST_TICKS = 2
"""A beat may come just after one tick and the next just after the one after next."""


class BeatWatch:
    """Counts for each watched shard the ticks since its last beat."""

    def __init__(self, timeout_s: float) -> None:
        self._limit = max(_LEAST_TICKS, math.ceil(timeout_s / TICK_S))
        self._missed: dict[ShardId, int] = {}

    def watch(self, shard: ShardId) -> None:
        """Expect beats of a shard from now on."""
        self._missed[shard] = 0

    def forget(self, shard: ShardId) -> None:
        """Expect none any more: its process ended or was told to."""
        self._missed.pop(shard, None)

    def beat(self, shard: ShardId) -> None:
        """A beat came; one of a shard that is not watched is too late to matter."""
        if shard in self._missed:
            self._missed[shard] = 0

    def tick(self) -> list[ShardId]:
        """One more tick passed; the shards that are silent for too long now."""
        for shard in self._missed:
            self._missed[shard] += 1
        return [shard for shard, missed in self._missed.items() if missed > self._limit]

    @property
    def all_beat(self) -> bool:
        """Whether no watched shard has missed more than what a busy machine explains."""
        return all(missed <= _LEAST_TICKS for missed in self._missed.values())

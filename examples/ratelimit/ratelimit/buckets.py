"""Token buckets of one shard: pure counting, with the time handed in.

Why it is more than a dict: a key's bucket lives in the shard that owns the key, and owners
change when nodes come and go. A bucket that is not here may have been emptied a moment ago
somewhere else, or here before it was evicted. So a bucket made soon after such a loss of
memory starts with what has accrued since, not full: never more than the limit is handed
out, and after ``burst / rate`` seconds nothing of the caution is left.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

MOST_BUCKETS = 100_000
"""About 25 MB a shard; beyond it the bucket that was longest unused is forgotten."""


@dataclass(frozen=True, slots=True)
class Limit:
    """``rate`` tokens a second, ``burst`` at most at once."""

    rate: float = 10.0
    burst: int = 10

    @property
    def fill_s(self) -> float:
        """Seconds from empty to full."""
        return self.burst / self.rate


@dataclass(frozen=True, slots=True)
class Decision:
    """What a request gets; ``retry_after_s`` is when a token will be there, 0 if allowed."""

    allowed: bool
    remaining: int
    retry_after_s: float


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float
    view: int


class Buckets:
    """All buckets of a shard.

    A *view* is one belief about who owns what; ``ownership_changed`` starts the next.
    """

    def __init__(self, limit: Limit, now: float, most: int = MOST_BUCKETS) -> None:
        self._limit = limit
        self._most = most
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._view = 0
        self._changed = now  # a start is a change: who knows what the last life handed out
        self._forgot = now

    def __len__(self) -> int:
        return len(self._buckets)

    def ownership_changed(self, now: float) -> None:
        """This shard's view of which shard owns which key is another from now on."""
        self._view += 1
        self._changed = now

    def take(self, key: str, now: float) -> Decision:
        """Take one token for a key that this shard owns."""
        bucket = self._current(key, now)
        if bucket.tokens >= 1:
            bucket.tokens -= 1
            return Decision(True, int(bucket.tokens), 0.0)
        return Decision(False, 0, (1 - bucket.tokens) / self._limit.rate)

    def _current(self, key: str, now: float) -> _Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            self._make_room()
            tokens = self._accrued(0.0, max(self._changed, self._forgot), now)
            bucket = self._buckets[key] = _Bucket(tokens, now, self._view)
            return bucket
        tokens = self._accrued(bucket.tokens, bucket.at, now)
        if self._view - bucket.view > 1:
            # Owned before and owned now, but perhaps not in a view between the two.
            tokens = min(tokens, self._accrued(0.0, self._changed, now))
        bucket.tokens, bucket.at, bucket.view = tokens, now, self._view
        self._buckets.move_to_end(key)
        return bucket

    def _accrued(self, tokens: float, since: float, now: float) -> float:
        return min(float(self._limit.burst), tokens + self._limit.rate * max(0.0, now - since))

    def _make_room(self) -> None:
        while len(self._buckets) >= self._most:
            _, oldest = self._buckets.popitem(last=False)
            # Every bucket forgotten so far was last used at this time or before it.
            self._forgot = oldest.at


def retry_after(decision: Decision) -> int:
    """The Retry-After header of a refusal: whole seconds, at least 1."""
    return max(1, math.ceil(decision.retry_after_s))

"""Leases: which there are, which the log decides; and when they end, which the leader's clock does.

Why there are two classes: ``LeaseTable`` is the same on every replica and changes only through
the log. ``LeaseClock`` is the leader's own. It never ends a lease: it says which have run out,
and what it says becomes true when a revoke has been committed. A keepalive touches the clock
only, so it costs no write.

A new leader cannot know when the last keepalive was. It gives every lease its whole time
anew (or what was left at the last checkpoint, for leases so long that starting anew on each
change of leader would never end them), counted from when it became leader, plus an election
time-out. So a lease can end late after a change of leader, and never early.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from meshsvc.kv.api import MAX_LEASE_TTL_S
from meshsvc.kv.errors import LeaseExists, LeaseNotFound, LeaseTtlTooLarge

MIN_LEASE_TTL_S = 2
"""One and a half election time-outs of 1 s, rounded up as etcd does: a lease has to outlast a
change of leader for its holder to have a chance to renew it."""

CHECKPOINT_S = 300.0
"""How often what is left of a long lease is written to the log (etcd's interval)."""

MAX_DUE = 1_000
"""Leases that are ended, or checkpointed, in one turn (etcd's rate a second)."""

RETRY_S = 3.0
"""When a lease that has run out is named again, should its revoke have got lost (etcd's)."""


@dataclass(slots=True)
class Lease:
    """A lease as the log has it; ``remaining_s`` 0 means no checkpoint since it was renewed."""

    lease_id: int
    ttl_s: int
    remaining_s: int = 0
    keys: set[bytes] = field(default_factory=set)


class LeaseTable:
    """All leases of a replica and the keys that hang on them."""

    __slots__ = ("_leases",)

    def __init__(self) -> None:
        self._leases: dict[int, Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, lease_id: object) -> bool:
        return lease_id in self._leases

    def __iter__(self) -> Iterator[Lease]:
        """All leases in the order they were granted."""
        return iter(self._leases.values())

    def get(self, lease_id: int) -> Lease | None:
        """A lease, None when there is none with that id."""
        return self._leases.get(lease_id)

    def grant(self, lease_id: int, ttl_s: int) -> Lease:
        """Add a lease; less than ``MIN_LEASE_TTL_S`` becomes that.

        Raises:
            LeaseNotFound: for id 0, as etcd has it.
            LeaseTtlTooLarge, LeaseExists: as they say.
        """
        if not lease_id:
            raise LeaseNotFound
        if ttl_s > MAX_LEASE_TTL_S:
            raise LeaseTtlTooLarge
        if lease_id in self._leases:
            raise LeaseExists
        lease = self._leases[lease_id] = Lease(lease_id, max(ttl_s, MIN_LEASE_TTL_S))
        return lease

    def revoke(self, lease_id: int) -> list[bytes]:
        """Remove a lease.

        Returns:
            its keys in order, which are now to be deleted.

        Raises:
            LeaseNotFound: when there is none.
        """
        lease = self._leases.pop(lease_id, None)
        if lease is None:
            raise LeaseNotFound
        return sorted(lease.keys)

    def checkpoint(self, lease_id: int, remaining_s: int) -> None:
        """Note what is left of a lease, 0 for all of it; one that is gone is left alone."""
        if (lease := self._leases.get(lease_id)) is not None:
            lease.remaining_s = remaining_s

    def attach(self, lease_id: int, key: bytes) -> None:
        """Hang a key on a lease. When history is replayed the lease may be gone by now."""
        if (lease := self._leases.get(lease_id)) is not None:
            lease.keys.add(key)

    def detach(self, lease_id: int, key: bytes) -> None:
        """Take a key off a lease."""
        if (lease := self._leases.get(lease_id)) is not None:
            lease.keys.discard(key)

    def restore(self, lease_id: int, ttl_s: int, remaining_s: int) -> None:
        """Add a lease as a snapshot has it."""
        self._leases[lease_id] = Lease(lease_id, ttl_s, remaining_s)


class LeaseClock:
    """When leases end, kept by the leader. ``now`` is its monotonic clock, in seconds.

    On any other node it is not ``leading`` and knows nothing. ``table`` gives the leases, in
    another table once a snapshot was restored.
    """

    __slots__ = ("_checkpoints", "_ends", "_queue", "_table", "leading")

    def __init__(self, table: Callable[[], LeaseTable]) -> None:
        self.leading = False
        self._table = table
        self._ends: dict[int, float] = {}
        # Both queues may hold out-of-date entries, which are dropped when they come up: a
        # renewal, the most frequent thing, does not search them.
        self._queue: list[tuple[float, int]] = []
        self._checkpoints: list[tuple[float, int]] = []

    def promote(self, now: float, extend_s: float) -> None:
        """This node leads: every lease starts anew, or from its checkpoint, plus ``extend_s``."""
        self.leading = True
        self._ends = {
            lease.lease_id: now + extend_s + (lease.remaining_s or lease.ttl_s)
            for lease in self._table()
        }
        self._queue = [(end, lease_id) for lease_id, end in self._ends.items()]
        heapify(self._queue)
        self._checkpoints = [
            (now + CHECKPOINT_S, lease.lease_id)
            for lease in self._table()
            if lease.ttl_s > CHECKPOINT_S
        ]

    def demote(self) -> None:
        """Another node leads, or none."""
        self.leading = False
        self._ends, self._queue, self._checkpoints = {}, [], []

    def granted(self, lease: Lease, now: float) -> None:
        """A grant was committed."""
        if self.leading:
            self._set(lease.lease_id, now + lease.ttl_s)
            if lease.ttl_s > CHECKPOINT_S:
                heappush(self._checkpoints, (now + CHECKPOINT_S, lease.lease_id))

    def revoked(self, lease_id: int) -> None:
        """A revoke was committed."""
        self._ends.pop(lease_id, None)

    def renew(self, lease_id: int, now: float) -> int:
        """Start a lease anew; its whole time comes back, in seconds.

        Raises:
            LeaseNotFound: when there is none, or it has run out, although the revoke that
                ends it may still be on its way.
        """
        lease = self._table().get(lease_id)
        end = self._ends.get(lease_id)
        if lease is None or end is None or end <= now:
            raise LeaseNotFound
        self._set(lease_id, now + lease.ttl_s)
        return lease.ttl_s

    def remaining(self, lease_id: int, now: float) -> float | None:
        """Seconds that a lease has left, None when there is none."""
        end = self._ends.get(lease_id)
        return None if end is None else max(0.0, end - now)

    def due(self, now: float) -> list[int]:
        """Up to ``MAX_DUE`` leases that have run out, for each of which a revoke is to be
        proposed. One that is not revoked within ``RETRY_S`` is named again.
        """
        found: list[int] = []
        queue = self._queue
        while queue and queue[0][0] <= now and len(found) < MAX_DUE:
            _, lease_id = heappop(queue)
            end = self._ends.get(lease_id)
            if end is None:
                continue
            if end > now:
                heappush(queue, (end, lease_id))
                continue
            found.append(lease_id)
            heappush(queue, (now + RETRY_S, lease_id))
        return found

    def checkpoints(self, now: float) -> list[tuple[int, int]]:
        """Up to ``MAX_DUE`` (lease, seconds left) that are to be written to the log."""
        found: list[tuple[int, int]] = []
        queue = self._checkpoints
        while queue and queue[0][0] <= now and len(found) < MAX_DUE:
            _, lease_id = heappop(queue)
            left = self.remaining(lease_id, now)
            if left is None:
                continue
            heappush(queue, (now + CHECKPOINT_S, lease_id))
            if left > 0:
                found.append((lease_id, -int(-left // 1)))
        return found

    def deadline(self) -> float | None:
        """When to ask ``due`` and ``checkpoints`` again; asking early does no harm."""
        ends = [queue[0][0] for queue in (self._queue, self._checkpoints) if queue]
        return min(ends) if ends else None

    def _set(self, lease_id: int, end: float) -> None:
        known = lease_id in self._ends
        self._ends[lease_id] = end
        if not known:
            heappush(self._queue, (end, lease_id))
            if len(self._queue) > 2 * len(self._ends) + MAX_DUE:
                # Leases that are revoked long before they end leave their entries behind.
                self._queue = [(end, lease_id) for lease_id, end in self._ends.items()]
                heapify(self._queue)

"""Keys with their history under dense revisions: what etcd calls its MVCC store, in memory.

Rules it keeps:

- A write that changes something takes exactly one revision, however many keys it changes;
  one that changes nothing takes none. The first revision is 2, as etcd's.
- Compaction is in force at once; what it frees is given back later, in slices (``prune``), and
  no answer depends on how far that got, because replicas get there at different times.
- ``log[i]`` is what revision ``i`` changed, which a watcher reads from where it stopped.

Writes happen between ``begin`` and ``commit``, which nothing may interleave with; reads in
between see them. Nothing is ever rolled back: whoever writes has checked first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from meshsvc.kv.errors import Compacted, FutureRevision
from meshsvc.kv.index import (
    CREATED,
    LEASE,
    MOD,
    NUMBER,
    VALUE,
    Bounds,
    KeyIndex,
    Version,
    tombstone,
)

FIRST_REVISION = 1
"""Of an empty store."""

NEVER_COMPACTED = -1

VERSION_COST = 160
"""Bytes that a version takes beside its key and value: tuple, numbers, places in the index."""

Change = Version | tuple[Version, ...]
"""What one revision changed; almost always one key, which then stands for itself."""

_FORGOTTEN: Change = (b"", 0, 0, 0, b"", 0)
"""In the place of changes that were pruned already, until all of them are."""


class LeaseKeys(Protocol):
    """Who keeps track of which keys hang on which lease."""

    def attach(self, lease_id: int, key: bytes) -> None:
        """The key now hangs on the lease."""

    def detach(self, lease_id: int, key: bytes) -> None:
        """The key no longer does."""


def cost(version: Version) -> int:
    """Bytes of memory that a version takes, roughly."""
    return len(version[0]) + len(version[VALUE]) + VERSION_COST


class Mvcc:
    """The keys of one keyspace.

    Attributes:
        revision: of the last committed write.
        compact_revision: below it nothing can be read; -1 before the first compaction.
        size: bytes of memory that keys, values and history take, roughly.
    """

    __slots__ = (
        "_changes",
        "_leases",
        "_log",
        "_log_start",
        "_pins",
        "_pruned",
        "_pruned_part",
        "compact_revision",
        "index",
        "revision",
        "size",
    )

    def __init__(self, leases: LeaseKeys) -> None:
        self.revision = FIRST_REVISION
        self.compact_revision = NEVER_COMPACTED
        self.size = 0
        self.index = KeyIndex()
        self._leases = leases
        self._log: list[Change] = []
        self._log_start = FIRST_REVISION + 1
        self._changes: list[Version] = []
        self._pins = 0
        self._pruned = FIRST_REVISION
        self._pruned_part = 0

    # --- writing -----------------------------------------------------------------------

    def put(self, key: bytes, value: bytes, lease: int) -> None:
        """Write a key, as part of the revision that ``commit`` ends."""
        revision = self.revision + 1
        old = self.index.latest(key)
        if old is None:
            version = (key, revision, revision, 1, value, lease)
            old_lease = 0
        else:
            # The key object that is there already is kept: keys would else be held twice.
            version = (old[0], old[CREATED], revision, old[NUMBER] + 1, value, lease)
            old_lease = old[LEASE]
        self._add(version)
        if lease != old_lease:
            if old_lease:
                self._leases.detach(old_lease, key)
            if lease:
                self._leases.attach(lease, version[0])

    def delete(self, interval: Bounds) -> list[Version]:
        """Delete the keys of an interval; what they were comes back, in their order."""
        latest = self.index.latest
        if interval[1] == interval[0] + b"\x00":
            one = latest(interval[0])
            gone = [] if one is None else [one]
        else:
            gone = [old for key in self.index.keys(interval) if (old := latest(key)) is not None]
        for old in gone:
            self._add(tombstone(old[0], self.revision + 1))
            if old[LEASE]:
                self._leases.detach(old[LEASE], old[0])
        return gone

    def commit(self) -> int:
        """End the revision; without changes there is none.

        Returns:
            the revision of the store.
        """
        changes = self._changes
        if changes:
            self._log.append(changes[0] if len(changes) == 1 else tuple(changes))
            self._changes = []
            self.revision += 1
        return self.revision

    def _add(self, version: Version) -> None:
        self.index.append(version)
        self._changes.append(version)
        self.size += len(version[0]) + len(version[VALUE]) + VERSION_COST

    # --- reading -----------------------------------------------------------------------

    @property
    def current(self) -> int:
        """The revision that a read sees now, the one being written included."""
        return self.revision + 1 if self._changes else self.revision

    def readable(self, revision: int) -> int:
        """The revision to read at for a request's ``revision``, where 0 or less is now.

        Raises:
            FutureRevision: when it is not there yet.
            Compacted: when it is there no more.
        """
        current = self.current
        if revision <= 0:
            return current
        if revision > current:
            raise FutureRevision
        if revision < self.compact_revision:
            raise Compacted
        return revision

    def changes(self, revision: int) -> tuple[Version, ...]:
        """What a revision changed, in the order it did: for any from ``compact_revision`` on."""
        return flat(self._log[revision - self._log_start])

    @property
    def first_change(self) -> int:
        """The lowest revision whose changes are still kept."""
        return max(self._log_start, self.compact_revision)

    # --- compaction --------------------------------------------------------------------

    def compact(self, revision: int) -> None:
        """Put history below ``revision`` out of reach.

        Raises:
            Compacted: when it is already.
            FutureRevision: when it is above the store's.
        """
        if revision <= self.compact_revision:
            raise Compacted
        if revision > self.revision:
            raise FutureRevision
        self.compact_revision = revision

    def pin(self) -> None:
        """Keep all that is kept now until ``unpin``: somebody reads at a fixed revision."""
        self._pins += 1

    def unpin(self) -> None:
        """Take one ``pin`` back."""
        self._pins -= 1

    @property
    def prunable(self) -> bool:
        """Whether ``prune`` has something to do."""
        return self._pruned < self.compact_revision and not self._pins

    @property
    def pruned(self) -> bool:
        """Whether all that was compacted has been given back."""
        return self._pruned >= self.compact_revision

    def prune(self, max_versions: int) -> bool:
        """Give back memory of what is compacted: look at up to about ``max_versions``.

        Returns:
            whether there is more to do.
        """
        horizon, left = self.compact_revision, max_versions
        while self.prunable and left > 0:
            position = self._pruned - self._log_start + 1
            changes = flat(self._log[position])
            for version in changes[self._pruned_part : self._pruned_part + left]:
                self._pruned_part += 1
                left -= 1
                for forgotten in self.index.prune(version[0], horizon):
                    self.size -= cost(forgotten)
            if self._pruned_part >= len(changes):
                self._pruned += 1
                self._pruned_part = 0
                if self._pruned < horizon:
                    self._log[position] = _FORGOTTEN
        if self._pruned >= horizon > self._log_start:
            # What the horizon itself changed stays: a watch may start there.
            del self._log[: horizon - self._log_start]
            self._log_start = horizon
        return self.prunable

    # --- from a snapshot ---------------------------------------------------------------

    def restore_start(self, revision: int, compact_revision: int, first_change: int) -> None:
        """Begin to fill an empty store; ``restore_base`` and ``restore_change`` follow."""
        self.revision = first_change - 1
        self.compact_revision = compact_revision
        self._log_start = first_change
        self._pruned = max(FIRST_REVISION, compact_revision - 1)
        if revision < self.revision:
            raise ValueError(f"a snapshot of revision {revision} cannot begin at {first_change}")

    def restore_base(self, version: Version) -> None:
        """Add a key as it was before the first change that is kept."""
        self.index.append(version)
        self.size += cost(version)
        if version[LEASE]:
            self._leases.attach(version[LEASE], version[0])

    def restore_part(self, changes: tuple[Version, ...]) -> None:
        """Add some of what the next revision changed; ``restore_change`` adds the rest."""
        for version in changes:
            old = self.index.latest(version[0])
            if old is not None and old[LEASE]:
                self._leases.detach(old[LEASE], old[0])
            if version[LEASE]:
                self._leases.attach(version[LEASE], version[0])
            self._add(version)

    def restore_change(self, changes: tuple[Version, ...]) -> None:
        """Add all that the next revision changed, or what is left of it."""
        self.restore_part(changes)
        self.commit()


def flat(change: Change) -> tuple[Version, ...]:
    """A change as versions, also when it is just one."""
    if isinstance(change[0], bytes):
        return (change,)
    return change


def retained(mvcc: Mvcc, key: bytes, revision: int, compact_revision: int) -> Iterator[Version]:
    """The versions of a key that belong to the store as of ``revision``, oldest first.

    That is what a store compacted at ``compact_revision`` must keep, whatever it has given
    back of the rest so far: the same on every replica.
    """
    base: Version | None = None
    for version in mvcc.index.history(key):
        if version[MOD] > revision:
            break
        if version[MOD] <= compact_revision:
            base = version if version[NUMBER] else None
            continue
        if base is not None:
            yield base
            base = None
        yield version
    if base is not None:
        yield base

"""When a store is full: an alarm that refuses what takes space, and clears itself.

Why it goes through the log: replicas give back what was compacted at different times, so their
sizes differ for a while, and a put must not be refused by some and done by others. Hence a node
that finds its store full, or with room again, proposes the alarm, or its end, and only the
alarms in the log decide what is refused. Deletes and compaction always work.

etcd leaves the alarm to be disarmed by hand; here it ends when a tenth of the quota is free.
"""

from __future__ import annotations

from meshsvc.kv.api import Op, Put, Txn
from meshsvc.kv.mvcc import VERSION_COST
from meshsvc.kv.upkeep import AlarmAction, AlarmEntry, AlarmKind, AlarmRequest

DEFAULT_QUOTA = 2 * 1024**3
"""Bytes of memory for keys, values and history (etcd's default, of disk)."""

ROOM = 0.9
"""Part of the quota below which the alarm ends, so that it does not come and go with each put."""


class Alarms:
    """The alarms in force; changed by the log only.

    Attributes:
        any: whether there is one.
        full: whether a NOSPACE alarm is in force; corrupt: whether a CORRUPT one is.
    """

    __slots__ = ("_raised", "any", "corrupt", "full")

    def __init__(self) -> None:
        self._raised: set[tuple[int, int]] = set()
        self.any = self.corrupt = self.full = False

    def apply(self, request: AlarmRequest) -> tuple[AlarmEntry, ...]:
        """Do what a request says; the alarms that it was about come back."""
        found = self.matching(request)
        if request.action == AlarmAction.ACTIVATE:
            self._raised.add((request.member_id, request.alarm))
            found = (AlarmEntry(request.member_id, request.alarm),)
        elif request.action == AlarmAction.DEACTIVATE:
            self._raised -= {(entry.member_id, entry.alarm) for entry in found}
        kinds = {kind for _, kind in self._raised}
        self.any, self.corrupt = bool(kinds), AlarmKind.CORRUPT in kinds
        self.full = AlarmKind.NOSPACE in kinds
        return found

    def matching(self, request: AlarmRequest) -> tuple[AlarmEntry, ...]:
        """The alarms that a request is about; member 0 is all, kind NONE is every kind."""
        return tuple(
            AlarmEntry(member_id, alarm)
            for member_id, alarm in sorted(self._raised)
            if request.member_id in (0, member_id) and request.alarm in (AlarmKind.NONE, alarm)
        )

    def rows(self) -> list[tuple[int, int]]:
        """(member, kind) of all, in order: for snapshots and hashes."""
        return sorted(self._raised)


def op_cost(op: Op) -> int:
    """Bytes that an operation may add, roughly; of a txn, its costlier branch."""
    if isinstance(op, Put):
        return len(op.key) + len(op.value) + VERSION_COST
    if isinstance(op, Txn):
        return max(sum(map(op_cost, branch)) for branch in (op.success, op.failure))
    return 0


def verdict(
    size: int, quota: int, alarms: Alarms, member_id: int, leading: bool
) -> AlarmRequest | None:
    """What a node is to propose about space, if anything; a quota of 0 is none.

    Any node raises the alarm in its own name; the leader ends it for all, so that it does not
    outlive a node that is gone.
    """
    own = AlarmRequest(AlarmAction.ACTIVATE, member_id, AlarmKind.NOSPACE)
    if quota and size >= quota and not alarms.matching(own):
        return own
    if leading and alarms.full and (not quota or size < quota * ROOM):
        return AlarmRequest(AlarmAction.DEACTIVATE, 0, AlarmKind.NOSPACE)
    return None

"""What the store shows of itself: rows for people, reasons for health checks, gauges.

Only a leader knows how far each member is, so another node that is asked asks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from meshsvc.counters import Counters
from meshsvc.errors import CallError
from meshsvc.kv.service import KvService
from meshsvc.kv.upkeep import AlarmKind
from meshsvc.messaging.service import Messaging
from meshsvc.model import LinkClass, ShardAddress, ShardId
from meshsvc.node.store.keyspace import GroupSlot
from meshsvc.node.store.members import StoreMembers
from meshsvc.raft.core import Role
from meshsvc.raft.quorum import Member
from meshsvc.raft.status import PeerStatus, Status

if TYPE_CHECKING:
    from meshsvc.node.store.founding import FoundingDriver

PROGRESS = "store.progress"
ASK_S = 1.0
"""How long the leader may take to say how far the members are; it looks and answers."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """What is shown: the services of the store, and its groups, the keyspace last."""

    messaging: Messaging
    members: StoreMembers
    kv: KvService
    groups: Sequence[GroupSlot]


class StoreView:
    """The store as its operators see it. ``founding`` is set once the journal is open."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self._kv = seen.kv
        self._groups = seen.groups
        self._was_ready = False
        self.founding: FoundingDriver | None = None

    # --- in one line ---------------------------------------------------------------------

    def missing(self) -> list[str]:
        """What the store of this node lacks, for health checks; empty when all is well."""
        waits_for = self.founding.core.waits_for if self.founding else "its journal is not open yet"
        reasons = [f"the store: {waits_for}"] if waits_for else []
        if not waits_for:
            for slot in self._groups:
                name, status = slot.name, slot.raft_status()
                if status is None:
                    reasons.append(f"the store: group {name} has not started here")
                elif not status.leader:
                    reasons.append(f"the store: group {name} has no leader")
                elif status.removed:
                    reasons.append(f"the store: group {name} has done without this node")
        if self._kv.disk_full:
            reasons.append("the store: the disk is full, so this node takes no writes")
        elif self._kv.machine.alarms.any:
            kinds = {AlarmKind(kind).name for _, kind in self._kv.machine.alarms.rows()}
            reasons.append(f"the store: alarm {', '.join(sorted(kinds))}")
        return reasons

    @property
    def was_ready(self) -> bool:
        """Whether this node has taken part in the store since it started: it knew a leader."""
        if not self._was_ready:
            found = [slot.raft_status() for slot in self._groups]
            self._was_ready = all(each is not None and each.leader for each in found)
        return self._was_ready

    def summary(self) -> Row:
        """The store in a few fields, for the status of the node."""
        status, machine = self._groups[-1].raft_status(), self._kv.machine
        return {
            "cluster": f"{machine.cluster_id:x}" if machine.cluster_id else None,
            "role": status.role.name.lower() if status is not None else None,
            "leader": self._name_of(status.leader) if status is not None else None,
            "term": status.term if status is not None else None,
            "revision": machine.mvcc.revision,
            "bytes": machine.mvcc.size,
        }

    # --- as a whole ----------------------------------------------------------------------

    def status(self) -> Deferred[Row]:
        """The store as ``meshsvc raft status`` shows it; never fails, and fires soon."""
        return Deferred.fromCoroutine(self._status())

    async def _status(self) -> Row:
        kv, machine = self._kv, self._kv.machine
        rows = []
        for slot in self._groups:
            status = slot.raft_status()
            if status is not None:
                peers = await self._peers(slot.name, status)
                rows.append(self._group_row(slot.name, status) | {"peers": peers})
        member = machine.member_id
        return {
            "cluster": f"{machine.cluster_id:x}" if machine.cluster_id else None,
            "member": f"{member:x}" if member else None,
            "missing": self.missing(),
            "revision": machine.mvcc.revision,
            "compacted": max(0, machine.mvcc.compact_revision),
            "keys": len(machine.mvcc.index),
            "bytes": machine.mvcc.size,
            "quota": kv.quota_bytes,
            "leases": len(machine.leases),
            "watches": kv.hub.watches,
            "alarms": [
                {"node": self._name_of(member), "alarm": AlarmKind(kind).name}
                for member, kind in machine.alarms.rows()
            ],
            "groups": rows,
        }

    def _group_row(self, name: str, status: Status) -> Row:
        return {
            "group": name,
            "role": status.role.name.lower(),
            "leader": self._name_of(status.leader),
            "term": status.term,
            "quorum": status.quorum,
            "last": status.last,
            "stable": status.stable,
            "commit": status.commit,
            "applied": status.applied,
            "first": status.first,
            "snapshot": status.snapshot,
            "voters": sorted(str(self._name_of(each)) for each in status.config.voters),
            "learners": sorted(str(self._name_of(each)) for each in status.config.learners),
        }

    async def _peers(self, name: str, status: Status) -> list[Row]:
        place = self._seen.members.place(status.leader)
        if status.leader == status.me or place is None:
            return self.progress(name)
        target = ShardAddress(place.node, ShardId(0))
        try:
            asked: list[Row] = await self._seen.messaging.ask(
                target, PROGRESS, name, ASK_S, LinkClass.CONTROL
            )
        except CallError:
            return []  # it may be gone by now
        return asked

    def progress(self, name: object) -> list[Row]:
        """How far the members of a group are, if this node leads it."""
        slots = [slot for slot in self._groups if slot.name == name]
        status = slots[0].raft_status() if slots else None
        if status is None:
            return []
        rows = [self._peer_row(peer, status) for peer in status.peers]
        return sorted(rows, key=lambda row: str(row["node"]))

    def _peer_row(self, peer: PeerStatus, status: Status) -> Row:
        return {
            "node": self._name_of(peer.member),
            "member": f"{peer.member:x}",
            "vote": status.config.votes(peer.member),
            "mode": peer.mode.name.lower(),
            "match": peer.match,
            "behind": max(0, status.last - peer.match),
            "under_way": peer.under_way,
            "silent_s": round(peer.silent_s, 3),
        }

    def _name_of(self, member: Member) -> str | None:
        place = self._seen.members.place(member)
        return place.name if place is not None else (f"{member:x}" if member else None)

    # --- as numbers ----------------------------------------------------------------------

    def gauges(self, counters: Counters) -> None:
        """Set the gauges anew."""
        for slot in self._groups:
            name, status = slot.name, slot.raft_status()
            if status is None or slot.group is None:
                continue
            counters.gauge("raft_term", status.term, group=name)
            counters.gauge("raft_is_leader", int(status.role is Role.LEADER), group=name)
            counters.gauge("raft_has_leader", int(status.leader != 0), group=name)
            counters.gauge("raft_voters", len(status.config.voters), group=name)
            counters.gauge("raft_last_index", status.last, group=name)
            counters.gauge("raft_commit_index", status.commit, group=name)
            counters.gauge("raft_applied_index", status.applied, group=name)
            counters.gauge("raft_waiting", slot.group.pending, group=name)
        kv, machine = self._kv, self._kv.machine
        counters.gauge("kv_revision", machine.mvcc.revision)
        counters.gauge("kv_keys", len(machine.mvcc.index))
        counters.gauge("kv_bytes", machine.mvcc.size)
        counters.gauge("kv_quota_bytes", kv.quota_bytes)
        counters.gauge("kv_leases", len(machine.leases))
        counters.gauge("kv_watches", kv.hub.watches)
        counters.gauge("kv_watches_behind", kv.hub.behind)
        counters.gauge("kv_alarm", int(machine.alarms.any or kv.disk_full))

"""The part of the store that looks after the store: members, alarms, hashes, status.

Nothing here makes a Deferred; everything hangs its answer on one that the service gives it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshsvc.kv import hash, upkeep
from meshsvc.kv.errors import BadLeaderTransferee, MemberBadUrls, NoLeader, NotLeader
from meshsvc.kv.ports import Ports

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

API_VERSION = "3.4.0"
"""Of etcd, whose API this is; clients choose what they use by it."""

CHANGE_S = 15.0
"""How long a change of members, or of the leader, may take."""


class Tending(Ports):
    """Cluster and maintenance requests of ``backend.KvBackend``."""

    # --- members -----------------------------------------------------------------------

    def member_list(self, request: upkeep.MemberList) -> Deferred[upkeep.MembersResult]:
        """The members."""
        if request.linearizable:
            return self.current().addCallback(lambda _: self._members(None))
        return self.local(lambda: self._members(None))

    def member_add(self, request: upkeep.MemberAdd) -> Deferred[upkeep.MembersResult]:
        """Add a member; needs an address."""
        return self._change(request, bool(request.peer_urls))

    def member_remove(self, request: upkeep.MemberRemove) -> Deferred[upkeep.MembersResult]:
        """Remove a member."""
        return self._change(request, True)

    def member_update(self, request: upkeep.MemberUpdate) -> Deferred[upkeep.MembersResult]:
        """Change a member's addresses."""
        return self._change(request, bool(request.peer_urls))

    def member_promote(self, request: upkeep.MemberPromote) -> Deferred[upkeep.MembersResult]:
        """Make a learner a voter."""
        return self._change(request, True)

    def move_leader(self, request: upkeep.MoveLeader) -> Deferred[upkeep.MoveLeaderResult]:
        """Transfer leadership; only the leader does that, and only to a voter."""

        def call() -> Deferred[None]:
            if self.group.status().leader_id != self.machine.member_id:
                raise NotLeader
            voters = [m.member_id for m in self.membership.members() if not m.is_learner]
            if request.target_id not in voters:
                raise BadLeaderTransferee
            return self.group.transfer(request.target_id, CHANGE_S)

        return self.guarded(call).addCallback(
            lambda _: upkeep.MoveLeaderResult(self.machine.header())
        )

    def _change(self, request: object, addressed: bool) -> Deferred[upkeep.MembersResult]:
        def call() -> Deferred[upkeep.KvMember | None]:
            if not addressed:
                raise MemberBadUrls
            return self.membership.change(request, CHANGE_S)

        return self.guarded(call).addCallback(self._members)

    def _members(self, member: upkeep.KvMember | None) -> upkeep.MembersResult:
        return upkeep.MembersResult(self.membership.members(), member, self.machine.header())

    # --- maintenance -------------------------------------------------------------------

    def status(self) -> Deferred[upkeep.StatusResult]:
        """How this replica is."""
        return self.local(self._status)

    def alarm(self, request: upkeep.AlarmRequest) -> Deferred[upkeep.AlarmResult]:
        """List, raise or clear alarms."""
        if request.action != upkeep.AlarmAction.GET:
            return self.propose(request)
        if self.disk_full:  # it cannot become current, and this is what it has to say
            return self.local(lambda: self._listed(request))
        return self.current().addCallback(lambda _: self._listed(request))

    def defragment(self) -> Deferred[upkeep.DefragmentResult]:
        """There is no file to defragment: memory is given back after each compaction."""
        return self.local(lambda: upkeep.DefragmentResult(self.machine.header()))

    def hash(self) -> Deferred[upkeep.HashResult]:
        """Hash everything this replica holds."""
        return self.sliced(self.machine.hash()).addCallback(
            lambda value: upkeep.HashResult(value, self.machine.header())
        )

    def hash_kv(self, request: upkeep.HashKv) -> Deferred[upkeep.HashKvResult]:
        """Hash keys and their history up to a revision."""
        header = self.machine.header()
        revision = request.revision or header.revision
        return self.sliced(hash.hash_keys(self.machine.mvcc, revision)).addCallback(
            lambda found: upkeep.HashKvResult(found[0], found[1], revision, header)
        )

    def _listed(self, request: upkeep.AlarmRequest) -> upkeep.AlarmResult:
        return upkeep.AlarmResult(self._alarms(request), self.machine.header())

    def _alarms(self, request: upkeep.AlarmRequest) -> tuple[upkeep.AlarmEntry, ...]:
        """The alarms of the whole store, and that of this replica's disk."""
        found = self.machine.alarms.matching(request)
        own = upkeep.AlarmEntry(self.machine.member_id, upkeep.AlarmKind.NOSPACE)
        wanted = request.member_id in (0, own.member_id) and request.alarm in (0, own.alarm)
        return (*found, own) if self.disk_full and wanted and own not in found else found

    def _status(self) -> upkeep.StatusResult:
        group, machine = self.group.status(), self.machine
        texts = [
            f"memberID:{entry.member_id} alarm:{upkeep.AlarmKind(entry.alarm).name}"
            for entry in self._alarms(upkeep.AlarmRequest())
        ]
        if not group.leader_id:
            texts.append(NoLeader.text)
        return upkeep.StatusResult(
            version=API_VERSION,
            db_size=machine.mvcc.size,
            leader=group.leader_id,
            raft_index=group.commit_index,
            raft_term=group.term,
            raft_applied_index=group.applied_index,
            errors=tuple(texts),
            db_size_in_use=machine.mvcc.size,
            is_learner=group.is_learner,
            header=machine.header(),
        )

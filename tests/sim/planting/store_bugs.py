"""Bugs in the wiring of the store: between clients, Raft, its journal, its members and leases.

All are found by whole clusters: each part alone does as it says.
"""

from __future__ import annotations

from planting import bug, swap
from twisted.internet.defer import Deferred, succeed

from meshsvc.kv.machine import Machine
from meshsvc.kv.protocol import Reads
from meshsvc.kv.service import KvService
from meshsvc.kv.watch import WatchHub
from meshsvc.node.store.members import StoreMembers
from meshsvc.raft.asking import Asking
from meshsvc.raft.disk import Disk
from meshsvc.raft.founding import Founding
from meshsvc.raft.sessions import Sessions, Verdict
from meshsvc.raft.waits import Deadlines


@bug(scenario="store-partitions", section="STORE")
def reads_are_answered_by_whoever_is_asked():
    """A replica that was cut off shows what was true before (KV-1)."""
    with swap(Reads, "current", lambda self: succeed(None)):
        yield


@bug(scenario="store-partitions", section="STORE")
def what_is_offered_again_is_done_again():
    """The table of what was applied is not asked (RAFT-6)."""

    def admit(self, command, index):
        verdict = right(self, command, index)
        return Verdict.APPLY if verdict is Verdict.DOUBLE and command.sequence else verdict

    with swap(Sessions, "admit", admit) as right:
        yield


@bug(scenario="store-crashes", section="STORE")
def every_replica_keeps_time_for_leases():
    """Who does not lead hears of no renewal, and ends what it takes for run out (KV-3)."""

    def leader_is(self, leader_id, term):
        right(self, leader_id, term)
        if leader_id:
            self.keeper.lead(term)

    with swap(KvService, "_leader_is", leader_is) as right:
        yield


@bug(scenario="power-under-writes")
def the_journal_is_not_waited_for():
    """What Raft wants durable is taken for durable when it was handed over (LOG-1)."""

    async def persist(self, ready):
        Deferred.fromCoroutine(right(self, ready)).addErrback(lambda failure: None)

    with swap(Disk, "persist", persist) as right:
        yield


@bug(scenario="store-bootstrap", section="STORE")
def a_node_founds_with_those_who_are_there():
    """It does not wait for as many as are expected (RAFT-4)."""
    with swap(Founding, "_founders", lambda self: tuple(self._candidates()[: self.expect])):
        yield


@bug(scenario="empty-disk", section="LIVENESS")
def who_came_back_with_an_empty_disk_is_there_twice():
    """The member that its node was before stays a voter (RAFT-5)."""
    with swap(StoreMembers, "_replaced", lambda self, *_: set()):
        yield


@bug(scenario="store-crashes", section="STORE")
def a_watch_begins_with_what_comes_next():
    """One that goes on at another node is not told what it missed (KV-2)."""

    def create(self, stream, request):
        from dataclasses import replace

        return right(self, stream, replace(request, start_revision=0))

    with swap(WatchHub, "create", create) as right:
        yield


@bug(scenario="store-crashes", section="STORE")
def an_answer_goes_to_whoever_waits_under_that_number():
    """Numbers of proposals are compared, and not whose they are (RAFT-6)."""

    def done(self, command, verdict):
        if verdict is Verdict.APPLY and command.sequence:
            return self.proposals.end(command.sequence)
        return right(self, command, verdict)

    with swap(Asking, "done", done) as right:
        yield


@bug(scenario="store-crashes", section="STORE")
def leases_end_where_the_leader_is():
    """The others leave them to the leader, and differ from it (KV-3)."""

    def end_leases(self, command):
        if self.lease_events.leading:
            right(self, command)

    from meshsvc.kv import machine
    from meshsvc.kv.commands import EndLeases

    right = Machine._end_leases
    with swap(machine._STEPS, EndLeases, end_leases):
        yield


@bug(scenario="leader-cut-off", section="STORE")
def nobody_gives_up():
    """A request that no leader hears of never ends (RAFT-6)."""
    with swap(Deadlines, "add", lambda self, wait: None):
        yield

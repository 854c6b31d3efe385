"""A Raft group as simple as it can be: one list of entries that replicas apply in order.

Replicas can be cut off, and the leader is whoever the test says.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from meshsvc.counters import Counters
from meshsvc.errors import Disconnected, TimedOut
from meshsvc.kv.machine import Machine
from meshsvc.kv.service import KvService
from meshsvc.kv.upkeep import KvMember, MemberAdd, MemberPromote, MemberRemove, MemberUpdate


@dataclass
class Status:
    leader_id: int
    term: int
    commit_index: int
    applied_index: int
    is_learner: bool = False


class Group:
    """``RaftGroup``, ``Membership`` and ``LeaderLine`` of one replica."""

    def __init__(self, cluster, member_id, service):
        self.cluster, self.member_id, self.service = cluster, member_id, service
        self.applied = 0
        self.cut = False
        self.observers = []
        self.waiting = {}
        self.reads = []

    def propose(self, data, timeout_s):
        done = Deferred()
        cluster = self.cluster
        if self.cut or not cluster.leader or cluster.groups[cluster.leader].cut:
            return self.late(done, timeout_s)
        cluster.entries.append((cluster.term, data))
        self.waiting[len(cluster.entries)] = done
        cluster.soon()
        return done

    def read_index(self, timeout_s):
        done = Deferred()
        if self.cut or not self.cluster.leader or self.cluster.groups[self.cluster.leader].cut:
            return self.late(done, timeout_s)
        self.reads.append((len(self.cluster.entries), done))
        self.cluster.soon()
        return done

    def late(self, done, timeout_s):
        call = self.cluster.clock.callLater(timeout_s, done.errback, TimedOut("nobody leads"))
        self.cluster.timers.append(call)
        return done

    def status(self):
        cluster = self.cluster
        return Status(cluster.leader, cluster.term, len(cluster.entries), self.applied)

    def add_leader_observer(self, observer):
        self.observers.append(observer)

    def transfer(self, target_id, timeout_s):
        self.cluster.elect(target_id)
        return succeed(None)

    def apply(self):
        while not self.cut and self.applied < len(self.cluster.entries):
            self.applied += 1
            term, data = self.cluster.entries[self.applied - 1]
            result = self.service.state_machine.apply(data, self.applied, term)
            done = self.waiting.pop(self.applied, None)
            if done is not None:
                done.callback(result)
        ready = [done for index, done in self.reads if index <= self.applied]
        self.reads = [read for read in self.reads if read[0] > self.applied]
        for done in ready:
            done.callback(self.applied)

    def members(self):
        return tuple(self.cluster.members.values())

    def change(self, request, timeout_s):
        members = self.cluster.members
        match request:
            case MemberAdd(urls, learner):
                member = KvMember(max(members) + 1, "", urls, (), learner)
            case MemberRemove(member_id):
                return succeed(members.pop(member_id))
            case MemberUpdate(member_id, urls):
                member = KvMember(member_id, members[member_id].name, urls)
            case MemberPromote(member_id):
                member = KvMember(member_id, members[member_id].name)
        members[member.member_id] = member
        return succeed(member)

    def ask_leader(self, payload, timeout_s):
        if self.cut or not self.cluster.leader:
            return fail(Disconnected("no way to a leader"))
        return self.cluster.services[self.cluster.leader].answer(payload)


class Cluster:
    """Replicas 1 to n over one list of entries; none leads until ``elect``."""

    def __init__(self, count=1, leader=1, quota_bytes=0, clock=None):
        self.clock = clock or Clock()
        self.entries, self.timers = [], []
        self.due = None
        self.term = self.leader = 0
        self.members = {n: KvMember(n, f"n{n}", (f"http://127.0.0.{n}:1",)) for n in
                        range(1, count + 1)}  # fmt: skip
        self.services, self.groups = {}, {}
        for member_id in self.members:
            service = KvService(
                self.clock, Machine(9, member_id), Counters(), Random(member_id), quota_bytes
            )
            group = Group(self, member_id, service)
            service.attach(group, group, group)
            self.services[member_id], self.groups[member_id] = service, group
            service.startService()
        if leader:
            self.elect(leader)

    def __getitem__(self, member_id):
        return self.services[member_id]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for service in self.services.values():
            service.stopService()
        for timer in [*self.timers, *filter(None, [self.due])]:
            if timer.active():
                timer.cancel()

    def soon(self):
        if self.due is None:
            self.due = self.clock.callLater(0, self.apply)

    def apply(self):
        self.due = None
        for group in self.groups.values():
            group.apply()

    def elect(self, member_id):
        for group in self.groups.values():
            group.apply()
        self.term += 1
        self.leader = member_id
        for group in self.groups.values():
            if not group.cut:
                for observer in group.observers:
                    observer(member_id, self.term)

    def run(self, seconds=0.1, step=0.05):
        """Let time pass in small steps, and everything that is due at once happen."""
        for _ in range(max(1, round(seconds / step))):
            self.clock.advance(step)
            self.settle()

    def settle(self):
        for _ in range(2_000):
            due = [call for call in self.clock.getDelayedCalls()
                   if call.getTime() <= self.clock.seconds()]  # fmt: skip
            if not due:
                return
            self.clock.advance(0)
        raise AssertionError("the service does not come to rest")

    def ask(self, waiting, seconds=0.0):
        """What a Deferred fires with; a failure is raised."""
        results = []
        waiting.addBoth(results.append)
        self.settle()
        if not results and seconds:
            self.run(seconds)
        assert results, "no answer"
        if hasattr(results[0], "raiseException"):
            results[0].raiseException()
        return results[0]

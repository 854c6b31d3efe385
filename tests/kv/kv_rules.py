"""The store under rules: one replica against the model, and a group whose leader changes.

Both are run by ``test_kv_rules``, and against planted bugs by the simulator's tests.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from kv_group import Cluster
from kv_naive import plain
from kv_replica import Replica
from kv_requests import KEYS, alarms, deletes, puts, ranges, writes
from kv_watching import EVERYTHING, Node, Run, creates
from twisted.internet.defer import Deferred

from meshsvc.kv import api, commands
from meshsvc.kv.errors import KvError


class KvRules(RuleBasedStateMachine):
    """Commands, reads, compactions and snapshots of one replica, as KV-1 has them."""

    def __init__(self):
        super().__init__()
        self.node = Node()

    @rule(commands_=st.lists(writes, min_size=1, max_size=6))
    def write(self, commands_):
        """Some commands, each answered as the model does."""
        node = self.node
        for command in commands_:
            expected = node.model.do(command)
            result = node.replica.do(command)
            if isinstance(expected, type):
                assert type(result) is expected
            elif result is not None:
                assert (plain(result), result.header.revision) == expected

    @rule(alarm=alarms)
    def alarm(self, alarm):
        """Space runs out, or there is some again."""
        self.node.do(alarm)

    @rule(back=st.integers(0, 6))
    def compact(self, back):
        """Forget all but some revisions, and give the memory back."""
        self.node.do(api.Compact(self.node.model.revision - back))
        self.node.hub.flush()
        self.node.prune()

    @rule(request=ranges, back=st.integers(0, 6))
    def read(self, request, back):
        """Any range, now or at a past revision, is what the model says."""
        machine, model = self.node.replica.machine, self.node.model
        request = replace(request, revision=max(0, model.revision - back) if back else 0)
        try:
            found = plain(machine.range(request))
        except KvError as error:
            found = type(error)
        assert found == model.range(request)

    @rule()
    def compare(self):
        """All that can be read is what the model has, and hangs on the same leases."""
        machine, model = self.node.replica.machine, self.node.model
        assert machine.mvcc.revision == model.revision
        state = model.states[model.revision]
        assert machine.mvcc.index.count((b"", None)) == len(state)
        for revision in range(max(1, model.compacted), model.revision + 1):
            found = machine.range(api.Range(b"\0", b"\0", revision=revision)).kvs
            assert {kv.key: kv for kv in found} == model.states[revision]
        for lease in machine.leases:
            assert lease.keys == {key for key, kv in state.items() if kv.lease == lease.lease_id}

    @rule(commands_=st.lists(writes, max_size=4), back=st.integers(0, 2))
    def save(self, commands_, back):
        """A snapshot is of when it began, whatever is written and compacted meanwhile."""
        expected, chunks = self.node.replica.hash(), self.node.replica.machine.snapshot()
        restore = self.node.replica.machine.restore()
        restore.feed(next(chunks))
        self.node.do(*commands_)
        self.compact(back)
        assert [restore.feed(chunk) for chunk in chunks][-1]
        assert Replica(restore.machine).hash() == expected

    @rule()
    def restart(self):
        """A restored snapshot takes the store's place."""
        self.node.restart()

    def teardown(self):
        """The store is what it was said to be."""
        self.compare()


class WatchRules(RuleBasedStateMachine):
    """Two streams with watches that come and go, as KV-2 has them; each hears all there is."""

    def __init__(self):
        super().__init__()
        self.run = Run()
        for which in (0, 1):
            self.run.step("create", (which, EVERYTHING))

    @rule(commands_=st.lists(puts | deletes, min_size=1, max_size=3))
    def write(self, commands_):
        """Something to tell."""
        self.run.node.do(*commands_)

    @rule(back=st.integers(0, 6))
    def compact(self, back):
        """Forget all but some revisions, and give the memory back."""
        self.run.node.do(api.Compact(self.run.node.model.revision - back))
        self.run.node.prune()

    @rule(which=st.integers(0, 1), request=creates, back=st.integers(0, 6))
    def watch(self, which, request, back):
        """A watch from a revision not long ago, or from now on."""
        start = max(0, self.run.node.model.revision - back) if back else 0
        self.run.step("create", (which, replace(request, start_revision=start)))

    @rule(what=st.sampled_from(["pause", "resume"]), which=st.integers(0, 1))
    def sink(self, what, which):
        """A sink is full, or can take more."""
        self.run.step(what, which)

    @rule(what=st.sampled_from(["flush", "flush", "sync", "restart"]))
    def turn(self, what):
        """What a service does in its turns, and a snapshot that takes the store's place."""
        self.run.step(what, None)

    @rule(number=st.integers(0, 20))
    def cancel(self, number):
        """A watch is ended."""
        self.run.step("cancel", number)

    def teardown(self):
        """Every watch has heard what it should."""
        self.run.finish()


LEASES = (1, 2, 3)


class LeaseRules(RuleBasedStateMachine):
    """A lease is there for as long as its holder was told, whoever leads (KV-3).

    What the leader proposes may be held up, and come to the log under another one.
    """

    def __init__(self):
        super().__init__()
        self.cluster = Cluster(3)
        self.good_until = {}
        self.held = []
        self.rights = {n: group.propose for n, group in self.cluster.groups.items()}

    def teardown(self):
        """Nothing goes on."""
        self.cluster.__exit__()

    @rule(lease_id=st.sampled_from(LEASES), ttl_s=st.sampled_from([2, 5, 400]))
    def grant(self, lease_id, ttl_s):
        """A lease, and a key under it."""
        granted = []
        service = self.cluster[self.cluster.leader]
        service.lease_grant(api.LeaseGrant(ttl_s, lease_id)).addCallbacks(
            granted.append, lambda _: None
        )
        self.cluster.settle()
        if granted:
            self.good_until[lease_id] = self.cluster.clock.seconds() + granted[0].ttl_s
            service.put(api.Put(KEYS[lease_id], lease=lease_id)).addErrback(lambda _: None)
            self.cluster.settle()

    @rule(lease_id=st.sampled_from(LEASES), member_id=st.sampled_from((1, 2, 3)))
    def renew(self, lease_id, member_id):
        """Through any replica."""
        sent_at, answers = self.cluster.clock.seconds(), []
        request = api.LeaseKeepAlive(lease_id)
        self.cluster[member_id].lease_keepalive(request).addCallbacks(
            answers.append, lambda _: None
        )
        self.cluster.settle()
        if answers and answers[0].ttl_s:
            self.good_until[lease_id] = sent_at + answers[0].ttl_s

    @rule(seconds=st.sampled_from([0.5, 1.5, 4, 30]))
    def wait(self, seconds):
        """No lease ends before its time is over; each does some time after."""
        for _ in range(round(seconds / 0.5)):
            self.cluster.run(0.5, step=0.5)
            self._look()

    def _look(self):
        now = self.cluster.clock.seconds()
        for lease_id, end in list(self.good_until.items()):
            there = lease_id in self.cluster[self.cluster.leader].machine.leases
            assert there or now >= end, f"lease {lease_id} ended {end - now} s early"
            if not there:
                del self.good_until[lease_id]

    @rule(member_id=st.sampled_from((1, 2, 3)))
    def elect(self, member_id):
        """Somebody else leads."""
        self.cluster.elect(member_id)

    @rule()
    def hold(self):
        """What the leader says of leases gets stuck on its way to the log."""
        leader = self.cluster.leader
        self.cluster.groups[leader].propose = lambda data, s: self._hold(leader, data)

    @rule()
    def release(self):
        """What was stuck comes through, under whoever leads now."""
        held, self.held = self.held, []
        for member_id, group in self.cluster.groups.items():
            group.propose = self.rights[member_id]
        for member_id, data in held:
            self.rights[member_id](data, 7).addErrback(lambda _: None)
        self.cluster.settle()
        self._look()

    @rule(lease_id=st.sampled_from(LEASES), member_id=st.sampled_from((1, 2, 3)))
    def overtaken(self, lease_id, member_id):
        """The end of a lease is stuck when another takes the lead and the lease is renewed."""
        self.hold()
        self.wait(4)
        self.elect(member_id)
        self.renew(lease_id, member_id)
        self.release()

    def _hold(self, member_id, data):
        if not isinstance(commands.decode(data), commands.EndLeases):
            return self.rights[member_id](data, 7)
        self.held.append((member_id, data))
        return Deferred()

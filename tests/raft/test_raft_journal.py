"""Replicas over real journals on simulated disks: what was acknowledged survives power cuts."""

from __future__ import annotations

from random import Random

import pytest
from groups import World as MemoryWorld
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from meshsvc.counters import Counters
from meshsvc.raft.quorum import make_config
from meshsvc.raft.replica import Limits
from meshsvc.sim.disk import SimDisk
from meshsvc.storage.service import JournalService
from meshsvc.storage.store import open_store

GROUP = 1


class Small(Limits):
    entries, keep = 30, 5


class World(MemoryWorld):
    """As ``groups.World``, with journals for memory."""

    def __init__(self, members=3, seed=1, limits=None):
        self.disks, self.journals = {}, {}
        self.names = list(range(1, members + 1))
        self.ids = {}
        super().__init__(0, seed, limits=limits)
        for name in self.names:
            self.open(name)
        self.founding = make_config([self.ids[name] for name in self.names])
        for name in self.names:
            self.boot(self.ids[name], self.founding)

    def open(self, name):
        """Open the journal of a node; its member id comes with it."""
        disk = self.disks.setdefault(name, SimDisk(Random(name)))
        node = f"{name:032x}"
        journal = JournalService(
            self.clock,
            self.in_thread,
            lambda: open_store(disk, "/d", node, 0, lambda: Random(name).getrandbits(64)),
            lambda *why: self.fatal.append(why),
            Counters(),
        )
        journal.startService()
        self.result(journal.open())
        self.journals[name] = journal
        log = journal.group(GROUP)
        self.ids[name] = log.replica
        self.logs[log.replica] = log

    def in_thread(self, call, *args):
        """The writer's thread, in virtual time."""
        done = Deferred()

        def run():
            try:
                result = call(*args)
            except Exception:
                done.errback(Failure())
            else:
                done.callback(result)

        self.clock.callLater(0.002, run)
        return done

    def power_cut(self, *names):
        """These nodes lose what was not synced."""
        for name in names:
            self.kill(self.ids[name])
            self.journals.pop(name).stopService()
        self.run(0.2)
        for name in names:
            self.disks[name].processes_ended()

    def back(self, *names):
        """They start again, from their disks."""
        for name in names:
            self.open(name)
            self.boot(self.ids[name])

    def stop(self):
        for group in self.groups.values():
            group.stopService()
        self.run(0.1)
        for journal in self.journals.values():
            journal.stopService()
        self.run(0.2)
        assert not self.clock.getDelayedCalls(), self.clock.getDelayedCalls()


@pytest.mark.contract("RAFT-7", "LOG-1")
@pytest.mark.parametrize("seed", range(4))
def test_what_was_acknowledged_survives_all_being_killed(seed):
    """Again and again, with snapshots and compaction in between."""
    world = World(3, seed, Small())
    acked = []
    for _ in range(3):
        leader = world.leader()
        for number in range(50):
            data = b"%d-%d" % (len(acked), number)
            world.result(world.groups[leader].propose(data, 5))
            acked.append(data)
        world.power_cut(*world.names)
        world.back(*world.names)
        me = world.ids[1]
        world.result(world.groups[me].read_index(8), 8)
        assert world.machines[me].done == acked
    assert not world.fatal
    world.stop()


@pytest.mark.contract("RAFT-1")
def test_a_laggard_installs_a_snapshot_into_its_journal():
    """Received chunk by chunk, durable, and there after a restart."""
    world = World(3, 5, Small())
    leader = world.leader()
    name = next(name for name in world.names if world.ids[name] != leader)
    away = world.ids[name]
    world.power_cut(name)
    for number in range(120):
        world.result(world.groups[leader].propose(b"%d" % number, 5))
    world.back(name)
    world.run(3)
    assert world.machines[away].done == world.machines[leader].done
    world.power_cut(*world.names)
    world.back(*world.names)
    world.result(world.groups[away].read_index(8), 8)
    assert len(world.machines[away].done) == 120
    assert not world.fatal
    world.stop()

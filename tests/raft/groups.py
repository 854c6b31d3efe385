"""Running replicas on one virtual clock, with a network and disks that tests control."""

from __future__ import annotations

from random import Random

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from meshsvc.counters import Counters
from meshsvc.errors import Disconnected
from meshsvc.raft.protocol import Surroundings
from meshsvc.raft.quorum import make_config
from meshsvc.raft.service import RaftGroup
from meshsvc.storage.records import HardState, Recovered

STEP_S = 0.005


class Memory:
    """A ``ReplicaLog`` whose writes take a moment; ``hold`` keeps them from ending."""

    def __init__(self, clock, replica, delay_s=0.001):
        self.clock, self.replica, self.delay_s = clock, replica, delay_s
        self.replaces = 0
        self.hard, self.entries = HardState(), []
        self.snapshot, self.chunks = None, []
        self.base = (0, 0)
        self.fail_next = None
        self.compactions = []

    def load(self):
        return Recovered(self.hard, self.snapshot, *self.base, tuple(self.entries))

    def later(self, call, *args):
        done = Deferred()

        def run():
            if self.fail_next:
                error, self.fail_next = self.fail_next, None
                done.errback(error)
            else:
                call(*args)
                done.callback(None)

        self.clock.callLater(self.delay_s, run)
        return done

    def append(self, hard_state, entries=(), truncate_from=None):
        return self.later(self._append, hard_state, entries)

    def _append(self, hard_state, entries):
        if hard_state:
            self.hard = hard_state
        if entries:
            self.entries = [e for e in self.entries if e.index < entries[0].index]
            self.entries += entries

    def save_snapshot(self, meta, chunks):
        async def save():
            sink = await self.begin_snapshot(meta)
            for chunk in chunks:
                await sink.add(chunk)
            await sink.finish()

        return Deferred.fromCoroutine(save())

    def begin_snapshot(self, meta):
        return self.later(lambda: None).addCallback(lambda _: Sink(self, meta))

    def open_snapshot(self):
        return succeed(Source(self) if self.snapshot else None)

    def compact(self, index):
        self.compactions.append(index)
        return self.later(self._compact, index)

    def _compact(self, index):
        gone = [e for e in self.entries if e.index <= index]
        self.entries = [e for e in self.entries if e.index > index]
        if gone:
            self.base = (gone[-1].index, gone[-1].term)

    def reset(self, meta):
        def reset():
            self.entries, self.base = [], (meta.index, meta.term)

        return self.later(reset)


class Sink:
    def __init__(self, memory, meta):
        self.memory, self.meta, self.chunks = memory, meta, []

    def add(self, data):
        assert len(data) <= 4 * 1024 * 1024
        return self.memory.later(self.chunks.append, data)

    def finish(self):
        def done():
            self.memory.snapshot, self.memory.chunks = self.meta, self.chunks

        return self.memory.later(done)

    def abandon(self):
        return succeed(None)


class Source:
    def __init__(self, memory):
        self.meta, self._chunks = memory.snapshot, list(memory.chunks)
        self.chunks, self.size = len(self._chunks), sum(map(len, self._chunks))

    def chunk(self, number):
        return succeed(self._chunks[number])

    def close(self):
        return succeed(None)


class Machine:
    """A list of what was applied; answers with how many that makes."""

    def __init__(self):
        self.done = []

    def apply(self, data, index, term):
        if data == b"raise":
            raise RuntimeError("a defect")
        self.done.append(data)
        return len(self.done), data

    def snapshot(self):
        return iter([b"\n".join(self.done[n : n + 10]) for n in range(0, len(self.done), 10)])

    def restore(self):
        return Filling(self)


class Filling:
    def __init__(self, machine):
        self.machine, self.done = machine, []

    def feed(self, chunk):
        self.done += chunk.split(b"\n")

    def finish(self):
        self.machine.done = self.done


class Wire:
    """The transport of one replica."""

    def __init__(self, world, me):
        self.world, self.me, self.receiver = world, me, None

    def attach(self, receiver):
        self.receiver = receiver

    def detach(self):
        self.receiver = None

    def send(self, to, data):
        self.world.carry(self.me, to, data)

    def flush(self):
        pass


class World:
    """Replicas 1 to ``members`` of one group, started."""

    def __init__(self, members=3, seed=1, settings=None, limits=None):
        self.clock = Clock()
        self.rng = Random(seed)
        self.settings, self.limits = settings, limits
        self.cut = set()
        self.logs, self.machines, self.wires, self.groups = {}, {}, {}, {}
        self.fatal = []
        self.carried = 0
        self.founding = make_config(list(range(1, members + 1)))
        for me in self.founding.voters:
            self.boot(me, self.founding)

    def boot(self, me, founding=None):
        """Start a replica on the disk that it has, a new one if it has none."""
        log = self.logs.setdefault(me, Memory(self.clock, me))
        self.machines[me] = Machine()
        self.wires[me] = Wire(self, me)
        around = Surroundings(
            self.clock, Random(self.rng.random()), Counters(), lambda *why: self.fatal.append(why)
        )
        group = RaftGroup(around, log, self.machines[me], self.wires[me], self.settings)
        if self.limits:
            group._replica.limits = self.limits
        self.groups[me] = group
        group.start(founding)
        return group

    def carry(self, source, to, data):
        wire = self.wires.get(to)
        if (source, to) in self.cut or wire is None or wire.receiver is None:
            self.wires[source].receiver.unreachable(to)
            return
        self.carried += 1
        self.clock.callLater(0.001, self.arrive, wire, source, data)

    def arrive(self, wire, source, data):
        if wire.receiver is not None and (source, wire.me) not in self.cut:
            wire.receiver.received(source, [data])

    def isolate(self, me):
        others = [each for each in self.groups if each != me]
        self.cut |= {(me, each) for each in others} | {(each, me) for each in others}

    def kill(self, me):
        """The process is gone: nothing it had under way ends."""
        self.groups.pop(me).stopService()
        self.wires.pop(me)

    def run(self, seconds):
        for _ in range(round(seconds / STEP_S)):
            self.clock.advance(STEP_S)

    def result(self, deferred, within_s=5.0):
        """The result of a Deferred, or its error raised."""
        results = []
        deferred.addBoth(results.append)
        until = self.clock.seconds() + within_s
        while not results and self.clock.seconds() < until:
            self.clock.advance(STEP_S)
        assert results, f"nothing came of it in {within_s} s"
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    def leader(self, within_s=6.0):
        until = self.clock.seconds() + within_s
        while self.clock.seconds() < until:
            for me, group in self.groups.items():
                try:
                    if group.status().leader == me and group._raft.in_charge:
                        return me
                except Disconnected:
                    continue
            self.clock.advance(STEP_S)
        raise AssertionError("nobody leads")

    def stop(self):
        for group in self.groups.values():
            group.stopService()
        self.run(0.1)
        assert not self.clock.getDelayedCalls(), self.clock.getDelayedCalls()

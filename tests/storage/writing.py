"""A journal service over virtual time and a simulated disk."""

from __future__ import annotations

from collections import deque
from random import Random

from modelled import NODE, SMALL
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from meshsvc.counters import Counters
from meshsvc.sim.disk import PowerCut, SimDisk
from meshsvc.storage.records import Entry, HardState
from meshsvc.storage.service import JournalService
from meshsvc.storage.store import open_store


def entries(first, count, term=1, data=b"x"):
    return tuple(Entry(i, term, 0, data) for i in range(first, first + count))


class Writer:
    """The writer thread: does one call when it is told to."""

    def __init__(self):
        self.calls = deque()
        self.done = 0

    def __call__(self, call, *args):
        assert not self.calls, "two pieces of work at once"
        done = Deferred()
        self.calls.append((done, call, args))
        return done

    def step(self):
        """Do what was asked; the answer arrives at once."""
        done, call, args = self.calls.popleft()
        self.done += 1
        try:
            result = call(*args)
        except PowerCut:
            raise
        except Exception:
            done.errback(Failure())
        else:
            done.callback(result)

    def run(self, most=1000):
        """Until there is nothing to do."""
        while self.calls:
            most -= 1
            assert most, "it does not end"
            self.step()


class Rig:
    """A service, its writer, clock and disk; ``ended`` is what fatal was told."""

    def __init__(self, disk=None, settings=SMALL, limits=None):
        self.disk = disk or SimDisk(Random(3))
        self.clock, self.writer, self.counters = Clock(), Writer(), Counters()
        self.ended, self.alarms = [], []
        mint = Random(7)
        self.service = JournalService(
            self.clock,
            self.writer,
            lambda: open_store(self.disk, "/d", NODE, 0, lambda: mint.getrandbits(64), settings),
            lambda code, text: self.ended.append((code, text)),
            self.counters,
            limits,
        )
        self.service.observe_alarm(self.alarms.append)

    def opened(self):
        self.service.startService()
        self.done(self.service.open())
        return self

    def done(self, deferred):
        """Let the writer work; the result, or the error raised."""
        self.writer.run()
        return result_of(deferred)

    def append(self, group, first, count=1, data=b"x"):
        return self.service.group(group).append(
            HardState(1, 1, 1), entries(first, count, data=data)
        )

    def again(self):
        """The process is killed; the next one."""
        self.disk.processes_ended()
        return Rig(self.disk).opened()


def result_of(deferred):
    """The result of a Deferred that fired, or its error raised; None while it waits."""
    results = []
    deferred.addBoth(results.append)
    if results and isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0] if results else None


def waits(deferred):
    return not deferred.called

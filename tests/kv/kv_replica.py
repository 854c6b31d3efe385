"""A replica without a log: commands are applied one after the other."""

from __future__ import annotations

from meshsvc.kv import commands
from meshsvc.kv.machine import Machine


def drain(steps):
    """Run steps to their end; what they return comes back."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


class Replica:
    """A machine and the index of the next entry."""

    def __init__(self, machine=None):
        self.machine = machine or Machine(1, 2)
        self.index = self.machine.applied_index

    def do(self, command, term=1):
        self.index += 1
        return self.machine.apply(commands.encode(command), self.index, term)

    def prune(self, step=3):
        while self.machine.mvcc.prune(step):
            pass

    def hash(self):
        return drain(self.machine.hash())


def copy(machine):
    """A machine restored from a snapshot of another."""
    restore = machine.restore()
    whole = [restore.feed(chunk) for chunk in machine.snapshot()]
    assert whole == [False] * (len(whole) - 1) + [True]
    return restore.machine

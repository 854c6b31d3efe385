"""Peers are written down when they change, and again when it is not known what the disk holds."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from meshsvc.counters import Counters
from meshsvc.gossip.members import Status
from meshsvc.model import Address, NodeId
from meshsvc.node.remembering import SAVE_S, PeerMemory
from meshsvc.sim.disk import SimDisk
from meshsvc.storage.peers import PeerStore

ME = NodeId("0" * 32)


class Bench:
    """A memory over a disk, and the members that gossip tells of."""

    def __init__(self):
        self.disk, self.now, self.known, self.broken = SimDisk(Random(1)), 100.0, (), False
        around = SimpleNamespace(fs=self.disk, off_reactor=self.off_reactor)
        self.memory = PeerMemory(around, "/sim/n1", Counters())
        self.memory.load()
        self.save = self.memory.follow(self, ME, lambda: self.now)

    def off_reactor(self, call, *args) -> Deferred:
        call(*args)
        return fail(OSError("the folder was not synced")) if self.broken else succeed(None)

    def members(self):
        return self.known

    def observe_view(self, observer):
        self.changed = observer

    def become(self, *numbers):
        """Other nodes are members; a second, and then enough of them, pass."""
        self.known = tuple(member(number) for number in numbers)
        self.changed(0)
        self.now += SAVE_S + 1.0
        self.save()

    @property
    def kept(self):
        return [address.host for address in PeerStore(self.disk, "/sim/n1/peers").load()]


def member(number):
    address = Address(f"10.0.0.{number}", 7700)
    return SimpleNamespace(
        node_id=NodeId(f"{number:032x}"), status=Status.ALIVE, alive=True, address=address
    )


@pytest.mark.contract("GSP-11")
def test_a_save_that_failed_may_have_been_made_all_the_same():
    """What was saved before it is written again, though it is what was saved last for sure."""
    bench = Bench()
    bench.become(1, 2)
    bench.broken = True
    bench.become(1)
    assert bench.kept == ["10.0.0.1"]
    bench.broken = False
    bench.become(1, 2)
    assert bench.kept == ["10.0.0.1", "10.0.0.2"]

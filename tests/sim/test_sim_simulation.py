"""The simulator as others use it: a cluster in a test, and the same run for the same seed."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from zope.interface import implementer

from meshsvc.errors import Disconnected, HandlerFailed, StartError
from meshsvc.interfaces import IMeshApplication
from meshsvc.model import ShardAddress, ShardId
from meshsvc.sim import InvariantBroken, simulate
from meshsvc.sim.cluster import Violation
from meshsvc.sim.commands import BadCommand
from meshsvc.sim.runner import run_seed


@implementer(IMeshApplication)
class Shelf:
    name = "shelf"

    def make_service(self, mesh):
        return ShelfService(mesh)


class ShelfService(Service):
    def __init__(self, mesh):
        self.mesh, self.kept = mesh, {}

    def startService(self):
        super().startService()
        self.mesh.verbs.register("shelf.put", self.put)
        self.mesh.verbs.register("shelf.where", lambda call: [self.mesh.name, self.mesh.shard])

    def put(self, call):
        self.kept[call.payload["key"]] = call.now
        return len(self.kept)


def test_an_application_survives_a_crash():
    """An application runs in every shard, and keys move when their owner crashes."""
    with simulate(nodes=3, shards=2, applications=[Shelf()], seed=7) as sim:
        n1, n2, _ = sim.nodes
        sim.run_until(sim.formed, timeout_s=10)
        keys = [f"k{number}" for number in range(40)]
        before = [sim.ask(n1, "shelf.where", None, key=key) for key in keys]
        assert {node for node, _ in before} == {"n1", "n2", "n3"}
        n2.crash()
        sim.run_until(sim.formed, timeout_s=10)
        after = [sim.ask(n1, "shelf.where", None, key=key) for key in keys]
        assert {node for node, _ in after} == {"n1", "n3"}
        assert sim.ask(n1, "shelf.put", {"key": "k"}, key="k") == 1


@pytest.mark.contract("MESH-9", "VERB-2")
def test_a_new_epoch_ends_no_ask_between_nodes_that_stay():
    """Whichever shards ask and answer, and whichever hold the links: a third node's death is
    nothing to them.
    """
    held, seen = [], []

    def hold(call):
        held.append(Deferred())
        return held[-1]

    with simulate(nodes=3, shards=3, seed=11) as sim:
        n1, n2, n3 = sim.nodes
        sim.run_until(sim.formed, timeout_s=10)
        for life in n2.shards.values():
            life.shard.messaging.register("t.hold", hold)
        for life in n1.shards.values():
            for index in range(3):
                target = ShardAddress(n2.node_id, ShardId(index))
                asked = life.shard.messaging.ask(target, "t.hold", None, 60.0)
                asked.addBoth(seen.append)
        sim.run(1.0)
        assert len(held) == 9
        before = n1.zero.shard.post.epoch
        n3.crash()
        sim.run_until(lambda: sim.formed() and n1.zero.shard.post.epoch > before)
        assert seen == []
        for number, waiting in enumerate(held):
            waiting.callback(number)
        sim.run(1.0)
        assert sorted(seen) == list(range(9))
        for life in n2.shards.values():
            life.shard.messaging.unregister("t.hold")


class Buggy(Shelf):
    """Fails at one of the places where an application of one's own may."""

    def __init__(self, where):
        self.where = where

    def make_service(self, mesh):
        self.fail("make")
        service = super().make_service(mesh)
        service.startService = lambda: self.start(service)
        return service

    def start(self, service):
        self.fail("start")
        service.mesh.verbs.register("shelf.put", lambda call: self.fail("verb"))
        if self.where == "deferred":
            Deferred().addCallback(self.fail).callback("deferred")

    def fail(self, where):
        if where == self.where:
            raise KeyError(f"my bug in {where}")


def put_once(*applications, **more):
    with simulate(applications=applications, seed=5, **more) as sim:
        sim.run_until(sim.formed, timeout_s=10)
        return sim.ask(sim.nodes[0], "shelf.put")


@pytest.mark.parametrize(
    ("where", "named"),
    [
        ("make", "application shelf: make_service failed"),
        ("start", "application shelf: startService failed"),
        ("verb", "the handler of shelf.put failed"),
        ("deferred", "an error in a Deferred that nobody handled"),
    ],
)
def test_a_bug_of_an_application_fails_its_test_and_is_named(where, named, logged_errors):
    """Wherever it raises: the text has what was raised, and which application or verb it was."""
    with pytest.raises(InvariantBroken, match=f"{named}.*my bug in {where}"):
        put_once(Buggy(where))
    gc.collect()  # the Deferreds of the other nodes
    logged_errors.flush()


def test_what_a_verb_may_raise_is_said_beforehand(logged_errors):
    """An error that is part of what an application does fails no test."""
    with pytest.raises(HandlerFailed, match="my bug in verb"):
        put_once(Buggy("verb"), expected=(KeyError,))
    logged_errors.flush(KeyError)


def test_mistakes_in_a_test_are_named():
    """No nodes, something that is no application, a node or a command that is not there."""
    with pytest.raises(ValueError, match="give at least one"), simulate(nodes=0):
        pass
    with pytest.raises(TypeError, match="is no application"), simulate(applications=[5]):
        pass
    with simulate() as sim:
        with pytest.raises(BadCommand, match="there is no node 'n9', but n1, n2, n3"):
            sim.fault("crash n9")
        with pytest.raises(BadCommand, match="write partition NODE"):
            sim.fault("partition n1 n2")


def test_a_call_error_is_raised():
    """What a call ends in comes out of ``ask``."""
    with simulate(nodes=2, seed=1) as sim:
        sim.run_until(sim.formed, timeout_s=10)
        assert sim.ask(sim.nodes[0], "sys.echo", [1, "x"]) == [1, "x"]
        sim.fault("isolate n2")
        sim.run(8)
        sim.nodes[0].zero.shard.directory.set_roster(None)
        with pytest.raises(Disconnected):
            sim.ask(sim.nodes[0], "sys.echo", 1, key="k")


def test_a_broken_invariant_fails_the_test():
    """A violation is raised with the seed and the events that led to it."""
    with simulate(seed=3) as sim:
        sim.run(1.0)
        violation = Violation("TEST", "planted", 1.0)
        sim.cluster.violation = violation
        with pytest.raises(InvariantBroken, match="seed 3: TEST: planted"):
            sim.check()
        sim.cluster.violation = None


@pytest.mark.contract("SIM-1")
def test_one_seed_is_one_trace_whatever_the_hash_seed():
    """The trace of a seed is the same in five processes with other string hashes."""
    code = (
        "from meshsvc.sim.runner import run_seed, be_quiet; be_quiet();"
        " print([run_seed('swarm', seed).digest for seed in (3, 17)])"
    )
    digests = set()
    for hash_seed in range(5):
        env = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout)
    assert len(digests) == 1


@pytest.mark.contract("SIM-1")
def test_seeds_differ(logged_errors):
    """Another seed is another run."""
    assert run_seed("swarm", 1).digest != run_seed("swarm", 2).digest
    logged_errors.flush(OSError, StartError)

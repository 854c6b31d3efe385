"""``mesh.kv()`` from every shard of every node, in simulated clusters."""

from __future__ import annotations

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred

from meshsvc.kv.client.protocol import WatchLost
from meshsvc.kv.errors import Compacted, KvError
from meshsvc.sim.simulation import simulate

HELD = {"store": {"expect": 3}}


class Contexts:
    """An application that only keeps the contexts it is given."""

    name = "contexts"

    def __init__(self) -> None:
        self.of: dict[tuple[str, int], object] = {}

    def make_service(self, mesh):
        self.of[mesh.name, mesh.shard] = mesh
        return Service()


def started(sim, app):
    sim.run_until(sim.formed, 30)
    sim.run_until(lambda: all(led(node) for node in sim.nodes), 30)
    return app


def led(node):
    return node.zero is not None and node.zero.zero.store.keyspace.status().leader_id


def run(sim, coroutine, timeout_s=20.0):
    """What a coroutine returns, or raises."""
    ended = []
    Deferred.fromCoroutine(coroutine).addBoth(ended.append)
    sim.run_until(lambda: ended, timeout_s)
    if hasattr(ended[0], "raiseException"):
        ended[0].raiseException()
    return ended[0]


@pytest.mark.contract("KV-1", "KV-2")
def test_every_shard_reads_and_writes_one_store():
    """Keys, transactions, watches and leases are the same from shard 0, others and elsewhere."""
    app = Contexts()
    with simulate(nodes=3, shards=2, applications=[app], seed=5, config=HELD) as sim:
        started(sim, app)
        revision = 0
        for (node, shard), mesh in app.of.items():
            revision = run(sim, mesh.kv().put(f"jobs/{node}/{shard}", b"x"))
        for mesh in app.of.values():
            assert len(run(sim, mesh.kv().items("jobs/"))) == len(app.of)
        far, near = app.of["n3", 1].kv(), app.of["n1", 0].kv()
        watching = far.watch("jobs/", prefix=True, from_revision=revision + 1)
        run(sim, near.put("jobs/new", b"y"))
        event = run(sim, watching.__anext__())
        assert (event.kv.key, event.kv.value) == (b"jobs/new", b"y")
        assert run(sim, far.delete("jobs/", prefix=True)) == len(app.of) + 1
        watching.close()
        with pytest.raises(KvError, match="future revision"):
            run(sim, far.get("a", revision=10**9))


@pytest.mark.contract("KV-3")
def test_a_lock_from_another_shard_excludes():
    """One holder at a time, wherever the two who want it are."""
    app = Contexts()
    with simulate(nodes=3, shards=2, applications=[app], seed=6, config=HELD) as sim:
        started(sim, app)
        order = []

        async def hold(mesh, name):
            async with mesh.kv().lock("nightly", ttl_s=10):
                order.append(f"{name} in")
                done = Deferred()
                mesh.clock.callLater(1.0, done.callback, None)
                await done
                order.append(f"{name} out")

        ended = []
        for key in (("n1", 1), ("n3", 0), ("n2", 1)):
            work = Deferred.fromCoroutine(hold(app.of[key], key[0]))
            work.addBoth(ended.append)
        sim.run_until(lambda: len(ended) == 3, 60)
        assert ended == [None] * 3
        names = [text.split() for text in order]
        assert [each[1] for each in names] == ["in", "out"] * 3
        entered, left = names[::2], names[1::2]
        assert [each[0] for each in entered] == [each[0] for each in left]


@pytest.mark.contract("KV-2")
def test_a_watch_whose_holder_dies_says_so():
    """The application is told, and goes on from the next revision at another node."""
    app = Contexts()
    config = {"store": {"expect": 3}}
    with simulate(nodes=3, shards=2, applications=[app], seed=7, config=config) as sim:
        started(sim, app)
        kv = app.of["n2", 1].kv()
        watching = kv.watch("k", from_revision=1)
        sim.run(1)
        sim.nodes[1].kill_shard(0)
        with pytest.raises((WatchLost, Compacted)):
            run(sim, watching.__anext__(), 60)
        sim.run_until(sim.formed, 60)
        revision = run(sim, kv.put("k", b"2"), 60)
        again = kv.watch("k", from_revision=revision)
        assert run(sim, again.__anext__(), 30).kv.mod_revision == revision
        again.close()

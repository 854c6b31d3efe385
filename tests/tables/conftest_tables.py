"""Tables in simulated clusters, and replicas by themselves."""

from __future__ import annotations

import pytest
from twisted.python.failure import Failure

from meshsvc.sim import simulate


class Bench:
    """A simulated cluster whose every shard opens tables; a table is asked for by (node, shard)."""

    def __init__(self, sim):
        self.sim = sim

    def shard(self, node, shard=0):
        return self.sim.cluster.node(node).shards[shard].shard

    def table(self, node, shard=0, name="t"):
        return self.shard(node, shard).tables.tables[name]

    def tables(self, name="t"):
        """Every copy of the running nodes, by node/shard."""
        return {
            f"{node.name}/{index}": life.shard.tables.tables[name]
            for node in self.sim.nodes
            if node.running
            for index, life in sorted(node.shards.items())
            if life.shard is not None
        }

    def wait(self, deferred, timeout_s=20.0):
        """What a Deferred fires with; raises what it fails with."""
        ended = []
        deferred.addBoth(ended.append)
        self.sim.run_until(lambda: ended, timeout_s)
        if isinstance(ended[0], Failure):
            ended[0].raiseException()
        return ended[0]

    def joined(self, name="t"):
        """Whether every copy knows itself joined with every running node."""
        running = sum(node.running for node in self.sim.nodes)
        tables = self.tables(name).values()
        return self.sim.formed() and all(
            len(table.status()["joined"]) == running - 1 for table in tables
        )

    def equal(self, name="t"):
        """Whether all copies hold the same."""
        dumps = [dict(table.dump()) for table in self.tables(name).values()]
        return all(dump == dumps[0] for dump in dumps)


@pytest.fixture
def cluster():
    """Makes simulated clusters whose nodes open the table ``t`` by their config."""
    open_ones = []

    def make(nodes=3, shards=1, seed=1, settings=None, form=True, **schema):
        config = {"tables": {"t": {"kind": "ordered", **schema}, **(settings or {})}}
        context = simulate(nodes, shards, seed=seed, config=config)
        bench = Bench(context.__enter__())
        open_ones.append(context)
        if form:
            bench.sim.run_until(bench.joined, 20.0)
        return bench

    yield make
    for context in open_ones:
        context.__exit__(None, None, None)

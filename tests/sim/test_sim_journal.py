"""A journal in a simulated shard: on its disk, in virtual time, the same for the same seed."""

from __future__ import annotations

from random import Random

import pytest

from meshsvc.sim import simulate
from meshsvc.storage.records import Entry, HardState
from meshsvc.storage.service import JournalService
from meshsvc.storage.store import open_store


class Appending:
    """Appends to one group of a node's journal for as long as the process lives."""

    def __init__(self, node, told):
        self.node, self.told, self.found = node, told, None
        shard = node.zero.shard
        mint = Random(node.rng.getrandbits(64))
        self.service = JournalService(
            shard.reactor,
            shard.surroundings.writer(shard.reactor),
            lambda: open_store(
                node.disk,
                shard.boot.data_dir,
                shard.boot.node_id,
                0,
                lambda: mint.getrandbits(64),
            ),
            shard.channel.fatal,
            shard.counters,
        )
        self.log = self.service.group(1)
        self.service.open().addCallbacks(self.opened, lambda failure: None)

    def opened(self, _):
        self.found = self.log.load()
        self.append(len(self.found.entries) + 1)

    def append(self, index):
        done = self.log.append(HardState(1, 1, index - 1), (Entry(index, 1, 0, b"x"),))

        def durable(_):
            self.told.append((index, round(self.node.cluster.time.now, 6)))
            self.append(index + 1)

        done.addCallbacks(durable, lambda failure: None)


def run(seed, how, lives=3):
    """What was told of appends over some lives of a node; each ends as ``how`` says."""
    with simulate(nodes=1, seed=seed) as sim:
        [node] = sim.nodes
        told = []
        for _ in range(lives):
            sim.run_until(lambda: node.zero is not None)
            before = told[-1][0] if told else 0
            life = Appending(node, told)
            sim.run_until(lambda life=life: life.found is not None)
            assert len(life.found.entries) >= before
            sim.run(2.0)
            how(sim, node)
            sim.run(1.0)
            node.start()
        return told


@pytest.mark.contract("LOG-1", "SIM-1")
@pytest.mark.parametrize("seed", range(3))
def test_what_was_told_survives_the_end_of_the_process_and_of_the_power(seed):
    """After crashes and power cuts the journal has all that was acknowledged, and goes on."""
    lost_power = run(seed, lambda sim, node: node.power_off())
    killed = run(seed, lambda sim, node: node.crash())
    assert min(len(lost_power), len(killed)) > 300
    for told in (lost_power, killed):
        indices = [index for index, _ in told]
        assert sorted(set(indices)) == sorted(indices)


@pytest.mark.contract("SIM-1")
def test_one_seed_is_one_run():
    """The same appends are told at the same virtual times."""
    cut = lambda sim, node: sim.fault(f"power-cut {node.name} 5")  # noqa: E731
    assert run(7, cut) == run(7, cut) != run(8, cut)

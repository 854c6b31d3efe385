"""The leader of the system group is the controller of the mesh, and any node may be."""

from __future__ import annotations

import pytest

from meshsvc.model import Epoch
from meshsvc.sim.simulation import simulate

RAFT = {"store": {"expect": 3}, "mesh": {"controller": "raft"}}


def zero(node):
    return node.zero.zero


def controller(sim):
    """The node whose replica leads the system group."""

    def leads(node):
        store = zero(node).store if node.zero is not None else None
        return store is not None and store.system.status().leader_id == store.machine.member_id

    sim.run_until(lambda: any(leads(node) for node in sim.nodes), 30)
    return next(node for node in sim.nodes if leads(node))


def epoch(node):
    return Epoch.parse(zero(node).mesh.status()["epoch"])


@pytest.mark.contract("MESH-11", "MESH-8", "MESH-2")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_mesh_survives_its_controller(seed):
    """Its death costs an election: the next leader mints a greater epoch without it."""
    with simulate(nodes=3, shards=1, seed=seed, config=RAFT) as sim:
        sim.run_until(sim.formed, 20)
        first = controller(sim)
        before = epoch(first)
        first.crash()
        sim.run_until(sim.formed, 20)
        left = [node for node in sim.nodes if node is not first]
        assert {epoch(node) for node in left} == {epoch(left[0])}
        assert epoch(left[0]).term > before.term, "another leader, another term"
        first.start()
        sim.run_until(sim.formed, 20)
        assert epoch(first) > before


@pytest.mark.contract("MESH-11")
def test_a_minority_forms_nothing():
    """A controller that is cut off from the majority mints no epoch; the others do."""
    with simulate(nodes=3, shards=1, seed=4, config=RAFT) as sim:
        sim.run_until(sim.formed, 20)
        cut = controller(sim)
        others = [node for node in sim.nodes if node is not cut]
        before = epoch(cut)
        sim.fault(f"partition {cut.name} | {' '.join(node.name for node in others)}")
        sim.run(20)
        assert epoch(cut) == before
        assert all(epoch(node) > before for node in others)
        sim.fault("heal")
        sim.run_until(sim.formed, 30)
        assert epoch(cut) == epoch(others[0])

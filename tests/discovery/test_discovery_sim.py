"""Discovery of whole nodes in the simulator: memory, late backends, splits, stopped peers."""

from __future__ import annotations

import pytest
from disco_fakes import FakeBackend
from twisted.internet.defer import Deferred, succeed

from meshsvc.sim.simulation import simulate
from meshsvc.storage.peers import PeerStore

BY_FAKE = {"seeds": {"addresses": []}, "discovery": {"backend": "fake"}}


class Listing(FakeBackend):
    """Answers what the test put into ``known``; hangs while ``known`` is None."""

    def __init__(self):
        super().__init__(None)
        self.known = None

    def get_nodes(self):
        self.asked += 1
        return Deferred() if self.known is None else succeed(list(self.known))


def discovery(node):
    return node.zero.zero.discovery


def known_to(node):
    """How many nodes a node knows; 0 while it does not run."""
    return len(node.zero.zero.gossip.members()) if node.zero is not None else 0


def counted(node, name, **labels):
    return node.zero.shard.counters.total(name, **labels)


def status(sim, node):
    """The status of a node, and how many virtual seconds it took."""
    got, began = [], sim.now
    discovery(node).status().addCallback(got.append)
    sim.run_until(lambda: got, timeout_s=10.0)
    return got[0], sim.now - began


@pytest.mark.contract("DISC-4", "DISC-6")
def test_a_cluster_is_ready_and_says_so():
    """Every node: ready, all joined, all discovered ones available."""
    with simulate(nodes=3, seed=3) as sim:
        sim.run_until(sim.formed)
        sim.run_until(lambda: all(discovery(node).was_ready for node in sim.nodes))
        for node in sim.nodes:
            found, _ = status(sim, node)
            assert found.available_nodes == found.joined_nodes == ["n1", "n2", "n3"]
            assert found.discovered_nodes == ["n1", "n2"], "the seeds"
            assert not discovery(node).core.phases.initial
            assert discovery(node).missing() == ()


@pytest.mark.contract("DISC-4")
def test_an_application_waits_in_whatever_shard_it_runs():
    """``mesh.wait_for_ready``: asked of shard 0, over the bus."""
    with simulate(nodes=2, shards=2, seed=4) as sim:
        sim.run_until(lambda: len(sim.nodes[0].shards) == 2, timeout_s=10.0)
        sim.run(1.0)
        for life in sim.nodes[0].shards.values():
            got = []
            life.shard.context("app").wait_for_ready(20.0).addBoth(got.append)
            sim.run_until(lambda: got, timeout_s=25.0)  # noqa: B023
            assert got == [None]
            life.shard.context("app").wait_for_get_nodes(1.0).addBoth(got.append)
            sim.run(1.0)
            assert got == [None, None]


@pytest.mark.contract("GSP-11")
@pytest.mark.parametrize("how", ["crash", "power_off", "stop"])
def test_a_cluster_that_lost_every_process_finds_itself_by_memory_alone(how):
    """No seed and no backend is left: what the disks remember is enough."""
    with simulate(nodes=4, seed=5) as sim:
        sim.run_until(sim.formed)
        sim.run(15.0)
        for node in sim.nodes:
            getattr(node, how)()
        sim.run_until(lambda: not any(node.shards for node in sim.nodes), timeout_s=40.0)
        sim.cluster.shape.config["seeds"] = {"addresses": []}
        for node in sim.nodes:
            node.start()
        sim.run_until(sim.formed, timeout_s=60.0)


@pytest.mark.contract("GSP-11")
def test_a_damaged_memory_is_no_obstacle():
    """A bit flipped, or the disk full: a warning and a counter; the seeds do."""
    with simulate(nodes=3, seed=6) as sim:
        sim.run_until(sim.formed)
        sim.run(15.0)
        n1 = sim.nodes[0]
        n1.crash()
        path = "/sim/n1/peers"
        good = n1.disk.files()[path]
        n1.disk.put(path, good[:-3] + b"9" + good[-2:])
        n1.start()
        sim.run_until(sim.formed)
        assert counted(n1, "discovery_memory_errors_total", what="load") == 1
        sim.run(15.0)
        assert PeerStore(n1.disk, path).load(), "written anew"


@pytest.mark.contract("DISC-1", "DISC-3")
def test_nodes_whose_backend_hangs_start_alone_and_meet_when_it_answers():
    """A hanging check is given up after 10 s; the one that answers brings them together."""
    backend = Listing()
    with simulate(nodes=3, applications=[backend], seed=7, config=BY_FAKE) as sim:
        sim.run(15.0)
        assert backend.asked >= 3
        for node in sim.nodes:
            core = discovery(node).core
            assert core.reason == "no answer in 10 s"
            assert len(node.zero.zero.gossip.members()) == 1
            assert not discovery(node).was_ready
        backend.known = [str(node.address) for node in sim.nodes]
        sim.run_until(sim.formed, timeout_s=30.0)
        sim.run_until(lambda: all(discovery(node).was_ready for node in sim.nodes))


@pytest.mark.contract("DISC-5")
def test_a_backend_that_finds_nobody_leaves_a_node_alone_at_once():
    """It does not wait for contacts there are none of; later ones are found within 5 s."""
    backend = Listing()
    backend.known = []
    with simulate(nodes=2, applications=[backend], seed=8, config=BY_FAKE) as sim:
        sim.run(2.0)
        assert all(node.zero.zero.gossip.membership.answer_echo() for node in sim.nodes)
        backend.known = [str(node.address) for node in sim.nodes]
        sim.run(6.0)
        assert all(len(node.zero.zero.gossip.members()) == 2 for node in sim.nodes)


@pytest.mark.contract("DISC-6")
def test_a_split_that_heals_and_a_restart_are_told_apart():
    """Each is counted on every node that saw it."""
    with simulate(nodes=3, seed=9) as sim:
        sim.run_until(sim.formed)
        sim.fault("partition n3 | n1 n2")
        sim.run(20.0)
        sim.fault("heal")
        sim.run_until(sim.formed)
        n1, _, n3 = sim.nodes
        what = "discovery_returns_total"
        assert counted(n1, what, what="healed_split") == 1
        assert counted(n1, what, what="restarted") == 0
        assert counted(n3, what, what="healed_split") == 2
        n3.crash()
        sim.run(5.0)
        n3.start()
        sim.run_until(sim.formed)
        assert counted(n1, what, what="restarted") == 1
        assert counted(n1, what, what="healed_split") == 1


@pytest.mark.contract("DISC-6")
def test_a_stopped_peer_does_not_hold_up_the_status():
    """SIGSTOP: it is named as silent after 2 s, the others are compared."""
    with simulate(nodes=3, seed=10) as sim:
        sim.run_until(sim.formed)
        n1, _, n3 = sim.nodes
        n3.pause()
        found, took = status(sim, n1)
        assert took < 3.0
        assert found.silent_nodes == ["n3"]
        assert found.joined_nodes == ["n1", "n2"]
        n3.resume()


@pytest.mark.contract("DISC-1")
def test_a_lost_node_is_looked_for_after_30_s():
    """Its replacement may be at another address, which the backend knows by then."""
    backend = Listing()
    with simulate(nodes=3, applications=[backend], seed=11, config=BY_FAKE) as sim:
        n1, n2, n3 = sim.nodes
        n3.crash()
        backend.known = [str(n1.address), str(n2.address)]
        sim.run_until(lambda: known_to(n1) == 2, timeout_s=30.0)
        sim.run(20.0)
        n2.crash()
        backend.known = [str(n3.address)]
        n3.start()
        sim.run(25.0)
        assert known_to(n1) == 2, "with 5 min armed, 30 s after the loss is the soonest"
        sim.run_until(lambda: known_to(n1) == 3, timeout_s=20.0)

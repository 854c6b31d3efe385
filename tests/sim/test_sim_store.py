"""The store of whole simulated clusters: faults that users fear, one at a time."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from planting import swap
from twisted.python.failure import Failure

from meshsvc.kv import api
from meshsvc.kv.errors import KvError
from meshsvc.raft.replica import Limits
from meshsvc.sim import simulate
from meshsvc.sim.runner import run_seed
from meshsvc.sim.store.clients import service_of
from meshsvc.sim.store.faults import leader


def store(nodes=3):
    return simulate(nodes=nodes, config={"store": {"expect": nodes}})


def founded(sim):
    """Every node knows a leader."""

    def led():
        services = [service_of(node.zero) for node in sim.nodes]
        return all(s is not None and s.group.status().leader_id for s in services)

    sim.run_until(led, timeout_s=20)
    return leader(sim.cluster)


def start(node, request):
    """Begin a request at a node; what it ends in is put into the list that comes back."""
    service, ended = service_of(node.zero), []
    kind = {api.Put: "put", api.Range: "range"}[type(request)]
    node.zero.reactor.post(0, lambda: getattr(service, kind)(request).addBoth(ended.append))
    return ended


def do(sim, node, request, timeout_s=9.0):
    """A request at a node; its answer, or the error it ended in."""
    ended = start(node, request)
    sim.run_until(lambda: ended, timeout_s)
    return ended[0].value if isinstance(ended[0], Failure) else ended[0]


def value(sim, node):
    return do(sim, node, api.Range(b"k")).kvs[0].value


@pytest.mark.contract("RAFT-7", "KV-1")
def test_a_leader_that_stood_still_for_five_seconds_reads_nothing_old():
    """What it was asked meanwhile sees what the others wrote; what it was told is not lost."""
    with store() as sim:
        old = founded(sim)
        others = [node for node in sim.nodes if node is not old]
        do(sim, old, api.Put(b"k", b"1"))
        sim.fault(f"pause {old.name}")
        asked = start(old, api.Range(b"k"))
        sim.run(5.0)
        assert do(sim, others[0], api.Put(b"k", b"2")).header.revision == 3
        sim.fault(f"resume {old.name}")
        sim.run_until(lambda: asked, 9.0)
        answer = asked[0]
        assert isinstance(answer, Failure) or answer.kvs[0].value == b"2"
        assert {value(sim, node) for node in sim.nodes} == {b"2"}


@pytest.mark.contract("RAFT-7")
def test_a_put_succeeds_again_within_three_seconds_of_the_leaders_end():
    """Every second voter takes over, and nothing acknowledged is missing."""
    with store() as sim:
        old = founded(sim)
        do(sim, old, api.Put(b"k", b"1"))
        sim.fault(f"crash {old.name}")
        began = sim.now
        left = next(node for node in sim.nodes if node is not old)
        assert do(sim, left, api.Put(b"j", b"2")).header.revision == 3
        assert sim.now - began < 3.0
        assert value(sim, left) == b"1"


@pytest.mark.contract("RAFT-2", "RAFT-3")
def test_two_of_five_are_cut_off_and_come_back():
    """The three go on, the two answer nothing that must be current, then all are the same."""
    with store(5) as sim:
        founded(sim)
        few, many = sim.nodes[3:], sim.nodes[:3]
        do(sim, many[0], api.Put(b"k", b"1"))
        sim.fault("partition n4 n5 | n1 n2 n3")
        sim.run(3.0)
        assert not isinstance(do(sim, many[0], api.Put(b"k", b"2")), KvError)
        assert isinstance(do(sim, few[0], api.Range(b"k")), KvError)
        assert isinstance(do(sim, few[1], api.Put(b"k", b"3")), KvError)
        sim.fault("heal")
        sim.run(5.0)
        assert {value(sim, node) for node in sim.nodes} == {b"2"}


@pytest.mark.contract("RAFT-3")
@pytest.mark.parametrize("seed", range(3))
def test_two_voters_without_a_direct_link_are_relayed(seed):
    """Both write within a second, whoever leads, and nobody is elected for it."""
    config = {"store": {"expect": 3}}
    with simulate(nodes=3, config=config, seed=seed) as sim:
        old = founded(sim)
        other = next(node for node in sim.nodes if node is not old)
        sim.fault(f"partition {old.name} | {other.name}")
        sim.run(25.0)
        before = leader(sim.cluster)
        term = service_of(before.zero).group.status().term
        for node in sim.nodes:
            began = sim.now
            assert not isinstance(do(sim, node, api.Put(b"k", b"1")), KvError)
            assert sim.now - began < 1.0
        sim.run(10.0)
        assert service_of(before.zero).group.status().term == term


@pytest.mark.contract("LOG-3")
def test_a_disk_that_fails_ends_the_node_with_74(logged_errors):
    """Nothing is acknowledged by it any more; the others go on, and it comes back."""
    with store() as sim:
        old = founded(sim)
        sim.fault(f"disk {old.name} eio 1.0")
        start(old, api.Put(b"k", b"1"))
        sim.run_until(lambda: old.state == "down", 5.0)
        lines = [line.text for line in sim.cluster.trace.lines if line.kind == "exit"]
        assert lines
        assert lines[0].startswith("exit 74: ")
        left = next(node for node in sim.nodes if node is not old)
        assert not isinstance(do(sim, left, api.Put(b"k", b"2")), KvError)
        sim.fault(f"disk {old.name} well")
        sim.fault(f"start {old.name}")
        founded(sim)
        assert value(sim, old) == b"2"
    logged_errors.flush(OSError)


@pytest.mark.contract("LOG-3")
def test_full_disks_make_the_store_read_only_until_there_is_room(logged_errors):
    """With the disks of a majority full puts fail, reads go on; with room puts succeed."""
    with store() as sim:
        first = founded(sim)
        do(sim, first, api.Put(b"k", b"1"))
        for node in sim.nodes:
            node.disk.faults.full = True
        big = api.Put(b"big", bytes(1 << 20))
        while not isinstance(do(sim, first, big), KvError):
            assert sim.now < 200, "the disk is never full"
        assert {value(sim, node) for node in sim.nodes} == {b"1"}
        for node in sim.nodes:
            node.disk.faults.full = False
        sim.run(10.0)
        assert not isinstance(do(sim, first, api.Put(b"k", b"2")), KvError)
        assert {value(sim, node) for node in sim.nodes} == {b"2"}
    logged_errors.flush(OSError)


@pytest.mark.contract("RAFT-1", "LOG-4", "KV-1")
@pytest.mark.parametrize("name", ["store-partitions", "store-disks"])
def test_the_same_holds_with_a_snapshot_every_thirty_entries(name, logged_errors):
    """Members that were away are sent snapshots, and logs are compacted, under faults."""
    with swap(Limits, "entries", 30), swap(Limits, "keep", 5):
        result = run_seed(name, 4)
    logged_errors.flush(OSError)
    assert result.ok, result.report()


@pytest.mark.contract("SIM-1")
def test_a_run_with_a_store_is_the_same_every_time():
    """One seed, one trace, whatever the hash seed of the process."""
    program = (
        "from meshsvc.sim.runner import run_seed, be_quiet; be_quiet();"
        "print(run_seed('store-crashes', 1).digest)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1

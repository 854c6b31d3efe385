"""The store of a real cluster while nodes are stopped, killed, emptied, added and removed.

Each test leaves three nodes that are well, as it found them.
"""

import json
import shutil
import time
from pathlib import Path

import pytest
from dev_cluster import wait_until
from store_cluster import Writers, put

WRITES = 200
"""Acknowledged before and after what is done: a second or two of load."""


@pytest.fixture(autouse=True)
def _well(store):
    store.wait_well()


def value_of(node, key):
    done = node.cli("kv", "get", key, "--value-only")
    return done.stdout.rstrip("\n") if done.returncode == 0 else None


def wait_writes(writers, count):
    before = writers.total
    wait_until(lambda: writers.total >= before + count, 30, lambda: str(writers.failed[:5]))


@pytest.mark.contract("RAFT-7", "OPS-1")
def test_no_write_fails_while_the_leader_is_stopped(store):
    """SIGTERM: leadership and clients go elsewhere first; every put through any node is done."""
    leader = store.leader()
    others = [node for node in store.nodes if node is not leader]
    with Writers(store.nodes) as writers:
        wait_writes(writers, WRITES)
        leader.kill(15)
        wait_until(lambda: store.leader(others), 10, store.describe_store)
        wait_writes(writers, WRITES)
        wait_until(lambda: leader.http("/livez")[0] == 0, 20, "the node did not stop")
        wait_writes(writers, WRITES)
    assert not writers.failed
    for log in Path(leader.row["config"]).parent.glob("*.log"):
        assert "was not handed over" not in log.read_text()
    store.start(leader)
    for key, value in writers.acked.items():
        assert value_of(leader, key) == value


@pytest.mark.contract("RAFT-7")
def test_a_put_succeeds_soon_after_the_leader_was_killed(store):
    """kill -9 of the leader: within 3 s a put through another node is done, and acked ones stay."""
    leader = store.leader()
    others = [node for node in store.nodes if node is not leader]
    with Writers(others) as writers:
        wait_writes(writers, WRITES)
        leader.kill()
        started = time.monotonic()
        assert put(others[0], "after", "kill") == 200
        took = time.monotonic() - started
        wait_writes(writers, WRITES)
    assert took < 3
    for key, value in writers.acked.items():
        assert int(value_of(others[1], key)) >= int(value)
    store.start(leader)


@pytest.mark.contract("LOG-1", "RAFT-5", "LOG-5")
def test_all_are_killed_and_one_comes_back_with_an_emptied_disk(store):
    """kill -9 of every node at once: what was acknowledged is there after the restart. The one
    that lost its disk joins as another member, and the old one goes."""
    n1, _, n3 = store.nodes
    before = members_of(store)
    with Writers(store.nodes) as writers:
        wait_writes(writers, WRITES)
        for node in store.nodes:
            node.kill()
    acked = dict(writers.acked)
    shutil.rmtree(n3.row["data_dir"])
    # None of these lives ever heard of the member that is gone: the group remembers it.
    for node in store.nodes:
        store.start_again(node)
    store.wait_well()
    after = members_of(store)
    assert (after["n1"], after["n2"]) == (before["n1"], before["n2"])
    assert after["n3"] != before["n3"]
    assert len(after) == 3
    for node in (n1, n3):
        for key, value in acked.items():
            assert int(value_of(node, key)) >= int(value)


def members_of(store):
    """{name: member id}, by etcdctl."""
    found = json.loads(store.ctl(store.nodes[0])("member", "list", "-w", "json"))["members"]
    assert len({row["name"] for row in found}) == len(found)
    return {row["name"]: row["ID"] for row in found}


@pytest.mark.contract("KV-4", "RAFT-4", "RAFT-5")
def test_a_fourth_node_joins_and_is_removed(store, tmp_path):
    """It becomes a voter by itself; removed by hand, it stays out, and can be added again."""
    seeds = [node.row["peer"] for node in store.nodes]
    node = store.new_node("n4", tmp_path, seeds=seeds)
    process = store.start_new(node)
    try:
        four = [*store.nodes, node]
        store.wait_well(four)
        assert put(node, "from", "n4") == 200
        member = members_of(store)["n4"]
        assert "removed from cluster" in store.ctl()("member", "remove", f"{member:x}")
        store.wait_well()
        time.sleep(1.5)  # three times as long as a leader takes to look whom to take in
        assert store.well()
        assert any("without this node" in why for why in node.get("store")["missing"])
        peer = f"http://{node.row['peer']}"
        assert "added to cluster" in store.ctl()("member", "add", "n4", f"--peer-urls={peer}")
        store.wait_well(four)
        assert "removed from cluster" in store.ctl()("member", "remove", f"{member:x}")
        store.wait_well()
    finally:
        process.terminate()
        assert process.wait(40) == 0

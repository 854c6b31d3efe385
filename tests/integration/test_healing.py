"""kill -9 of any one process is healed without a hand, and said within seconds."""

import os
import shutil
import signal
import time

import pytest
from dev_cluster import epoch_of, wait_until


@pytest.fixture(autouse=True)
def _formed(cluster):
    cluster.wait_formed()


def status_everywhere(cluster, of, status, nodes):
    return all(node.statuses().get(of.name) == status for node in nodes)


@pytest.mark.contract("SHD-8", "VERB-2", "MESH-8")
@pytest.mark.parametrize("index", [1, 0])
def test_a_killed_shard_is_replaced_and_no_new_epoch_is_needed(cluster, index):
    """A shard comes back with a higher incarnation; callers get an error at once, then answers."""
    n1, n2, _ = cluster.nodes
    epoch = cluster.formed()
    before = next(row for row in n2.get("shards") if row["index"] == index)
    os.kill(before["pid"], signal.SIGKILL)
    wait_until(
        lambda: any(
            row["index"] == index
            and row["state"] == "running"
            and row["incarnation"] > before["incarnation"]
            for row in n2.get("shards") or ()
        ),
        10,
        cluster.describe,
    )
    wait_until(lambda: "reply" in n1.call(f"n2/{index}", "sys.info"), 10, cluster.describe)
    assert epoch_of(cluster.wait_formed()) >= epoch_of(epoch)


@pytest.mark.contract("SHD-8", "VERB-2")
def test_asks_to_a_killed_shard_end_at_once(cluster):
    """An ask that is under way when its target is killed ends well before its time-out."""
    n1, n2, _ = cluster.nodes
    pid = n2.shard_pid(1)
    os.kill(pid, signal.SIGSTOP)  # so that the call is under way when the process dies
    from threading import Timer

    Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
    started = time.monotonic()
    error = n1.call("n2/1", "sys.echo", 1, timeout_s=20)["error"]
    assert error["kind"] == "Disconnected"
    assert time.monotonic() - started < 5


@pytest.mark.contract("GSP-7", "MESH-8")
@pytest.mark.parametrize("which", [2, 1, 0])
def test_a_killed_node_is_dead_in_seconds_and_welcome_again(cluster, which):
    """The last, the middle and the first (the controller): dead everywhere in 3 s; started
    again it is alive, and one higher epoch is everywhere within 30 s.
    """
    victim = cluster.nodes[which]
    others = [node for node in cluster.nodes if node is not victim]
    epoch = cluster.formed()
    # What the test before this one killed may be formed again, and its shards not all up.
    wait_until(lambda: all(node.http("/readyz")[0] == 200 for node in others), 10, "not ready")
    started = time.monotonic()
    victim.kill()
    wait_until(lambda: status_everywhere(cluster, victim, "dead", others), 8, cluster.describe)
    assert time.monotonic() - started < 4
    ready = {node.name: node.http("/readyz") for node in others}
    assert {code for code, *_ in ready.values()} == {200}, ready
    if which != 0:
        cluster.wait_formed(others)
    cluster.start_again(victim)
    assert epoch_of(cluster.wait_formed()) > epoch_of(epoch)
    assert all(node.statuses()[victim.name] == "alive" for node in cluster.nodes)


@pytest.mark.contract("GSP-9", "SHD-9")
def test_a_stopped_node_has_left_within_a_second(cluster):
    """SIGTERM: exit 0, shown as left (not dead) at once; started again it is alive."""
    victim = cluster.nodes[2]
    others = cluster.nodes[:2]
    victim.kill(signal.SIGTERM)
    wait_until(lambda: status_everywhere(cluster, victim, "left", others), 2, cluster.describe)
    cluster.wait_formed(others)
    cluster.start_again(victim)
    cluster.wait_formed()


@pytest.mark.contract("GSP-8")
def test_a_node_that_was_stopped_for_five_seconds_blames_nobody(cluster):
    """SIGSTOP of a whole node and SIGCONT: it convicts none of the others, and is back."""
    victim = cluster.nodes[1]
    others = [cluster.nodes[0], cluster.nodes[2]]
    pids = [victim.pid, *(row["pid"] for row in victim.get("shards"))]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: status_everywhere(cluster, victim, "dead", others), 10, cluster.describe)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    seen = set()
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        statuses = victim.statuses()
        seen |= {statuses.get(other.name) for other in others}
    assert "dead" not in seen
    cluster.wait_formed()
    assert [row["pid"] for row in victim.get("shards")] == pids[1:]


@pytest.mark.contract("MESH-8", "MESH-2", "GSP-11")
def test_a_cluster_that_lost_every_process_forms_again_under_a_higher_epoch(cluster):
    """kill -9 of all nodes; started again in reverse order they form by themselves."""
    epoch = cluster.formed()
    for node in cluster.nodes:
        node.kill()
    for node in reversed(cluster.nodes):
        cluster.start_again(node)
    assert epoch_of(cluster.wait_formed()) > epoch_of(epoch)


@pytest.mark.contract("LINK-2", "MESH-8")
def test_a_node_that_lost_its_data_is_taken_in_as_a_new_one(cluster):
    """The same name under another id: refused while the old one may live, then a member."""
    victim = cluster.nodes[2]
    old = {row["id"] for row in victim.get("members") if row["name"] == victim.name}
    victim.kill()
    wait_until(lambda: not victim.statuses(), 5, "its port is closed")
    shutil.rmtree(victim.row["data_dir"])
    cluster.start_again(victim)
    cluster.wait_formed(timeout_s=25)
    rows = [row for row in cluster.nodes[0].get("members") if row["name"] == victim.name]
    assert {row["status"] for row in rows if row["id"] in old} == {"dead"}
    assert {row["status"] for row in rows if row["id"] not in old} == {"alive"}

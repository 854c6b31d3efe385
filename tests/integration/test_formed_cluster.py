"""A cluster that nobody disturbs: what it shows, and who can talk to whom."""

import json
import threading
import time

import pytest
from dev_cluster import wait_until


@pytest.mark.contract("OPS-1", "MESH-1")
def test_dev_writes_cluster_json_and_the_mesh_is_formed(cluster):
    """cluster.json names every process and address; one epoch and all links are up."""
    table = json.loads((cluster.directory / "c/cluster.json").read_text())
    assert set(table) >= {"cluster", "nodes"}
    for row in table["nodes"]:
        assert set(row) >= {
            *("name", "pid", "shards", "peer", "client", "admin", "config", "data_dir"),
        }
        assert [shard["index"] for shard in row["shards"]] == [0, 1]
    assert cluster.wait_formed(timeout_s=5)


@pytest.mark.contract("MESH-1")
def test_mesh_and_members_have_their_documented_shape(cluster):
    """The JSON that scripts read: members as rows, mesh with its links."""
    for node in cluster.nodes:
        members = json.loads(node.cli("members", "-o", "json").stdout)
        assert [row["name"] for row in members] == ["n1", "n2", "n3"]
        for row in members:
            assert set(row) >= {"name", "id", "status", "generation", "address"}
            assert row["status"] == "alive"
        mesh = json.loads(node.cli("mesh", "-o", "json").stdout)
        assert mesh["roster"] == ["n1", "n2", "n3"]
        for link in mesh["links"]:
            assert set(link) == {"peer", "state", "epoch", "owner_shard", "rtt_ms"}
            assert link["epoch"] == mesh["epoch"]


@pytest.mark.contract("VERB-1")
def test_every_node_reaches_every_shard(cluster):
    """sys.info of each shard of each node, asked from each node."""
    for node in cluster.nodes:
        for target in cluster.nodes:
            for index in (0, 1):
                info = node.call(f"{target.name}/{index}", "sys.info")["reply"]
                assert (info["node"], info["shard"]) == (target.name, index)


@pytest.mark.contract("VERB-1", "SHD-5")
def test_all_nodes_agree_who_owns_a_key(cluster):
    """A key goes to one shard of one node, whoever asks; keys spread over all six."""
    owners = {}
    for key in range(60):
        asked = [node.call(f"key:user:{key}", "sys.info")["reply"] for node in cluster.nodes]
        places = {(info["node"], info["shard"]) for info in asked}
        assert len(places) == 1
        owners[key] = places.pop()
    assert len(set(owners.values())) == 6


@pytest.mark.contract("VERB-2")
@pytest.mark.parametrize(
    ("target", "verb", "kind"),
    [
        ("n2", "no.such", "UnknownVerb"),
        ("n9", "sys.echo", "NoSuchTarget"),
        ("n2/7", "sys.echo", "NoSuchTarget"),
    ],
)
def test_wrong_targets_and_verbs_are_named(cluster, target, verb, kind):
    """An unknown verb or target is a typed error that says what was wrong, and exit code 1."""
    node = cluster.nodes[0]
    error = node.call(target, verb)["error"]
    assert error["kind"] == kind
    assert (verb if kind == "UnknownVerb" else target.partition("/")[0]) in error["text"]
    done = node.cli("call", target, verb)
    assert done.returncode == 1
    assert kind in done.stderr
    assert "Traceback" not in done.stderr


def test_all_asks_every_node(cluster):
    """Target all: one answer per node, by name."""
    rows = cluster.nodes[1].call("all", "sys.echo", {"x": 1})["reply"]
    assert rows == [{"node": name, "reply": {"x": 1}} for name in ("n1", "n2", "n3")]


@pytest.mark.contract("SHD-4")
def test_nothing_is_dropped_between_shards_without_a_fault(cluster):
    """Asks in every direction leave every drop counter of the bus and of verbs at zero."""
    for _ in range(50):
        for node in cluster.nodes:
            assert node.call("n1/1", "sys.echo", "x" * 500)["reply"] == "x" * 500
    for node in cluster.nodes:
        drops = {s: v for s, v in node.metrics().items() if s.startswith("frame_drops_total") and v}
        assert not drops


def test_the_node_is_ready_and_live(cluster):
    """/readyz and /livez answer 200, the metrics are Prometheus text."""
    for node in cluster.nodes:
        assert node.http("/readyz")[0] == 200
        assert node.http("/livez")[0] == 200
        # Counters travel with the beats of the shards, once a second.
        wait_until(
            lambda node=node: any(s.startswith("links_up_total") for s in node.metrics()),
            5,
            lambda node=node: str(node.metrics()),
        )


def test_large_payloads_travel(cluster):
    """A payload larger than a frame is echoed unchanged by another node."""
    text = "x" * 700_000
    assert cluster.nodes[0].call("n3/1", "sys.echo", text, 10)["reply"] == text


@pytest.mark.contract("GSP-14")
def test_rtt_between_two_nodes(cluster):
    """meshsvc rtt A B: what A measured to B, asked of any node; unknown names are told."""
    n1 = cluster.nodes[0]
    wait_until(lambda: n1.cli("rtt", "n2", "n3").returncode == 0, 10, "n2 measured n3")
    row = json.loads(n1.cli("rtt", "n2", "n3", "-o", "json").stdout)
    assert (row["a"], row["b"]) == ("n2", "n3")
    assert 0 < row["rtt_ms"] < 1000
    assert "n2 <-> n3: " in n1.cli("rtt", "n2", "n3").stdout
    done = n1.cli("rtt", "n2", "nobody")
    assert done.returncode == 1
    assert "nobody" in done.stderr


@pytest.mark.contract("VERB-8")
def test_bulk_on_the_data_link_does_not_delay_the_control_link(cluster):
    """While megabytes cross the data link, probes over the control link stay under 100 ms."""
    n1 = cluster.nodes[0]
    stop = threading.Event()
    moved = []

    def load():
        while not stop.is_set():
            reply = n1.call("n2/1", "sys.echo", "x" * 900_000, 10)
            moved.append(len(reply["reply"]))

    workers = [threading.Thread(target=load) for _ in range(4)]
    for worker in workers:
        worker.start()
    try:
        time.sleep(1.5)  # several rounds of probes
        seen = [n1.call("n1/0", "gossip.rtt")["reply"].values() for _ in range(5)]
    finally:
        stop.set()
        for worker in workers:
            worker.join(30)
    assert sum(moved) > 5_000_000
    assert max(max(values) for values in seen) < 100
    assert set(n1.statuses().values()) == {"alive"}

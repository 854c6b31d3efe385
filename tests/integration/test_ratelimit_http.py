"""The example application, as its users see it: HTTP on every node, one limit for all."""

import threading
import time
import urllib.error
import urllib.request

import pytest
from dev_cluster import wait_until


def allow(node, key):
    """(status, Retry-After or None) of one POST /allow/KEY; (0, None) when refused or reset."""
    url = f"http://{node.row['client']}/allow/{key}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, b""), timeout=5) as answer:
            return answer.status, None
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Retry-After"]
    except OSError:
        return 0, None


def statuses(node, key, count):
    return [allow(node, key)[0] for _ in range(count)]


def test_the_limit_holds_over_all_nodes(cluster):
    """Ten at once and ten a second per key, whichever nodes are asked; 429 says when to retry."""
    cluster.wait_formed()
    time.sleep(1.1)  # buckets of a mesh that just formed start empty and fill in a second
    started = time.monotonic()
    answers = [allow(node, "alice") for _ in range(10) for node in cluster.nodes]
    took = time.monotonic() - started
    granted = sum(status == 200 for status, _ in answers)
    assert 10 <= granted <= 10 + 10 * took + 1
    refused = [retry for status, retry in answers if status == 429]
    assert len(refused) + granted == 30
    assert all(int(retry) >= 1 for retry in refused)
    assert allow(cluster.nodes[0], "bob")[0] == 200


def test_wrong_requests_are_told_so(cluster):
    """Keys that are empty or too long are 400."""
    node = cluster.nodes[0]
    assert allow(node, "")[0] in (400, 404)
    assert allow(node, "k" * 300)[0] == 400


@pytest.mark.contract("VERB-2", "MESH-8")
def test_the_limit_holds_while_a_node_comes_and_goes(cluster):
    """One node is killed and started again under load: never more than the limit is granted,
    requests are answered throughout, and afterwards every request is.
    """
    cluster.wait_formed()
    stay = cluster.nodes[:2]
    victim = cluster.nodes[2]
    keys = [f"user{n}" for n in range(20)]
    granted = dict.fromkeys(keys, 0)
    failed = []
    stop = threading.Event()

    def load(node):
        while not stop.is_set():
            for key in keys:
                status, _ = allow(node, key)
                if status == 200:
                    granted[key] += 1
                elif status != 429:
                    failed.append(status)

    started = time.monotonic()
    workers = [threading.Thread(target=load, args=(node,)) for node in stay]
    for worker in workers:
        worker.start()
    try:
        time.sleep(1)
        victim.kill()
        wait_until(lambda: cluster.formed(stay), 15, cluster.describe)
        cluster.start_again(victim)
        cluster.wait_formed()
    finally:
        stop.set()
        for worker in workers:
            worker.join(30)
    limit = 10 + 10 * (time.monotonic() - started) + 1
    assert max(granted.values()) <= limit
    assert set(failed) <= {503}, "requests may be told to retry, never dropped"
    wait_until(
        lambda: all(allow(node, f"after-{node.name}")[0] == 200 for node in cluster.nodes),
        5,
        "every node grants again",
    )


def test_connections_are_spread_over_the_shards(cluster):
    """Both shards of a node get connections of the client port."""
    node = cluster.nodes[0]
    before = {row["index"]: row["connections"] for row in node.get("shards")}
    for n in range(20):
        allow(node, f"spread{n}")
    wait_until(
        lambda: all(row["connections"] >= before[row["index"]] + 9 for row in node.get("shards")),
        5,
        lambda: str(node.get("shards")),
    )

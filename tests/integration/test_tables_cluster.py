"""``meshsvc tables`` against a real cluster: written, compared, dumped, with nodes that fail."""

from __future__ import annotations

import base64
import json
import os
import signal

import pytest
from dev_cluster import wait_until

TABLE = "presence"


def rows(node):
    done = node.cli("tables", "dump", TABLE, "-o", "jsonl")
    assert done.returncode == 0, done.stderr
    return {row["key"]: row["value"] for row in map(json.loads, done.stdout.splitlines())}


def diff(node, *args):
    done = node.cli("tables", "diff", TABLE, "-o", "json", *args, timeout_s=60)
    return done.returncode, json.loads(done.stdout)


@pytest.fixture
def nodes(cluster):
    cluster.wait_formed()
    wait_until(
        lambda: all(
            node.cli("tables", "join-status", TABLE).returncode == 0 for node in cluster.nodes
        ),
        20,
        cluster.describe,
    )
    return cluster.nodes


@pytest.mark.contract("TBL-1", "TBL-2", "OPS-3")
def test_what_is_put_at_one_node_is_got_at_another(nodes):
    """JSON in, JSON out, bytes as base64; deletes say whether there was something."""
    n1, n2, n3 = nodes
    raw = base64.b64encode(bytes(range(256))).decode()
    value = {"a": [1, None, True, 2.5, "ü"], "raw": {"base64": raw}}
    put = n1.cli("tables", "put", TABLE, "k", json.dumps(value), "-o", "json")
    assert put.returncode == 0, put.stderr
    assert sorted(json.loads(put.stdout)["acked"]) == ["n2", "n3"]
    got = n2.cli("tables", "get", TABLE, "k", "-o", "json")
    (row,) = json.loads(got.stdout)
    assert (row["value"], row["owner"]) == (value, "n1")
    assert rows(n3) == {"k": value}
    assert diff(n2)[0] == 0
    assert n3.cli("tables", "delete", TABLE, "k", "--if-value", "1").returncode == 1
    assert (
        n3.cli("tables", "delete", TABLE, "k", "--if-version", str(row["version"])).returncode == 0
    )
    assert n1.cli("tables", "get", TABLE, "k").returncode == 1
    assert n1.cli("tables", "delete", TABLE, "k").returncode == 1


@pytest.mark.contract("TBL-2", "TBL-4")
def test_a_stopped_shard_is_named_and_catches_up(nodes):
    """SIGSTOP of a shard during writes: named as lost by the deadline, and equal again after."""
    n1, n2, _ = nodes
    stopped = n2.shard_pid(1)
    os.kill(stopped, signal.SIGSTOP)
    try:
        put = n1.cli("tables", "put", TABLE, "s", "1", "--timeout", "1", "-o", "json")
        assert put.returncode == 1
        assert "n2" in json.loads(put.stdout)["lost"]
        code, report = diff(n1)
        assert code == 1
        assert "n2/1" in report["silent"]
    finally:
        os.kill(stopped, signal.SIGCONT)
    wait_until(lambda: diff(n1)[0] == 0, 30, lambda: diff(n1))
    assert rows(n2) == {"s": 1}
    assert n1.cli("tables", "delete", TABLE, "s").returncode == 0


@pytest.mark.contract("TBL-4", "TBL-5")
def test_a_killed_shard_gets_its_rows_back_and_a_killed_node_loses_its_own(cluster, nodes):
    """kill -9 of a shard costs no row; of a node, those that it owned, and no others."""
    n1, n2, n3 = nodes
    assert n1.cli("tables", "put", TABLE, "one", "1").returncode == 0
    assert n3.cli("tables", "put", TABLE, "three", "3").returncode == 0
    os.kill(n2.shard_pid(0), signal.SIGKILL)
    wait_until(lambda: n2.http("/readyz")[0] == 200, 20, cluster.describe)
    wait_until(lambda: diff(n1)[0] == 0, 30, lambda: diff(n1))
    assert rows(n2) == {"one": 1, "three": 3}
    n3.kill()
    wait_until(lambda: rows(n1) == rows(n2) == {"one": 1}, 20, lambda: (rows(n1), rows(n2)))
    cluster.start_again(n3)
    cluster.wait_formed()
    wait_until(lambda: diff(n1)[0] == 0, 30, lambda: diff(n1))
    assert rows(n3) == {"one": 1}
    assert n1.cli("tables", "delete", TABLE, "one").returncode == 0


@pytest.mark.contract("OPS-3")
def test_what_is_wrong_is_told_with_its_exit_code(nodes):
    """Unknown tables and nodes, keys and values that are none: what, why, what to do."""
    n1 = nodes[0]
    for args, code, told in (
        (("dump", "nope"), 1, "open here: presence"),
        (("diff", TABLE, "n9"), 1, "members: n1, n2, n3"),
        (("diff", "no/name"), 64, "letters, digits"),
        (("get", TABLE, "1.5", "--json-key"), 64, "no key"),
        (("put", TABLE, "k", "oops"), 64, "not JSON"),
        (("put", TABLE, "k", str(2**70)), 64, "send it as a string"),
        (("put", TABLE, "k" * 2000, "1"), 64, "over the limit of 1024"),
        (("join-status", "nope"), 1, "open here: presence"),
    ):
        done = n1.cli("tables", *args)
        assert (done.returncode, told in done.stderr) == (code, True), (args, done.stderr)


@pytest.mark.contract("OPS-3")
def test_tables_are_on_the_metrics_page(nodes):
    """Rows, tombstones and memory of each shard, joins, and what became of writes."""
    n1 = nodes[0]
    assert n1.cli("tables", "put", TABLE, "m", "1").returncode == 0
    held = len(rows(n1))
    # Of two nodes one leads the join, and counts it.
    assert any('tables_joins_total{outcome="joined",shard="1"}' in n.metrics() for n in nodes)

    def seen():
        found = n1.metrics()
        gauges = [
            f'tables_{what}{{shard="{shard}",table="{TABLE}"}}'
            for what in ("rows", "tombstones", "memory_bytes")
            for shard in (0, 1)
        ]
        acked = 'tables_writes_acked_total{shard="0"}'
        return all(name in found for name in (*gauges, acked)) and (
            found[gauges[0]] == found[gauges[1]] == held
        )

    wait_until(seen, 15, lambda: [name for name in n1.metrics() if name.startswith("tables_")])
    assert n1.cli("tables", "delete", TABLE, "m").returncode == 0

"""User events and queries between real processes."""

import json

import pytest
from dev_cluster import wait_until

pytestmark = pytest.mark.contract("GSP-12")


def test_an_event_sent_by_hand_is_seen_by_who_follows(cluster):
    """`meshsvc events send` on one node shows on `meshsvc events` of another."""
    sender, follower = cluster.nodes[0], cluster.nodes[2]
    sent = sender.cli("events", "send", "deploy", '{"v": 1}')
    assert sent.returncode == 0, sent.stderr

    def seen():
        done = follower.cli("events", "-o", "jsonl")
        found = [json.loads(line) for line in done.stdout.splitlines()]
        return [row for row in found if row["type"] == "user"]

    [row] = wait_until(seen, 10, "no event came")
    assert (row["name"], row["payload"], row["node"]) == ("deploy", {"v": 1}, "n1")
    too_large = sender.cli("events", "send", "big", json.dumps("x" * 9000))
    assert too_large.returncode == 64
    assert "8192 are allowed" in too_large.stderr


def test_a_query_is_answered_by_every_node(cluster):
    """`meshsvc query` lists each node's answer; an unknown one names who did not answer."""
    done = cluster.nodes[1].cli("query", "ping", "-o", "json")
    assert done.returncode == 0
    assert json.loads(done.stdout) == [{"node": f"n{i}", "reply": "pong"} for i in (1, 2, 3)]
    info = json.loads(cluster.nodes[0].cli("query", "sys.info", "-o", "json").stdout)
    assert [row["reply"]["node"] for row in info] == ["n1", "n2", "n3"]
    nobody = cluster.nodes[0].cli("query", "no.such")
    assert nobody.returncode == 1
    assert "0 of 3 answered; missing: n1, n2, n3" in nobody.stderr


def test_a_node_that_is_not_there_is_a_mistake(cluster):
    """A name nobody has ends a query or a call at once with 1 and the names there are; it is not
    75, for which a script would try again."""
    for words in (("query", "ping", "--node", "n1", "--node", "n9"), ("call", "n9", "sys.info")):
        done = cluster.nodes[0].cli(*words)
        assert (done.returncode, done.stdout) == (1, "")
        assert "no member is called 'n9'; members: n1, n2, n3" in done.stderr

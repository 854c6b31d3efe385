"""The store of a real cluster: etcd's clients and our own at any node; then nodes are stopped,
killed, emptied, added and removed. Each test leaves three nodes that are well.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import aetcd
import etcd3gw
import pytest
from dev_cluster import MESHSVC, wait_until
from processes import end
from store_cluster import Writers, put

WRITES = 200
"""Acknowledged before and after what is done: a second or two of load."""


@pytest.fixture(autouse=True)
def _well(store):
    store.wait_well()


@pytest.fixture(params=["n1", "n2", "n3"])
def node(store, request):
    return next(node for node in store.nodes if node.name == request.param)


@pytest.mark.contract("KV-5")
def test_etcdctl_at_every_node(store, node):
    """put, get, del, txn, watch, lease, lock and elect, through whichever node."""
    ctl, name = store.ctl(node), node.name
    assert ctl("put", f"c/{name}", "one") == "OK\n"
    watching = ctl.start("watch", f"c/{name}", "--rev=1")
    assert [watching.stdout.readline() for _ in range(3)] == ["PUT\n", f"c/{name}\n", "one\n"]
    for other in store.nodes:
        assert store.ctl(other)("get", f"c/{name}", "--print-value-only") == "one\n"
    script = f'value("c/{name}") = "one"\n\nput c/{name} two\n\nget c/{name}\n\n'
    assert ctl("txn", text=script) == "SUCCESS\n\nOK\n"
    assert watching.stdout.readline() == "PUT\n"
    end(watching)
    lease = ctl("lease", "grant", "600").split()[1]
    ctl("put", f"--lease={lease}", f"l/{name}", "x")
    assert "TTL(600)" in ctl("lease", "keep-alive", "--once", lease)
    assert f"attached keys([l/{name}])" in ctl("lease", "timetolive", "--keys", lease)
    assert "revoked" in ctl("lease", "revoke", lease)
    assert ctl("get", f"l/{name}") == ""
    assert ctl("lock", f"m/{name}", "echo", "mine") == "mine\n"
    leading = ctl.start("elect", f"e/{name}", "me")
    assert leading.stdout.readline().startswith(f"e/{name}/")
    end(leading)
    assert ctl("del", f"c/{name}") == "1\n"


@pytest.mark.contract("KV-4", "KV-5")
def test_etcdctl_on_the_cluster(store, tmp_path):
    """Members, endpoints, hashes, move-leader, and a snapshot that our own command can read."""
    every = store.ctl()
    every("put", "s", "saved")
    members = json.loads(every("member", "list", "-w", "json"))["members"]
    assert {member["name"] for member in members} == {"n1", "n2", "n3"}
    addresses = {f"http://{node.row['etcd']}" for node in store.nodes}
    assert {url for member in members for url in member["clientURLs"]} == addresses
    assert all(each["health"] for each in json.loads(every("endpoint", "health", "-w", "json")))
    hashes = json.loads(every("endpoint", "hashkv", "-w", "json"))
    assert len({each["HashKV"]["hash"] for each in hashes}) == 1
    leader = store.wait_well()
    target = next(member for member in members if member["name"] != leader.name)
    assert "Leadership transferred" in every("move-leader", f"{target['ID']:x}")
    assert store.wait_well().name == target["name"]
    saved = tmp_path / "etcdctl.snap"
    store.ctl(store.nodes[0])("snapshot", "save", str(saved))
    done = store.nodes[0].cli("snapshot", "status", str(saved), "-o", "json")
    assert json.loads(done.stdout)["keys"] >= 1


@pytest.mark.contract("KV-5")
def test_etcd3gw_and_aetcd(store, node):
    """The two Python clients: keys, prefixes, compare and replace, leases, locks, watches."""
    host, _, port = node.row["etcd"].rpartition(":")
    client = etcd3gw.client(host, int(port))
    prefix = f"g/{node.name}/"
    assert client.put(prefix + "1", "one")
    assert client.create(prefix + "2", "two")
    assert not client.create(prefix + "2", "again")
    assert [value for value, _ in client.get_prefix(prefix)] == [b"one", b"two"]
    with client.lock(f"gw/{node.name}", ttl=30) as lock:
        assert lock.is_acquired()
    asyncio.run(asyncio.wait_for(_aetcd(host, int(port), prefix.encode()), 30))
    assert client.delete_prefix(prefix)


async def _aetcd(host, port, prefix):
    async with aetcd.Client(host=host, port=port) as client:
        assert (await client.get(prefix + b"1")).value == b"one"
        lease = await client.lease(60)
        await client.put(prefix + b"3", b"x", lease=lease)
        assert list(await lease.keys()) == [prefix + b"3"]
        await lease.revoke()
        assert await client.get(prefix + b"3") is None
        watch = await client.watch(prefix + b"4")
        await client.put(prefix + b"4", b"seen")
        async for event in watch:
            assert event.kv.value == b"seen"
            break
        async with client.lock(b"al" + prefix, ttl=30) as lock:
            assert await lock.is_acquired()


@pytest.mark.contract("OPS-3")
def test_our_own_commands(store):
    """kv, lease, lock and elect, each with its output as JSON and its exit code."""
    n1, n2, n3 = store.nodes

    def rows(node, *args, code=0):
        done = node.cli(*args, "-o", "json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    first = rows(n1, "kv", "put", "o/1", "a")["revision"]
    assert rows(n2, "kv", "get", "o/1")[0]["value"] == "a"
    assert rows(n3, "kv", "get", "nothing", code=1) == []
    script = ("--if", "value(o/1) = a", "--then", "put o/1 b", "--then", "put o/2 c")
    assert rows(n3, "kv", "txn", *script)["succeeded"]
    seen = n2.cli(
        *("kv", "watch", "o/", "--prefix", "--revision", str(first), "--limit", "3", "-o", "jsonl")
    )
    assert [json.loads(line)["value"] for line in seen.stdout.splitlines()] == ["a", "b", "c"]
    assert rows(n1, "kv", "del", "o/", "--prefix")["deleted"] == 2
    lease = rows(n2, "lease", "grant", "60")["id"]
    rows(n1, "kv", "put", "o/3", "x", "--lease", lease)
    assert n3.cli("lease", "revoke", lease).returncode == 0
    assert n3.cli("kv", "get", "o/3").returncode == 1
    assert n1.cli("lock", "ol", "--", "sh", "-c", 'echo "$MESHSVC_LOCK_KEY"').stdout[:3] == "ol/"
    env = {**os.environ, "MESHSVC_ADMIN": f"http://{n2.row['admin']}"}
    leading = subprocess.Popen(
        [MESHSVC, "elect", "oe", "me", "-o", "jsonl"], stdout=subprocess.PIPE, text=True, env=env
    )
    assert json.loads(leading.stdout.readline())["leader"] == "me"
    taken = n3.cli("elect", "oe", "other", "--timeout", "1")
    assert taken.returncode == 75
    end(leading)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_lock_is_held_until_its_command_has_ended(store, number, tmp_path):
    """Whatever signal is to end `meshsvc lock`: while the command takes its time to end, nobody
    else is let in; then its exit code is that of the command, and the lock is free at once."""
    n1, n2, _ = store.nodes
    done = tmp_path / "done"
    slow = f"while [ ! -e {done} ]; do sleep 0.1; done; exit 7"
    script = f'trap "{slow}" TERM INT; echo in; while :; do sleep 0.1; done'
    env = {**os.environ, "MESHSVC_ADMIN": f"http://{n1.row['admin']}"}
    command = [MESHSVC, "lock", "slow", "--", "sh", "-c", script]
    holder = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True
    )
    assert holder.stdout.readline() == "in\n"
    if number == signal.SIGINT:
        os.killpg(holder.pid, number)  # as a terminal does
    else:
        holder.send_signal(number)
    assert n2.cli("lock", "slow", "--timeout", "0.2", "--", "true").returncode == 75
    done.touch()
    assert holder.wait(10) == 7
    assert n2.cli("lock", "slow", "--timeout", "2", "--", "true").returncode == 0
    holder.stdout.close()


@pytest.mark.contract("OPS-3", "RAFT-1")
def test_raft_status_and_transfer(store):
    """Term, leader, log heads and progress on every node; leadership goes where it is told to."""
    leader = store.wait_well()
    for node in store.nodes:
        done = node.cli("raft", "status", "-o", "json")
        assert done.returncode == 0, done.stdout
        row = json.loads(done.stdout)
        for group in row["groups"]:
            assert group["leader"]
            assert group["applied"] <= group["commit"] <= group["last"]
            assert len(group["peers"]) == 2
            assert all(peer["mode"] == "replicate" for peer in group["peers"])
    assert "replicate" in leader.cli("raft", "status").stdout
    target, asked = (node for node in store.nodes if node is not leader)
    done = asked.cli("raft", "transfer", target.name, "-o", "json")
    assert done.returncode == 0, done.stderr
    assert {group["leader"] for group in json.loads(done.stdout)["groups"]} == {target.name}
    assert store.wait_well() is target
    assert asked.cli("raft", "transfer", "n9").returncode == 1
    wait_until(
        lambda: target.metrics().get('raft_is_leader{group="default",shard="0"}') == 1,
        5,
        lambda: str(target.metrics()),
    )
    status, row, _ = target.http("/v1/status")
    assert status == 200
    assert row["store"]["role"] == "leader"


@pytest.mark.contract("KV-4")
def test_a_saved_store_begins_a_new_cluster(store, tmp_path):
    """Save at one node; restored on an empty disk it is a store of its own, with all that was."""
    source = store.nodes[1]
    lease = json.loads(source.cli("lease", "grant", "600", "-o", "json").stdout)["id"]
    for key, extra in (("b/1", ()), ("b/2", ("--lease", lease))):
        assert source.cli("kv", "put", key, "kept", *extra).returncode == 0
    saved = str(tmp_path / "saved.snap")
    assert source.cli("snapshot", "save", saved).returncode == 0
    assert source.cli("snapshot", "save", saved).returncode == 73
    (tmp_path / "x").mkdir()
    node = store.new_node("x1", tmp_path / "x", cluster="elsewhere")
    restoring = ("snapshot", "restore", saved, "--config", node.row["config"])
    done = node.cli(*restoring, "-o", "json")
    assert done.returncode == 0, done.stderr
    revision = json.loads(done.stdout)["revision"]
    again = node.cli(*restoring)
    assert again.returncode == 73
    assert "nothing is written over it" in again.stderr
    process = store.start_new(node)
    try:
        wait_until(lambda: node.cli("kv", "put", "b/3", "new").returncode == 0, 20, "no store")
        found = json.loads(node.cli("kv", "get", "b/", "--prefix", "-o", "json").stdout)
        assert [row["value"] for row in found] == ["kept", "kept", "new"]
        assert found[1]["lease"] == lease
        assert found[2]["revision"] == revision + 1
        assert node.cli("kv", "get", "b/1", "--revision", str(revision)).returncode == 0
    finally:
        process.terminate()
        assert process.wait(40) == 0


def test_a_watch_moves_to_another_node(store):
    """A watch that is resumed elsewhere misses nothing and sees nothing twice."""
    ctl = store.ctl(store.nodes[0])
    base = json.loads(ctl("put", "v", "0", "-w", "json"))["header"]["revision"]
    writing = threading.Thread(target=lambda: [ctl("put", "v", str(n)) for n in range(1, 10)])
    writing.start()
    seen, revision = [], base
    for node in store.nodes:
        done = node.cli(
            *("kv", "watch", "v", "--revision", str(revision), "--limit", "3", "-o", "jsonl")
        )
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        seen += [row["value"] for row in rows]
        revision = rows[-1]["revision"] + 1
    writing.join(30)
    assert seen == [str(n) for n in range(9)]


# --- while nodes come and go ------------------------------------------------------------------


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

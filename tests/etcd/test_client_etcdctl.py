"""Debian's etcdctl 3.4, unmodified, against three replicas: every operation a person uses."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import pytest
from processes import Etcdctl, Ours, end

from meshsvc.kv import snapshot_file
from meshsvc.kv.machine import Machine
from meshsvc.kv.snapshot import Restore

pytestmark = pytest.mark.contract("KV-5")


@pytest.fixture(scope="module")
def ours():
    server = Ours(replicas=3)
    yield server
    server.stop()


@pytest.fixture
def ctl(ours: Ours) -> Etcdctl:
    return Etcdctl(ours.ports[0])


def test_put_get_and_del(ctl: Etcdctl) -> None:
    """Values come back; ranges, limits, order, revisions, counts and deletes are etcd's."""
    assert ctl("put", "a/1", "one") == "OK\n"
    assert ctl("put", "a/2", "two") == "OK\n"
    assert ctl("put", "--prev-kv", "a/1", "uno") == "OK\na/1\none\n"
    assert ctl("get", "a/1", "--print-value-only") == "uno\n"
    assert ctl("get", "--prefix", "a/", "--order=DESCEND", "--sort-by=KEY") == (
        "a/2\ntwo\na/1\nuno\n"
    )
    assert ctl("get", "--prefix", "a/", "--limit=1", "--keys-only") == "a/1\n\n"
    found = json.loads(ctl("get", "a/1", "-w", "json"))["kvs"][0]
    assert found["version"] == 2
    assert ctl("get", f"--rev={found['create_revision']}", "a/1", "--print-value-only") == "one\n"
    assert json.loads(ctl("get", "--prefix", "a/", "--limit=1", "-w", "json"))["count"] == 2
    assert ctl("get", "--from-key", "a/2", "--keys-only") == "a/2\n\n"
    assert ctl("put", "a/1", "--ignore-lease", "drei") == "OK\n"
    assert ctl("del", "--prev-kv", "--prefix", "a/") == "2\na/1\ndrei\na/2\ntwo\n"
    assert ctl("get", "--prefix", "a/") == ""


@pytest.mark.contract("KV-8")
def test_values_of_a_mebibyte(ctl: Etcdctl) -> None:
    """A large value passes whole; one over the limit is refused with etcd's text."""
    value = "x" * 1_000_000
    assert ctl("put", "large", text=value) == "OK\n"
    assert ctl("get", "large", "--print-value-only") == value + "\n"
    assert "request is too large" in ctl("put", "large", text="x" * 1_600_000, ok=False)
    ctl("del", "large")


def test_txn(ctl: Etcdctl) -> None:
    """Both branches of a transaction."""
    ctl("put", "t", "1")
    script = 'value("t") = "1"\n\nput t 2\nget t\n\ndel t\n\n'
    assert ctl("txn", text=script) == "SUCCESS\n\nOK\n\nt\n2\n"
    assert ctl("txn", text=script) == "FAILURE\n\n1\n"
    double = 'version("t") = "0"\n\nput t 1\nput t 2\n\n\n'
    assert "duplicate key given in txn request" in ctl("txn", text=double, ok=False)


def test_watch(ctl: Etcdctl) -> None:
    """A watch from a past revision, with values before, on a prefix; it ends when it is told to."""
    ctl("put", "w/1", "a")
    revision = json.loads(ctl("get", "w/1", "-w", "json"))["header"]["revision"]
    ctl("put", "w/1", "b")
    watching = ctl.start("watch", "--prefix", "w/", f"--rev={revision}", "--prev-kv", "-w", "json")
    assert watching.stdout is not None
    first = json.loads(watching.stdout.readline())
    seen = [event["kv"]["value"] for event in first["Events"]]
    ctl("del", "w/1")
    last = json.loads(watching.stdout.readline())["Events"][-1]
    end(watching)
    assert seen == ["YQ==", "Yg=="]
    assert (last["type"], last["prev_kv"]["value"]) == (1, "Yg==")


def test_watch_of_a_compacted_revision(ctl: Etcdctl) -> None:
    """The watch is cancelled with the revision to go on from."""
    for value in "abc":
        ctl("put", "c", value)
    revision = json.loads(ctl("get", "c", "-w", "json"))["header"]["revision"]
    assert ctl("compaction", str(revision)) == f"compacted revision {revision}\n"
    assert "has been compacted" in ctl("compaction", "1", ok=False)
    assert "required revision has been compacted" in ctl("get", "--rev=1", "c", ok=False)
    assert "future revision" in ctl("get", "--rev=999999", "c", ok=False)
    watching = ctl.start("watch", "--rev=1", "c")
    out, _ = watching.communicate(timeout=20)
    assert "required revision has been compacted" in out


def test_leases(ctl: Etcdctl) -> None:
    """Grant, attach, time to live, list, keep alive, revoke; an unknown lease is said to be so."""
    granted = ctl("lease", "grant", "600")
    lease = granted.split()[1]
    assert "granted with TTL(600s)" in granted
    ctl("put", f"--lease={lease}", "l/1", "x")
    assert lease in ctl("lease", "list")
    alive = ctl("lease", "timetolive", "--keys", lease)
    assert "attached keys([l/1])" in alive
    assert "TTL(600)" in ctl("lease", "keep-alive", "--once", lease)
    assert ctl("lease", "revoke", lease) == f"lease {lease} revoked\n"
    assert ctl("get", "l/1") == ""
    assert "requested lease not found" in ctl("lease", "revoke", lease, ok=False)
    assert "already expired" in ctl("lease", "timetolive", lease)
    keeping = ctl.start("lease", "keep-alive", lease)
    out, _ = keeping.communicate(timeout=20)
    assert "expired or revoked" in out


def test_lock_and_elect(ctl: Etcdctl) -> None:
    """One holder at a time; the next gets the lock when it is free; elections have one leader."""
    assert ctl("lock", "m", "echo", "mine") == "mine\n"
    holding = ctl.start("lock", "m")
    assert holding.stdout is not None
    assert holding.stdout.readline().startswith("m/")
    waiting = ctl.start("lock", "m", "echo", "next")
    assert waiting.poll() is None
    end(holding)
    out, _ = waiting.communicate(timeout=20)
    assert out == "next\n"
    leading = ctl.start("elect", "e", "one")
    assert leading.stdout is not None
    assert leading.stdout.readline().startswith("e/")
    assert leading.stdout.readline() == "one\n"
    listening = ctl.start("elect", "-l", "e")
    assert listening.stdout is not None
    listening.stdout.readline()
    assert listening.stdout.readline() == "one\n"
    end(listening)
    end(leading)


@pytest.mark.contract("KV-4")
def test_members(ctl: Etcdctl) -> None:
    """List, add, update, promote and remove."""
    assert len(ctl("member", "list").splitlines()) == 3
    ctl("member", "add", "n4", "--peer-urls=http://127.0.0.4:1", "--learner")
    added = json.loads(ctl("member", "list", "-w", "json"))["members"][-1]
    assert added["isLearner"]
    member = f"{added['ID']:x}"
    assert "updated in cluster" in ctl("member", "update", member, "--peer-urls=http://127.0.0.5:1")
    assert "promoted" in ctl("member", "promote", member)
    assert "removed from cluster" in ctl("member", "remove", member)
    assert len(ctl("member", "list").splitlines()) == 3


@pytest.mark.contract("KV-4")
def test_endpoints(ours: Ours) -> None:
    """Status, health and hash of every replica; the hashes agree."""
    every = Etcdctl(*ours.ports)
    every("put", "h", "x")
    status = json.loads(every("endpoint", "status", "-w", "json"))
    assert len({each["Status"]["header"]["member_id"] for each in status}) == 3
    assert len({each["Status"]["leader"] for each in status}) == 1
    healths = json.loads(every("endpoint", "health", "-w", "json"))
    assert all(each["health"] for each in healths)
    hashes = json.loads(every("endpoint", "hashkv", "-w", "json"))
    assert len({each["HashKV"]["hash"] for each in hashes}) == 1


@pytest.mark.contract("KV-4")
def test_upkeep(ours: Ours, tmp_path: Path) -> None:
    """Alarms, defragmentation, leadership, and a snapshot that restores to the same keys."""
    every, one = Etcdctl(*ours.ports), Etcdctl(ours.ports[1])
    assert every("alarm", "list") == ""
    assert every("alarm", "disarm") == ""
    assert every("defrag").count("Finished defragmenting") == 3
    status = json.loads(every("endpoint", "status", "-w", "json"))
    leader = status[0]["Status"]["leader"]
    target = next(
        each["Status"]["header"]["member_id"]
        for each in status
        if each["Status"]["header"]["member_id"] != leader
    )
    assert "Leadership transferred" in every("move-leader", f"{target:x}")
    assert "no leader endpoint given" in Etcdctl(ours.ports[leader - 1])(
        "move-leader", f"{leader:x}", ok=False
    )
    every("put", "s", "saved")
    saved = tmp_path / "backup"
    one("snapshot", "save", str(saved))
    machine = Machine(9, 1)
    restore = Restore(machine)
    done = [restore.feed(chunk) for chunk in snapshot_file.scan(BytesIO(saved.read_bytes()).read)]
    assert done[-1]
    assert machine.mvcc.index.at(b"s", machine.mvcc.revision) is not None


@pytest.mark.contract("KV-4")
def test_what_is_not_served(ctl: Etcdctl) -> None:
    """Authentication answers UNIMPLEMENTED instead of hanging."""
    assert "unknown service etcdserverpb.Auth" in ctl("user", "list", ok=False)
    assert "unknown service etcdserverpb.Auth" in ctl("auth", "enable", ok=False)

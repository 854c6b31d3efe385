"""The store as an application uses it: keys, watches, leases, locks, elections."""

from __future__ import annotations

import pytest
from kv_group import Cluster
from twisted.internet.defer import Deferred

from meshsvc.kv import errors
from meshsvc.kv.api import (
    Compact,
    Compare,
    CompareResult,
    CompareTarget,
    LeaseRevoke,
    Put,
    Range,
)
from meshsvc.kv.client.protocol import PAUSE_EVENTS, WatchLost
from meshsvc.kv.client.service import KvClient, prefix_end


@pytest.fixture
def cluster():
    with Cluster(3) as cluster:
        yield cluster


def client(cluster, member_id=1):
    return KvClient(cluster[member_id], cluster.clock)


def run(cluster, coroutine, seconds=0.0):
    return cluster.ask(Deferred.fromCoroutine(coroutine), seconds)


def start(coroutine):
    """Begin something; what it comes to is in the list."""
    results = []
    Deferred.fromCoroutine(coroutine).addBoth(results.append)
    return results


def test_what_is_no_bytes_is_refused(cluster):
    """Before it reaches the log: every replica would keep it, and none could serve it."""
    kv = client(cluster)
    for wrong in (kv.put("a", "text"), kv.put_new("a", None), kv.put(5, b"x"), kv.get(None)):
        with pytest.raises(TypeError, match=r"is text or bytes|is bytes, and"):
            run(cluster, wrong)
    same = Compare(b"a", CompareResult.EQUAL, CompareTarget.VALUE, "text")
    for txn in (kv.txn([], [Put(b"a", "text")]), kv.txn([same], []), kv.txn([], [Range("a")])):
        with pytest.raises(errors.NotBytes):
            run(cluster, txn)
    assert run(cluster, kv.count()) == 0


def test_keys_are_put_read_and_deleted(cluster):
    """Keys are text or bytes; what is missing is None; a prefix stands for all below it."""
    kv = client(cluster)
    first = run(cluster, kv.put("jobs/1", b"one"))
    assert first == 2
    run(cluster, kv.put(b"jobs/2", b"two"))
    assert run(cluster, client(cluster, 2).get("jobs/1")) == b"one"
    assert run(cluster, kv.get("jobs/3")) is None
    run(cluster, kv.put("jobs/1", b"new"))
    assert run(cluster, kv.get("jobs/1", revision=first)) == b"one"
    assert [kv.key for kv in run(cluster, kv.items("jobs/"))] == [b"jobs/1", b"jobs/2"]
    assert run(cluster, kv.count()) == 2
    assert run(cluster, kv.delete("jobs/", prefix=True)) == 2


def test_only_one_of_many_wins(cluster):
    """``put_new`` writes what is not there, ``replace`` what has not changed."""
    kv = client(cluster)
    assert run(cluster, kv.put_new("a", b"1"))
    assert not run(cluster, kv.put_new("a", b"2"))
    seen = run(cluster, kv.entry("a"))
    assert run(cluster, kv.replace(seen, b"3"))
    assert not run(cluster, kv.replace(seen, b"4"))
    assert run(cluster, kv.get("a")) == b"3"


@pytest.mark.parametrize(
    ("prefix", "end"), [(b"a", b"b"), (b"a\xff", b"b"), (b"\xff", b"\0"), (b"a/", b"a0")]
)
def test_the_end_of_a_prefix(prefix, end):
    """It is the first key that does not begin with it, or no end at all."""
    assert prefix_end(prefix) == end


@pytest.mark.contract("KV-2")
def test_a_watch_is_iterated(cluster):
    """From a past revision on, as events happen, until it is closed."""
    kv, heard = client(cluster, 2), []

    async def listen(watching):
        async for event in watching:
            heard.append((event.kv.key, event.kv.value))

    revision = run(cluster, kv.put("jobs/1", b"a"))
    run(cluster, kv.put("other", b"-"))
    watching = kv.watch("jobs/", prefix=True, from_revision=revision)
    ended = start(listen(watching))
    run(cluster, kv.put("jobs/2", b"b"))
    cluster.settle()
    assert heard == [(b"jobs/1", b"a"), (b"jobs/2", b"b")]
    watching.close()
    assert ended[0].check(WatchLost)


@pytest.mark.contract("KV-2")
def test_a_slow_listener_makes_the_store_hold_on(cluster):
    """What it has not taken is bounded; it hears everything all the same."""
    kv = client(cluster)
    watching = kv.watch("k")

    async def fill():
        for number in range(5 * PAUSE_EVENTS):
            await kv.put("k", b"%d" % number)

    async def drain():
        return [int((await anext(watching)).kv.value) for _ in range(5 * PAUSE_EVENTS)]

    run(cluster, fill())
    assert len(watching._inbox.events) < 2 * PAUSE_EVENTS
    assert run(cluster, drain()) == list(range(5 * PAUSE_EVENTS))


@pytest.mark.contract("KV-2")
def test_a_watch_behind_compaction_ends_in_compacted(cluster):
    """There the application has to read the keys anew."""
    kv = client(cluster)
    for number in range(5):
        run(cluster, kv.put("k", b"%d" % number))
    cluster.ask(cluster[1].compact(Compact(5)))
    with pytest.raises(errors.Compacted):
        run(cluster, anext(kv.watch("k", from_revision=2)))


@pytest.mark.contract("KV-3")
def test_a_lock_is_held_by_one_at_a_time_in_order(cluster):
    """Whoever waits gets it when the one before lets go."""
    log = []

    async def work(member_id, hold):
        async with client(cluster, member_id).lock("nightly", ttl_s=10) as held:
            log.append(member_id)
            await hold
            assert held.held
            log.append(-member_id)

    holds = {member_id: Deferred() for member_id in (1, 2, 3)}
    done = {}
    for member_id, hold in holds.items():
        done[member_id] = start(work(member_id, hold))
        cluster.run(0.2)
    assert log == [1]
    cluster.run(30)
    assert log == [1]
    for member_id in (1, 2, 3):
        holds[member_id].callback(None)
        cluster.run(0.5)
    assert log == [1, -1, 2, -2, 3, -3]
    assert done == {1: [None], 2: [None], 3: [None]}
    assert run(cluster, client(cluster).count("nightly/")) == 0


@pytest.mark.contract("KV-3")
def test_a_lock_that_is_lost_says_so_before_anybody_else_has_it(cluster):
    """A holder that is cut off knows by its own clock; the store ends the lease later."""
    log = []

    async def work(member_id):
        async with client(cluster, member_id).lock("nightly", ttl_s=4) as held:
            log.append(f"{member_id} has it")
            reason = await held.lost
            log.append(f"{member_id} lost it: {reason}")
            assert not held.held

    start(work(2))
    cluster.run(0.2)
    start(work(1))
    cluster.run(10)
    assert log == ["2 has it"]
    cluster.groups[2].cut = True
    cluster.run(6)
    assert log == ["2 has it", "2 lost it: the lease was not renewed for 4 s", "1 has it"]


@pytest.mark.contract("KV-3")
def test_a_txn_can_insist_on_the_lock(cluster):
    """``still_mine`` holds while the lock's key is there, and not a moment longer."""
    kv = client(cluster)

    async def work():
        from meshsvc.kv.api import Put

        async with kv.lock("nightly") as held:
            first = await kv.txn([held.still_mine()], [Put(b"a", b"1")])
            await cluster[1].lease_revoke(LeaseRevoke(held.lease_id))
            second = await kv.txn([held.still_mine()], [Put(b"a", b"2")])
            return first.succeeded, second.succeeded

    assert run(cluster, work(), 1) == (True, False)


@pytest.mark.contract("KV-3")
def test_who_waits_for_a_lock_and_loses_its_lease_is_told(cluster):
    """It fails instead of waiting for a turn that will not come."""

    async def hold(kv):
        async with kv.lock("nightly") as held:
            await held.lost

    start(hold(client(cluster, 1)))
    cluster.run(0.2)
    waiting = start(hold(client(cluster, 2)))
    cluster.run(0.2)
    lease_id = max(cluster[1].machine.leases, key=lambda lease: min(
        cluster[1].machine.mvcc.index.latest(key)[1] for key in lease.keys)).lease_id  # fmt: skip
    cluster.ask(cluster[1].lease_revoke(LeaseRevoke(lease_id)))
    cluster.run(10)
    assert waiting[0].check(errors.LeaseNotFound)


@pytest.mark.contract("KV-3")
def test_an_election_has_one_in_office(cluster):
    """The next is elected when the one in office resigns, or its lease ends."""
    log = []

    async def stand(member_id, resign):
        async with client(cluster, member_id).elect("head", b"n%d" % member_id, ttl_s=5):
            log.append(member_id)
            await resign

    resign = Deferred()
    start(stand(1, resign))
    cluster.run(0.2)
    start(stand(2, Deferred()))
    cluster.run(0.2)
    assert run(cluster, client(cluster, 3).leader("head")).value == b"n1"
    resign.callback(None)
    cluster.run(0.5)
    assert log == [1, 2]
    assert run(cluster, client(cluster, 3).leader("head")).value == b"n2"
    assert run(cluster, client(cluster, 3).leader("nobody")) is None


@pytest.mark.contract("KV-3")
def test_a_lease_is_renewed_until_it_is_released(cluster):
    """Keys under it stay for as long, and go with it."""
    kv = client(cluster)

    async def hold():
        lease = await kv.lease(3)
        await kv.put("here", b"", lease=lease.lease_id)
        return lease

    lease = run(cluster, hold())
    cluster.run(20)
    assert run(cluster, kv.get("here")) == b""
    run(cluster, lease.release())
    assert run(cluster, kv.get("here")) is None

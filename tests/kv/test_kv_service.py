"""The service: what is refused before the log, reads, leases, space, time-outs, and its end."""

from __future__ import annotations

from io import BytesIO

import pytest
from kv_group import Cluster
from kv_watching import EVERYTHING, Ear
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from meshsvc.kv import api, errors, snapshot_file, upkeep
from meshsvc.kv.api import (
    Compact,
    DeleteRange,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseRevoke,
    LeaseTimeToLive,
    Put,
    Range,
    Txn,
)
from meshsvc.kv.machine import Machine
from meshsvc.kv.upkeep import AlarmAction, AlarmKind, AlarmRequest


@pytest.mark.contract("KV-1")
def test_writes_and_reads_on_any_replica():
    """A write through one replica is read through another; both say so with its revision."""
    with Cluster(3) as cluster:
        put = cluster.ask(cluster[2].put(Put(b"a", b"1")))
        assert put.header == api.Header(9, 2, 2, 1)
        for member_id in (1, 2, 3):
            result = cluster.ask(cluster[member_id].range(Range(b"a")))
            assert [kv.value for kv in result.kvs] == [b"1"]
            assert result.header == api.Header(9, member_id, 2, 1)
        txn = Txn((api.Compare(b"a", operand=1),), (DeleteRange(b"a", prev_kv=True),))
        done = cluster.ask(cluster[3].txn(txn))
        assert done.succeeded
        assert done.responses[0].prev_kvs[0].value == b"1"
        assert cluster.ask(cluster[1].txn(Txn(success=(Range(b"a"),)))).responses[0].count == 0


CALLS = {
    Put: "put",
    Range: "range",
    DeleteRange: "delete_range",
    Txn: "txn",
    Compact: "compact",
    LeaseGrant: "lease_grant",
    LeaseRevoke: "lease_revoke",
}


@pytest.mark.contract("KV-1", "KV-8")
@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (Put(b""), errors.EmptyKey),
        (Put(b"k", b"v", ignore_value=True), errors.ValueProvided),
        (Put(b"k", lease=1, ignore_lease=True), errors.LeaseProvided),
        (Put(b"k", lease=77), errors.LeaseNotFound),
        (Put(b"k", ignore_value=True), errors.KeyNotFound),
        (Put(b"k", bytes(api.MAX_REQUEST_BYTES)), errors.RequestTooLarge),
        (Range(b""), errors.EmptyKey),
        (Range(b"k", sort_order=3), errors.InvalidSortOption),
        (Range(b"k", revision=99), errors.FutureRevision),
        (DeleteRange(b""), errors.EmptyKey),
        (Txn((api.Compare(b""),)), errors.EmptyKey),
        (Txn(success=(Put(b"k"),) * 2), errors.DuplicateKey),
        (Txn(success=(Put(b"k"), DeleteRange(b"a", b"z"))), errors.DuplicateKey),
        (Txn(success=(Txn(success=(Put(b"k"),)), Put(b"k"))), errors.DuplicateKey),
        (Txn(success=tuple(Range(b"k%d" % n) for n in range(129))), errors.TooManyOps),
        (Txn(success=(Range(b"k", revision=99), Put(b"x"))), errors.FutureRevision),
        (Compact(99), errors.FutureRevision),
        (LeaseGrant(10, 5), errors.LeaseExists),
        (LeaseGrant(9_000_000_001), errors.LeaseTtlTooLarge),
        (LeaseRevoke(77), errors.LeaseNotFound),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(request_, error):
    """Each failure is etcd's, in type, code and text, whichever request it comes from."""
    with Cluster() as cluster:
        cluster.ask(cluster[1].lease_grant(LeaseGrant(10, 5)))
        before = cluster[1].header().revision
        with pytest.raises(error) as raised:
            cluster.ask(getattr(cluster[1], CALLS[type(request_)])(request_))
        assert str(raised.value) == error.text
        assert errors.KV_ERRORS[error.text] is error
        assert cluster[1].header().revision == before


@pytest.mark.contract("KV-1")
def test_branches_of_a_nested_txn_may_write_the_same_key():
    """Only one of them is taken; a nested txn with nothing but compares is fine too."""
    with Cluster() as cluster:
        inner = Txn((api.Compare(b"k", operand=0),), (Put(b"k", b"1"),), (Put(b"k", b"2"),))
        assert cluster.ask(cluster[1].txn(Txn(success=(inner,)))).header.revision == 2
        deep = inner
        for _ in range(100):
            deep = Txn(success=(deep,))
        assert cluster.ask(cluster[1].txn(deep)).header.revision == 3
        result = cluster.ask(cluster[1].range(Range(b"k", serializable=True)))
        assert result.kvs[0].value == b"2"


@pytest.mark.contract("KV-1")
def test_a_replica_that_is_cut_off_answers_only_serializable_reads():
    """What might be old is answered only to who said that this is all right."""
    with Cluster(3) as cluster:
        cluster.ask(cluster[1].put(Put(b"a", b"1")))
        cluster.groups[3].cut = True
        cluster.ask(cluster[1].put(Put(b"a", b"2")))
        old = cluster.ask(cluster[3].range(Range(b"a", serializable=True)))
        assert old.kvs[0].value == b"1"
        with pytest.raises(errors.TimedOut, match=r"^etcdserver: request timed out$"):
            cluster.ask(cluster[3].range(Range(b"a")), seconds=8)
        with pytest.raises(errors.TimedOut):
            cluster.ask(cluster[3].put(Put(b"a", b"3")), seconds=8)
        assert cluster[3]._pending == 0


@pytest.mark.contract("KV-1")
def test_a_time_out_tells_that_the_leader_was_lost():
    """When the leader went while a request waited, the text says that this may be why."""
    with Cluster(3) as cluster:
        cluster.groups[1].cut = True
        results = []
        cluster[2].put(Put(b"a")).addBoth(results.append)
        cluster.run(1)
        cluster.elect(0)
        cluster.run(8)
        assert results[0].check(errors.TimedOutLeaderFailed)


@pytest.mark.contract("KV-1")
def test_reads_of_one_turn_share_one_confirmation():
    """A thousand reads that come together ask the group once."""
    with Cluster() as cluster:
        asked = []
        group = cluster.groups[1]
        read_index, group.read_index = group.read_index, lambda s: asked.append(s) or read_index(s)
        waiting = [cluster[1].range(Range(b"a")) for _ in range(1000)]
        waiting[0].cancel()
        waiting[0].addErrback(lambda _: None)
        assert cluster.ask(waiting[999]).count == 0
        assert len(asked) == 1


@pytest.mark.contract("KV-1")
def test_a_wide_range_is_answered_in_slices_as_of_one_revision():
    """What is written meanwhile, compacted even, does not show in the answer."""
    with Cluster() as cluster:
        for start in range(0, 10_000, 100):
            ops = tuple(Put(b"k%05d" % n, b"1") for n in range(start, start + 100))
            cluster[1].txn(Txn(success=ops))
        cluster.settle()
        answers = []
        revision = cluster[1].header().revision
        cluster[1].range(Range(b"k", b"l", serializable=True)).addCallback(answers.append)
        assert not answers
        cluster[1].put(Put(b"k99999", b"2"))
        cluster[1].delete_range(DeleteRange(b"k05", b"k06"))
        cluster[1].compact(Compact(revision + 1))
        cluster.settle()
        assert (len(answers[0].kvs), answers[0].count) == (10_000, 10_000)
        assert answers[0].header.revision == revision
        cluster.run(1)
        assert cluster[1].machine.mvcc.pruned


@pytest.mark.contract("KV-3")
def test_a_lease_ends_through_the_log_and_takes_its_keys():
    """Only the leader ends it, after its time; all replicas agree; a keepalive holds it."""
    with Cluster(3) as cluster:
        lease = cluster.ask(cluster[2].lease_grant(LeaseGrant(5)))
        assert lease.lease_id > 0
        cluster.ask(cluster[2].put(Put(b"a", lease=lease.lease_id)))
        cluster.run(4)
        kept = cluster.ask(cluster[3].lease_keepalive(LeaseKeepAlive(lease.lease_id)))
        assert kept.ttl_s == 5
        cluster.run(4)
        left = cluster.ask(cluster[2].lease_time_to_live(LeaseTimeToLive(lease.lease_id, True)))
        assert (left.ttl_s, left.granted_ttl_s, left.keys) == (1, 5, (b"a",))
        assert cluster.ask(cluster[1].leases()).lease_ids == (lease.lease_id,)
        cluster.run(2)
        assert cluster.ask(cluster[1].range(Range(b"a"))).count == 0
        gone = cluster.ask(cluster[3].lease_time_to_live(LeaseTimeToLive(lease.lease_id)))
        assert (gone.ttl_s, gone.granted_ttl_s) == (-1, 0)
        assert cluster.ask(cluster[1].lease_keepalive(LeaseKeepAlive(lease.lease_id))).ttl_s == 0
        assert len({replica.machine.mvcc.revision for replica in cluster.services.values()}) == 1


@pytest.mark.contract("KV-3")
def test_a_change_of_leader_never_ends_a_lease_early():
    """The new leader gives every lease its whole time, whatever the old one was about to do."""
    with Cluster(3) as cluster:
        lease = cluster.ask(cluster[1].lease_grant(LeaseGrant(5, 7)))
        cluster.ask(cluster[1].put(Put(b"a", lease=7)))
        cluster.run(4.4)
        stale = Deferred()
        group = cluster.groups[1]
        propose, group.propose = group.propose, lambda data, s: stale.callback(data) or Deferred()
        cluster.run(1)
        assert stale.called, "the old leader proposed to end the lease, and was too late"
        group.propose = propose
        cluster.elect(2)
        group.propose(stale.result, 7)
        cluster.run(4)
        assert cluster.ask(cluster[3].range(Range(b"a"))).count == 1
        assert cluster.ask(cluster[1].lease_keepalive(LeaseKeepAlive(7))).ttl_s == lease.ttl_s
        cluster.run(4.5)
        assert cluster.ask(cluster[3].range(Range(b"a"))).count == 1
        cluster.run(2.5)
        assert cluster.ask(cluster[3].range(Range(b"a"))).count == 0


@pytest.mark.contract("KV-3")
def test_what_is_left_of_a_long_lease_survives_a_change_of_leader():
    """It is written to the log now and then, and forgotten when the lease is renewed."""
    with Cluster(2) as cluster:
        cluster.ask(cluster[1].lease_grant(LeaseGrant(1000, 7)))
        cluster.run(650, step=5)
        assert cluster[2].machine.leases.get(7).remaining_s == pytest.approx(400, abs=10)
        cluster.elect(2)
        left = cluster.ask(cluster[1].lease_time_to_live(LeaseTimeToLive(7)))
        assert left.ttl_s == pytest.approx(400, abs=10)
        cluster.ask(cluster[1].lease_keepalive(LeaseKeepAlive(7)))
        cluster.run(1)
        assert cluster[1].machine.leases.get(7).remaining_s == 0
        cluster.elect(1)
        assert cluster.ask(cluster[2].lease_time_to_live(LeaseTimeToLive(7))).ttl_s > 990


@pytest.mark.contract("KV-3")
def test_a_keepalive_waits_for_a_leader_and_not_for_ever():
    """While none leads it is asked again and again, for as long as a request may take."""
    with Cluster(2) as cluster:
        cluster.ask(cluster[1].lease_grant(LeaseGrant(60, 7)))
        cluster.elect(0)
        answers = []
        cluster[2].lease_keepalive(LeaseKeepAlive(7)).addBoth(answers.append)
        cluster.run(2)
        assert not answers
        cluster.elect(1)
        cluster.run(0.5)
        assert answers[0].ttl_s == 60
        cluster.elect(0)
        with pytest.raises(errors.TimedOut):
            cluster.ask(cluster[2].lease_keepalive(LeaseKeepAlive(7)), seconds=8)


@pytest.mark.contract("KV-8")
def test_a_full_store_refuses_what_takes_space_and_recovers_by_itself():
    """The alarm refuses puts everywhere; deletes and compaction work, and end it."""
    with Cluster(3, quota_bytes=50_000) as cluster:
        for number in range(45):
            cluster.ask(cluster[2].put(Put(b"k%d" % number, bytes(900))))
        with pytest.raises(errors.NoSpace):
            cluster.ask(cluster[2].put(Put(b"last", bytes(5000))))
        cluster.run(1)
        alarms = cluster.ask(cluster[3].alarm(AlarmRequest())).alarms
        assert {alarm.alarm for alarm in alarms} == {AlarmKind.NOSPACE}
        for service in cluster.services.values():
            with pytest.raises(errors.NoSpace):
                cluster.ask(service.txn(Txn(success=(Put(b"x"),))))
            assert "alarm:NOSPACE" in cluster.ask(service.status()).errors[0]
        cluster.ask(cluster[1].txn(Txn(success=(Range(b"k1"), DeleteRange(b"k1")))))
        deleted = cluster.ask(cluster[1].delete_range(DeleteRange(b"k", b"l")))
        assert deleted.deleted == 44
        cluster.ask(cluster[1].compact(Compact(deleted.header.revision, physical=True)))
        cluster.run(1)
        assert cluster.ask(cluster[3].alarm(AlarmRequest())).alarms == ()
        cluster.ask(cluster[2].put(Put(b"last", bytes(5000))))


@pytest.mark.contract("KV-8")
def test_an_alarm_can_be_raised_and_ended_by_hand():
    """CORRUPT refuses reads and writes alike, until somebody says that all is well."""
    with Cluster() as cluster:
        raise_ = AlarmRequest(AlarmAction.ACTIVATE, 1, AlarmKind.CORRUPT)
        cluster.ask(cluster[1].alarm(raise_))
        for waiting in (cluster[1].put(Put(b"k")), cluster[1].range(Range(b"k"))):
            with pytest.raises(errors.Corrupt):
                cluster.ask(waiting)
        cluster.ask(cluster[1].alarm(AlarmRequest(AlarmAction.DEACTIVATE, 0, AlarmKind.NONE)))
        cluster.ask(cluster[1].put(Put(b"k")))


@pytest.mark.contract("KV-4")
def test_members_and_leadership_are_asked_of_the_group():
    """What cannot be is refused the way etcd does."""
    with Cluster(3) as cluster:
        listed = cluster.ask(cluster[2].member_list(upkeep.MemberList()))
        assert [member.name for member in listed.members] == ["n1", "n2", "n3"]
        with pytest.raises(errors.MemberBadUrls):
            cluster.ask(cluster[2].member_add(upkeep.MemberAdd(())))
        added = cluster.ask(cluster[2].member_add(upkeep.MemberAdd(("http://x:1",), True)))
        assert added.member.member_id == 4
        with pytest.raises(errors.BadLeaderTransferee):
            cluster.ask(cluster[1].move_leader(upkeep.MoveLeader(4)))
        promoted = cluster.ask(cluster[2].member_promote(upkeep.MemberPromote(4)))
        assert not promoted.member.is_learner
        cluster.ask(cluster[2].member_remove(upkeep.MemberRemove(4)))
        with pytest.raises(errors.NotLeader):
            cluster.ask(cluster[2].move_leader(upkeep.MoveLeader(2)))
        cluster.ask(cluster[1].move_leader(upkeep.MoveLeader(2)))
        status = cluster.ask(cluster[1].status())
        assert (status.leader, status.raft_term, status.errors) == (2, 2, ())


@pytest.mark.contract("KV-4")
def test_replicas_have_the_same_hashes():
    """However far each has got with giving back what was compacted."""
    with Cluster(3) as cluster:
        for number in range(50):
            cluster.ask(cluster[1].put(Put(b"k%d" % (number % 7), b"%d" % number)))
        cluster.ask(cluster[1].compact(Compact(30)))
        found = {cluster.ask(service.hash_kv(upkeep.HashKv(40))).hash
                 for service in cluster.services.values()}  # fmt: skip
        assert len(found) == 1
        whole = {cluster.ask(service.hash()).hash for service in cluster.services.values()}
        assert len(whole) == 1
        assert cluster.ask(cluster[1].defragment()).header.revision == 51


class Disk:
    """A sink that takes a chunk at a time."""

    def __init__(self, clock):
        self.clock, self.data, self.remaining = clock, b"", []

    def snapshot_chunk(self, chunk):
        self.data += chunk.blob
        self.remaining.append(chunk.remaining)
        done = Deferred()
        self.clock.callLater(0.01, done.callback, None)
        return done


@pytest.mark.contract("KV-4")
def test_a_saved_snapshot_restores_and_damage_is_found():
    """It has etcd's ending, so that etcdctl takes it; any byte that is wrong is noticed."""
    with Cluster() as cluster:
        for number in range(3000):
            cluster[1].put(Put(b"k%d" % number, b"v" * 50))
        cluster.ask(cluster[1].lease_grant(LeaseGrant(60, 7)))
        disk = Disk(cluster.clock)
        cluster.ask(cluster[1].snapshot(disk), seconds=5)
        assert disk.remaining[-1] == 0
        assert len(disk.data) % 512 == 32
        restore = Machine(9, 1).restore()
        assert [restore.feed(chunk) for chunk in snapshot_file.scan(BytesIO(disk.data).read)][-1]
        assert len(restore.machine.mvcc.index) == 3000
        assert 7 in restore.machine.leases
        for position in (0, 5000, len(disk.data) - 1):
            bad = bytearray(disk.data)
            bad[position] ^= 1
            with pytest.raises(snapshot_file.BadSnapshot):
                list(snapshot_file.scan(BytesIO(bad).read))
        stopped = cluster[1].snapshot(Disk(cluster.clock))
        stopped.addErrback(lambda _: None)
        stopped.cancel()
        cluster.run(1)
        assert cluster[1].machine.mvcc._pins == 0


@pytest.mark.contract("KV-2")
def test_watchers_hear_at_the_end_of_a_turn():
    """Writes of one turn come in one response; a restored snapshot leaves out nothing."""
    with Cluster(2) as cluster:
        ear = Ear()
        cluster[2].watch_stream(ear).create(EVERYTHING)
        for number in range(10):
            cluster[1].put(Put(b"k", b"%d" % number))
        cluster.settle()
        assert [len(response.batch.events) for response in ear.of(0)[1:]] == [10]
        cluster.groups[2].cut = True
        for _ in range(5):
            cluster.ask(cluster[1].put(Put(b"k")))
        restore = cluster[2].state_machine.restore()
        for chunk in cluster[1].state_machine.snapshot():
            restore.feed(chunk)
        restore.finish()
        cluster.settle()
        assert [event.kv.version for event in ear.events(0)] == list(range(1, 16))


def test_everything_ends_when_the_service_stops():
    """Who waits is told that the server stopped; watches too; no timer is left."""
    clock = Clock()
    ear, results = Ear(), []
    with Cluster(leader=0, clock=clock) as cluster:
        cluster[1].watch_stream(ear).create(EVERYTHING)
        for waiting in (
            cluster[1].range(Range(b"a")),
            cluster[1].lease_keepalive(LeaseKeepAlive(1)),
        ):
            waiting.addBoth(results.append)
    assert ear.closed == errors.Stopped.text
    assert [bool(result.check(errors.Stopped)) for result in results] == [True, True]
    assert clock.getDelayedCalls() == []
    late = []
    cluster[1].put(Put(b"a")).addErrback(late.append)
    assert late[0].check(errors.Stopped)


def test_too_many_requests_at_once_are_refused():
    """What waits for the log is bounded; once it moves, all is well again."""
    with Cluster() as cluster:
        waiting = [cluster[1].put(Put(b"a")) for _ in range(5001)]
        with pytest.raises(errors.TooManyRequests):
            cluster.ask(waiting[-1])
        assert cluster.ask(waiting[4999]).header.revision == 5001


@pytest.mark.contract("LOG-3")
def test_a_replica_whose_disk_is_full_only_reads_until_there_is_room():
    """Its writes of every kind are refused at once, its alarm is seen, and ends by itself."""
    with Cluster(3) as cluster:
        cluster.ask(cluster[2].put(Put(b"a", b"1")))
        cluster[2].disk_is(True)
        for call in (
            lambda kv: kv.put(Put(b"a", b"2")),
            lambda kv: kv.delete_range(DeleteRange(b"a")),
            lambda kv: kv.txn(Txn(success=(Put(b"a", b"2"),))),
            lambda kv: kv.lease_grant(LeaseGrant(5, 60)),
        ):
            with pytest.raises(errors.NoSpace):
                cluster.ask(call(cluster[2]))
        assert cluster.ask(cluster[2].range(Range(b"a"))).kvs[0].value == b"1"
        own = upkeep.AlarmEntry(2, AlarmKind.NOSPACE)
        assert cluster.ask(cluster[2].alarm(AlarmRequest())).alarms == (own,)
        assert "memberID:2 alarm:NOSPACE" in cluster.ask(cluster[2].status()).errors
        cluster.ask(cluster[1].put(Put(b"a", b"3")))
        cluster[2].disk_is(False)
        cluster.ask(cluster[2].put(Put(b"a", b"4")))
        assert cluster.ask(cluster[2].alarm(AlarmRequest())).alarms == ()

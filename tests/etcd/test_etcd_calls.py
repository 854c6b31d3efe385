"""gRPC calls over one connection: how they begin, and the four sides they can end from."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import GrpcPeer

from meshsvc.etcd import grpc
from meshsvc.etcd.http2.headers import RequestHead
from meshsvc.etcd.proto import kv_pb2 as pb
from meshsvc.etcd.proto import lease_pb2, upkeep_pb2
from meshsvc.etcd.rpcs_watch import watch_response
from meshsvc.etcd.status import RpcFailed
from meshsvc.kv import api, errors, upkeep

pytestmark = pytest.mark.contract("KV-5")

PUT = "/etcdserverpb.KV/Put"
WATCH = "/etcdserverpb.Watch/Watch"
KEEPALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
SNAPSHOT = "/etcdserverpb.Maintenance/Snapshot"
HEADER = api.Header(1, 2, 3, 4)


def messages(peer: GrpcPeer, sid: int, kind) -> list:
    return [kind.FromString(m) for m in grpc.MessageReader().feed(peer.answer(sid))]


def test_a_unary_call() -> None:
    """A request becomes the store's, its result a response with OK."""
    peer = GrpcPeer()
    sid = peer.call(PUT, pb.PutRequest(key=b"k", value=b"v", lease=5, prev_kv=True))
    assert peer.store.asked[0][1] == api.Put(b"k", b"v", 5, True)
    before = api.KeyValue(b"k", 1, 2, 3, b"old", 4)
    peer.store.answer(api.PutResult(before, HEADER))
    peer.exchange()
    (answer,) = messages(peer, sid, pb.PutResponse)
    assert (answer.header.cluster_id, answer.header.revision) == (1, 3)
    assert (answer.prev_kv.value, answer.prev_kv.lease) == (b"old", 4)
    assert peer.status(sid) == (0, "")
    assert peer.calls.open == peer.server.streams == 0
    assert peer.counters.total("etcd_requests_total", method=PUT, code="ok") == 1


def test_failures_carry_the_codes_and_texts_of_the_store() -> None:
    """A failure of the store reaches the client as its status; a fault of ours says no more."""
    peer = GrpcPeer()
    sid = peer.call(PUT, pb.PutRequest(key=b"k"))
    peer.store.answer(errors.LeaseNotFound())
    other = peer.call(PUT, pb.PutRequest(key=b"k"))
    peer.store.answer(ZeroDivisionError("secret"))
    peer.exchange()
    assert peer.status(sid) == (5, "etcdserver: requested lease not found")
    assert peer.status(other) == (13, "etcdserver: internal error")
    assert isinstance(peer.faults[0], ZeroDivisionError)


@pytest.mark.contract("KV-4")
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etcdserverpb.KV/Nothing", "unknown method Nothing for service etcdserverpb.KV"),
        ("/etcdserverpb.Auth/AuthEnable", "unknown service etcdserverpb.Auth"),
        ("/v3lockpb.Lock/Lock", "unknown service v3lockpb.Lock"),
        ("/x", "unknown service x"),
    ],
)
def test_what_is_not_served_is_said_so(path: str, text: str) -> None:
    """Unknown procedures answer UNIMPLEMENTED at once."""
    peer = GrpcPeer()
    assert peer.status(peer.call(path, pb.PutRequest())) == (12, text)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", 13),
        (grpc.pack(b"") * 2, 13),
        (b"\x00\x00\x00\x00\x05abc", 13),
        (b"\x01\x00\x00\x00\x01a", 13),
        (b"\x02\x00\x00\x00\x01a", 13),
        (grpc.pack(b"\xff\xff\xff"), 13),
        (b"\x00\x7f\xff\xff\xff", 8),
        (b"\x00\x00\x20\x00\x01" + bytes(100), 8),
    ],
)
def test_broken_messages_end_their_call(body: bytes, code: int) -> None:
    """No, two, half, compressed, undecodable and too large messages: a status each."""
    peer = GrpcPeer()
    sid = peer.call(PUT, body)
    assert peer.status(sid)[0] == code
    assert not peer.store.asked
    assert peer.status(peer.call(PUT, pb.PutRequest(key=b"k"))) is None, "the connection goes on"


@pytest.mark.contract("KV-8")
def test_the_largest_message_is_two_megabytes() -> None:
    """At etcd's bound a message passes to the store; one byte more is refused with etcd's text."""
    peer = GrpcPeer()
    request = pb.PutRequest(value=bytes(grpc.MAX_MESSAGE_BYTES - 4))
    assert request.ByteSize() == grpc.MAX_MESSAGE_BYTES
    peer.call(PUT, request)
    assert peer.store.asked[0][1].value == request.value
    request.value += b"x"
    sid = peer.call(PUT, grpc.pack(request.SerializeToString())[:9000])
    assert peer.status(sid) == (
        8,
        "grpc: received message larger than max (2097153 vs. 2097152)",
    )


@pytest.mark.parametrize(
    ("method", "fields", "status"),
    [
        ("GET", {"content-type": "application/grpc"}, ":status"),
        ("POST", {"content-type": "application/json"}, ":status"),
        ("POST", {"content-type": "application/grpcx"}, ":status"),
        ("POST", {"content-type": "application/grpc", "grpc-encoding": "gzip"}, "Decompressor"),
        ("POST", {"content-type": "application/grpc", "grpc-timeout": "1x"}, "grpc-timeout"),
    ],
)
def test_heads_that_are_no_grpc(method: str, fields: dict[str, str], status: str) -> None:
    """A head that gRPC does not know is refused before any message."""
    call = grpc.read_head(RequestHead(method, PUT, fields))
    assert call.refusal is not None
    assert status == ":status" or status.encode() in call.refusal


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [("5S", 5), ("100m", 0.1), ("250u", 0.00025), ("9n", 9e-9), ("2M", 120), ("1H", 3600)],
)
def test_timeouts(timeout: str, seconds: float) -> None:
    """All six units of grpc-timeout."""
    fields = {"content-type": "application/grpc+proto", "grpc-timeout": timeout}
    assert grpc.read_head(RequestHead("POST", PUT, fields)).timeout_s == pytest.approx(seconds)


def test_a_deadline_ends_the_call_and_the_work() -> None:
    """When the client's time is up the store is told, and a late result meets nothing."""
    peer = GrpcPeer()
    sid = peer.call(PUT, pb.PutRequest(key=b"k"), grpc_timeout="2S")
    peer.calls.sweep(1.9)
    assert peer.store.cancelled == 0
    peer.calls.sweep(2.0)
    peer.exchange()
    assert peer.status(sid) == (4, "context deadline exceeded")
    assert peer.store.cancelled == 1
    assert not peer.faults


def test_a_request_that_never_ends_is_cut() -> None:
    """A unary request has a minute to arrive, whatever its own deadline."""
    peer = GrpcPeer()
    sid = peer.call(PUT, b"\x00\x00", end=False)
    peer.calls.sweep(59.0)
    assert peer.status(sid) is None
    peer.calls.sweep(60.0)
    peer.exchange()
    assert peer.status(sid) == (4, "context deadline exceeded")


def test_a_client_that_vanishes_cancels_its_calls() -> None:
    """Reset or disconnect in mid-request: the store's work is cancelled, watches are closed."""
    peer = GrpcPeer()
    sid = peer.call(PUT, pb.PutRequest(key=b"k"))
    peer.call(PUT, pb.PutRequest(key=b"k"))
    peer.call(WATCH, pb.WatchRequest(), end=False)
    peer.client.reset_stream(sid)
    peer.exchange()
    assert peer.store.cancelled == 1
    peer.server.abandon("gone")
    peer.calls.handle(peer.server.take_events(), 1.0)
    assert peer.store.cancelled == 2
    assert peer.store.watches[0].told == ["close"]
    assert peer.calls.open == 0


def test_a_watch_call() -> None:
    """Creates, cancels and progress reach the store; half-closing leaves the watches."""
    peer = GrpcPeer()
    create = pb.WatchRequest(
        create_request=pb.WatchCreateRequest(
            key=b"a", range_end=b"b", start_revision=5, filters=[0, 1], prev_kv=True, fragment=True
        )
    )
    cancel = pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=7))
    progress = pb.WatchRequest(progress_request=pb.WatchProgressRequest())
    sid = peer.call(WATCH, create, cancel, progress)
    (watch,) = peer.store.watches
    assert watch.told == [
        api.WatchCreate(b"a", b"b", 5, False, (0, 1), True, 0, True),
        ("cancel", 7),
        "progress",
    ]
    kv = api.KeyValue(b"a", 1, 2, 3, b"v", 0)
    batch = api.EventBatch((api.Event(api.EventKind.DELETE, kv, kv),), 10)
    for watch_id in (1, 2):
        watch.sink.watch_response(api.WatchResponse(watch_id, HEADER, batch))
    peer.exchange()
    assert batch.encoded is not None
    first, second = messages(peer, sid, pb.WatchResponse)
    assert (first.watch_id, second.watch_id) == (1, 2)
    assert first.events == second.events
    assert first.events[0].type == pb.Event.DELETE
    assert first.events[0].prev_kv.version == 3
    watch.sink.watch_closed("too slow")
    peer.exchange()
    assert peer.status(sid) == (14, "too slow")


@given(
    st.integers(-1, 300), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 2), st.text()
)
@settings(max_examples=80, deadline=None)
def test_watch_responses_say_what_they_were_given(
    watch_id, created, canceled, fragment, events, reason
) -> None:
    """However a response is put together, it decodes to its fields."""
    kv = api.KeyValue(b"a", 1, 2, 3, b"v", 0)
    batch = api.EventBatch((api.Event(api.EventKind.PUT, kv),) * events, 9) if events else None
    given = api.WatchResponse(watch_id, HEADER, batch, created, canceled, 7, reason, fragment)
    if not canceled:
        given = api.WatchResponse(watch_id, HEADER, batch, created, fragment=fragment)
    for _ in range(2):
        m = pb.WatchResponse.FromString(watch_response(given))
        assert (m.watch_id, m.created, m.canceled) == (watch_id, created, canceled)
        assert (m.header.raft_term, m.fragment, len(m.events)) == (4, fragment, events)
        assert (m.compact_revision, m.cancel_reason) == ((7, reason) if canceled else (0, ""))


def test_a_slow_watcher_pauses_the_store() -> None:
    """When the client's window is shut the stream pauses, and resumes when it opens."""
    peer = GrpcPeer(stream_high_bytes=100_000)
    sid = peer.call(WATCH, pb.WatchRequest(), end=False)
    (watch,) = peer.store.watches
    kv = api.KeyValue(b"a", 1, 2, 3, bytes(50_000), 0)
    batch = api.EventBatch((api.Event(api.EventKind.PUT, kv),), 50_000)
    for _ in range(5):
        watch.sink.watch_response(api.WatchResponse(0, HEADER, batch))
        peer.exchange()
    assert watch.told == ["pause"]
    peer.client.increment_flow_control_window(1_000_000)
    peer.client.increment_flow_control_window(1_000_000, sid)
    peer.exchange()
    assert watch.told == ["pause", "resume"]


def test_streams_may_ask_for_a_leader() -> None:
    """A stream with ``hasleader`` ends when there is none for three looks; others go on."""
    peer = GrpcPeer()
    plain = peer.call(WATCH, pb.WatchRequest(), end=False)
    asking = peer.call(WATCH, pb.WatchRequest(), end=False, hasleader="true")
    peer.calls.sweep(1.0)
    peer.store.leader = 0
    for now in (2.0, 3.0):
        peer.calls.sweep(now)
    assert peer.calls.open == 2
    peer.calls.sweep(4.0)
    peer.exchange()
    assert peer.status(asking) == (14, "etcdserver: no leader")
    assert peer.status(plain) is None


def test_keepalives_are_answered_as_they_come() -> None:
    """Each renewal gets its answer; the stream ends well after its last."""
    peer = GrpcPeer()
    requests = [lease_pb2.LeaseKeepAliveRequest(ID=i) for i in (1, 2)]
    sid = peer.call(KEEPALIVE, *requests)
    assert [asked[1].lease_id for asked in peer.store.asked] == [1, 2]
    peer.store.answer(api.LeaseKeepAliveResult(1, 30, HEADER))
    assert peer.status(sid) is None
    peer.store.answer(api.LeaseKeepAliveResult(2, 0, HEADER))
    peer.exchange()
    answers = messages(peer, sid, lease_pb2.LeaseKeepAliveResponse)
    assert [(a.ID, a.TTL) for a in answers] == [(1, 30), (2, 0)]
    assert peer.status(sid) == (0, "")


def test_a_store_that_takes_no_watches_fails_the_call() -> None:
    """An error when a stream is opened is the call's, not the connection's."""
    peer = GrpcPeer()

    def stopped(_sink):
        raise errors.Stopped

    peer.store.watch_stream = stopped
    sid = peer.call(WATCH, pb.WatchRequest(), end=False)
    assert peer.status(sid) == (14, "etcdserver: server stopped")
    assert not peer.server.closed


def test_a_keepalive_that_fails_ends_its_stream() -> None:
    """What came with it in one read meets nothing."""
    peer = GrpcPeer()
    requests = [lease_pb2.LeaseKeepAliveRequest(ID=i) for i in (1, 2)]
    sid = peer.call(KEEPALIVE, *requests, b"\x00\x00\x00\x00\x09half", end=False)
    peer.store.answer(errors.NoLeader())
    peer.exchange()
    assert peer.status(sid) == (14, "etcdserver: no leader")
    assert peer.store.cancelled == 1
    assert peer.calls._held == 0


def test_a_flood_of_keepalives_is_refused() -> None:
    """More than a thousand renewals without an answer end the stream; the store is told."""
    peer = GrpcPeer()
    requests = [lease_pb2.LeaseKeepAliveRequest(ID=i) for i in range(1, 1100)]
    sid = peer.call(KEEPALIVE, *requests, end=False)
    assert peer.status(sid) == (8, "etcdserver: too many requests")
    assert peer.store.cancelled == 1024


@pytest.mark.contract("KV-4")
def test_a_snapshot_waits_for_its_reader() -> None:
    """Chunks go out as the client reads."""
    peer = GrpcPeer(stream_high_bytes=1000)
    sid = peer.call(SNAPSHOT, upkeep_pb2.SnapshotRequest())
    chunks = [b"first", bytes(70_000), b"last"]
    assert peer.store.sink.snapshot_chunk(upkeep.SnapshotChunk(chunks[0], 7, HEADER)) is None
    wait = peer.store.sink.snapshot_chunk(upkeep.SnapshotChunk(chunks[1], 5, HEADER))
    peer.exchange()
    assert not wait.called
    peer.client.increment_flow_control_window(1_000_000)
    peer.client.increment_flow_control_window(1_000_000, sid)
    peer.exchange()
    assert wait.called
    peer.store.sink.snapshot_chunk(upkeep.SnapshotChunk(chunks[2], 0, HEADER))
    peer.store.answer(None)
    peer.exchange()
    answers = messages(peer, sid, upkeep_pb2.SnapshotResponse)
    assert answers[0].remaining_bytes == 7
    assert [answer.blob for answer in answers] == chunks
    assert peer.status(sid) == (0, "")


@given(st.lists(st.binary(max_size=60), max_size=6), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_messages_are_cut_out_of_any_pieces(bodies, step: int) -> None:
    """The reader gives the same messages however the data is cut."""
    data = b"".join(map(grpc.pack, bodies))
    reader = grpc.MessageReader()
    found = []
    for at in range(0, len(data), step):
        found += reader.feed(data[at : at + step])
    assert found == bodies
    assert reader.buffered == 0


def test_texts_of_any_kind_survive() -> None:
    """Status texts are percent-encoded, and cut to what a header block can hold."""
    fields = dict(grpc.status_fields(2, "50% of ключ\n"))
    assert fields["grpc-message"] == "50%25 of %D0%BA%D0%BB%D1%8E%D1%87%0A"
    assert len(grpc.failure_block(2, "ж" * 100_000)) < 16_384


@given(st.binary(max_size=100), st.sampled_from([PUT, WATCH, KEEPALIVE, SNAPSHOT]))
@settings(max_examples=100, deadline=None)
def test_no_body_is_a_fault(body: bytes, path: str) -> None:
    """Whatever a body holds, it is the client's error, and the connection goes on."""
    peer = GrpcPeer()
    peer.call(path, body)
    assert not peer.faults
    assert not peer.server.closed


def test_unwhole_requests_are_bounded() -> None:
    """A connection holds 64 MiB of requests that are not whole; the next is refused."""
    peer = GrpcPeer()
    part = b"\x00\x00\x1f\xff\xff" + bytes(2_000_000)
    codes = [peer.status(peer.call(PUT, part, end=False)) for _ in range(35)]
    assert codes[-1] == (8, "etcdserver: too many requests")
    assert codes[0] is None


def test_whole_requests_without_an_end_are_bounded() -> None:
    """So are those that are whole while their stream stays open."""
    peer = GrpcPeer()
    whole = pb.PutRequest(value=bytes(2_000_000))
    codes = [peer.status(peer.call(PUT, whole, end=False)) for _ in range(35)]
    assert codes[-1] == (8, "etcdserver: too many requests")
    assert not peer.store.asked


def test_large_responses_are_encoded_in_turns() -> None:
    """A range of many keys takes a turn of the reactor for each thousand; it arrives whole."""
    peer = GrpcPeer()
    sid = peer.call("/etcdserverpb.KV/Range", pb.RangeRequest(key=b"k"))
    kvs = tuple(api.KeyValue(b"%d" % n, 1, 2, 3, b"v", 0) for n in range(3500))
    peer.store.answer(api.RangeResult(kvs, True, 9000, HEADER))
    turns = 0
    while peer.later:
        peer.later.pop()()
        turns += 1
    peer.client.increment_flow_control_window(1_000_000)
    peer.client.increment_flow_control_window(1_000_000, sid)
    peer.exchange()
    (answer,) = messages(peer, sid, pb.RangeResponse)
    assert turns == 5
    assert (answer.count, answer.more, answer.header.revision) == (9000, True, 3)
    assert [kv.key for kv in answer.kvs] == [kv.key for kv in kvs]


def test_txns_of_any_shape_are_translated() -> None:
    """Nested operations, every target, and an operand of another target, which counts as none."""
    request = pb.TxnRequest(
        compare=[
            pb.Compare(key=b"a", target=pb.Compare.VALUE, value=b"v"),
            pb.Compare(key=b"b", target=pb.Compare.LEASE, lease=5, range_end=b"c", result=3),
            pb.Compare(key=b"c", target=pb.Compare.MOD, version=5),
            pb.Compare(key=b"d", target=pb.Compare.VALUE, version=5),
        ],
        success=[
            pb.RequestOp(request_txn=pb.TxnRequest(failure=[_delete()])),
            pb.RequestOp(request_range=pb.RangeRequest(key=b"r")),
        ],
    )
    peer = GrpcPeer()
    sid = peer.call("/etcdserverpb.KV/Txn", request)
    asked = peer.store.asked[0][1]
    assert [c.operand for c in asked.compare] == [b"v", 5, 0, b""]
    assert asked.success[0] == api.Txn((), (), (api.DeleteRange(b"d"),))
    inner = api.TxnResult(False, (api.DeleteRangeResult(2, (), api.Header(revision=9)),))
    peer.store.answer(api.TxnResult(True, (inner, api.RangeResult()), HEADER))
    peer.exchange()
    (answer,) = messages(peer, sid, pb.TxnResponse)
    nested = answer.responses[0].response_txn.responses[0].response_delete_range
    assert (nested.deleted, nested.header.revision) == (2, 9)
    assert answer.responses[1].HasField("response_range")


def _delete() -> pb.RequestOp:
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=b"d"))


def test_an_operation_that_is_none_is_refused() -> None:
    """An empty operation is answered as etcd does; nesting without end is refused."""
    peer = GrpcPeer()
    sid = peer.call("/etcdserverpb.KV/Txn", pb.TxnRequest(success=[pb.RequestOp()]))
    assert peer.status(sid) == (3, "etcdserver: key not found")
    for compare in (pb.Compare(key=b"k", target=9), pb.Compare(key=b"k", result=9)):
        sid = peer.call("/etcdserverpb.KV/Txn", pb.TxnRequest(compare=[compare]))
        assert peer.status(sid) == (3, "etcdserver: unknown compare target or result")


def test_transactions_are_bounded_before_they_are_read() -> None:
    """Too many beside each other, too deep, too many in all: refused, and at once."""
    deep = pb.TxnRequest()
    for _ in range(40):
        deep = pb.TxnRequest(success=[pb.RequestOp(request_txn=deep), _delete(), _delete()])
        deep.success.extend([_delete()])
    many = pb.TxnRequest(compare=[pb.Compare(key=b"k")] * 129)
    wide = pb.TxnRequest(success=[_delete()] * 30)
    for _ in range(2):
        wide = pb.TxnRequest(success=[pb.RequestOp(request_txn=wide)] * 30)
    for request in (deep, many, wide):
        peer = GrpcPeer()
        sid = peer.call("/etcdserverpb.KV/Txn", request)
        assert peer.status(sid) == (3, "etcdserver: too many operations in txn request")
        assert not peer.store.asked


def test_message_sizes_are_read_right() -> None:
    """The prefix is a flag and 32 bits, big-endian."""
    assert grpc.message_size(b"\x00\x00\x01\x00\x02") == 65_538
    with pytest.raises(RpcFailed):
        grpc.message_size(b"\x01\x00\x00\x00\x00")

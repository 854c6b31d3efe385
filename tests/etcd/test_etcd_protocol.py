"""One port: protocols told apart, JSON by etcd's conventions, limits, draining."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from h2peer import HEAD, Peer
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import ScriptedStore
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from meshsvc.counters import Counters
from meshsvc.etcd import protocol
from meshsvc.etcd.gateway.protocol import MAX_BODY_BYTES, MAX_DISCARDED_BYTES
from meshsvc.etcd.grpc import pack
from meshsvc.etcd.proto import kv_pb2 as pb
from meshsvc.etcd.protocol import EtcdFactory
from meshsvc.kv import api, errors, upkeep

pytestmark = pytest.mark.contract("KV-5")

HEADER = api.Header(1, 2, 3, 4)
ASKED = {"cluster_id": "1", "member_id": "2", "revision": "3", "raft_term": "4"}


class Wire(StringTransport):
    """A transport that knows when it was cut."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        self.disconnecting = True

    def setTcpNoDelay(self, enabled: bool) -> None:
        """As sockets have it."""


class Front:
    """A factory over a scripted store, and connections to it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = ScriptedStore()
        self.counters = Counters()
        self.factory = EtcdFactory(self.store, self.clock, self.counters)  # type: ignore[arg-type]

    def connect(self) -> tuple[Any, Wire]:
        wire = Wire()
        connection = self.factory.buildProtocol(None)
        connection.makeConnection(wire)
        return connection, wire

    def ask(self, path: str, body: Any = None, method: str = "POST", **fields: str) -> Any:
        """Send a JSON request over a new connection; (connection, wire)."""
        connection, wire = self.connect()
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        connection.dataReceived(head.encode() + b"\r\n" + data)
        return connection, wire


def read(wire: Wire) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of what was written."""
    head, _, body = wire.value().partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines)
    if fields.get("transfer-encoding") == "chunked":
        body = b"".join(_chunks(body))
    return int(status.split()[1]), fields, body


def _chunks(body: bytes):
    while body:
        size, _, body = body.partition(b"\r\n")
        yield body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]


def encoded(text: bytes) -> str:
    return base64.b64encode(text).decode()


def test_a_put_in_json() -> None:
    """Bytes are base64, 64-bit integers are strings, what is at its default is left out."""
    front = Front()
    body = {"key": encoded(b"k"), "value": encoded(b"v"), "lease": "5", "prev_kv": True}
    _, wire = front.ask("/v3/kv/put", body)
    assert front.store.asked[0][1] == api.Put(b"k", b"v", 5, True)
    front.store.answer(api.PutResult(api.KeyValue(b"k", 1, 2, 3, b"old", 0), HEADER))
    status, fields, answer = read(wire)
    assert (status, fields["content-type"]) == (200, "application/json")
    old = {"key": encoded(b"k"), "create_revision": "1", "mod_revision": "2", "version": "3"}
    assert json.loads(answer) == {"header": ASKED, "prev_kv": {**old, "value": encoded(b"old")}}
    assert "access-control-allow-origin" not in fields


def test_numbers_and_both_spellings_are_taken() -> None:
    """Integers may be numbers, names camelCase, unknown fields are ignored."""
    front = Front()
    body = {"key": "aw==", "rangeEnd": "bA==", "limit": 5, "sort_order": "DESCEND", "bogus": [1]}
    front.ask("/v3beta/kv/range", {**body, "sort_target": 2})
    assert front.store.asked[0][1] == api.Range(b"k", b"l", 5, 0, 2, 2)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.EmptyKey(), 400, 3),
        (errors.LeaseNotFound(), 404, 5),
        (errors.LeaseExists(), 412, 9),
        (errors.Compacted(), 400, 11),
        (errors.NoSpace(), 429, 8),
        (errors.NoLeader(), 503, 14),
        (errors.Corrupt(), 500, 15),
    ],
)
def test_failures_in_json(error: errors.KvError, status: int, code: int) -> None:
    """The body has the text twice and the gRPC code; the HTTP status is the gateway's."""
    front = Front()
    _, wire = front.ask("/v3/kv/range", {"key": "aw=="})
    front.store.answer(error)
    found, _, body = read(wire)
    assert found == status
    assert json.loads(body) == {"error": error.text, "message": error.text, "code": code}


@pytest.mark.parametrize(
    "body",
    [
        *(b"xx", b"[]", b"5", b"{", b"\xff\xfe", b"[" * 100_000),
        *(b'{"key":5}', b'{"key":"!"}', b'{"key":"a"}', b'{"key":["aw=="]}'),
        *(b'{"limit":"x"}', b'{"limit":1e400}', b'{"limit":1.5}', b'{"limit":true}'),
        *(b'{"limit":"9223372036854775808"}', b'{"limit":NaN}', b'{"sort_order":"X"}'),
        *(b'{"keys_only":1}', b'{"key":"aw=="}{"key":"aw=="}', b'{"limit":{}}'),
    ],
)
def test_bad_json_is_an_invalid_argument(body: bytes) -> None:
    """Whatever is wrong with a body, the answer is 400 and says what, and nothing is asked."""
    front = Front()
    _, wire = front.ask("/v3/kv/range", body)
    status, _, answer = read(wire)
    assert status == 400
    assert json.loads(answer)["code"] == 3
    assert json.loads(answer)["message"]
    assert not front.store.asked


def test_an_empty_body_asks_for_the_defaults() -> None:
    """As etcd takes it."""
    front = Front()
    front.ask("/v3/kv/range", b"")
    assert front.store.asked[0][1] == api.Range(b"")


def test_large_answers_in_json() -> None:
    """A range of many keys is encoded in turns and is one object all the same."""
    front = Front()
    _, wire = front.ask("/v3/kv/range", {"key": "aw=="})
    kvs = tuple(api.KeyValue(b"%d" % n, 1, 2, 3, b"v", 0) for n in range(2500))
    front.store.answer(api.RangeResult(kvs, False, 2500, HEADER))
    front.clock.pump([0.0] * 5)
    answer = json.loads(read(wire)[2])
    assert [kv["key"] for kv in answer["kvs"]] == [encoded(kv.key) for kv in kvs]
    assert (answer["count"], answer["header"]) == ("2500", ASKED)


def test_what_is_no_procedure() -> None:
    """Other paths are 404, other methods 405, Auth is not served, web pages are refused."""
    front = Front()
    assert read(front.ask("/v3/nothing", {})[1])[0] == 404
    assert read(front.ask("/v3/kv/put", {}, "GET")[1])[0] == 405
    status, _, body = read(front.ask("/v3/auth/enable", {})[1])
    assert (status, json.loads(body)["code"]) == (501, 12)
    status, _, body = read(front.ask("/v3/kv/put", {"key": "aw=="}, origin="http://evil")[1])
    assert (status, json.loads(body)["code"]) == (403, 7)
    assert not front.store.asked


def test_version_and_health() -> None:
    """As etcd's, so that clients choose the right API and probes see what they expect."""
    front = Front()
    assert json.loads(read(front.ask("/version", b"", "GET")[1])[2])["etcdcluster"] == "3.4.0"
    assert read(front.ask("/health", b"", "GET")[1])[2] == b'{"health":"true"}'
    front.store.leader = 0
    status, _, body = read(front.ask("/health", b"", "GET")[1])
    assert (status, json.loads(body)["health"]) == (503, "false")


def test_a_watch_in_json() -> None:
    """A line for each response, until the client is gone."""
    front = Front()
    connection, wire = front.ask("/v3/watch", {"create_request": {"key": "aw=="}})
    (watch,) = front.store.watches
    assert watch.told == [api.WatchCreate(b"k")]
    watch.sink.watch_response(api.WatchResponse(0, HEADER, None, created=True))
    batch = api.EventBatch((api.Event(api.EventKind.DELETE, api.KeyValue(b"k")),), 1)
    watch.sink.watch_response(api.WatchResponse(0, HEADER, batch))
    status, _, body = read(wire)
    lines = [json.loads(line)["result"] for line in body.splitlines()]
    assert status == 200
    assert lines[0] == {"header": ASKED, "created": True}
    assert lines[1]["events"] == [{"type": "DELETE", "kv": {"key": "aw=="}}]
    connection.connectionLost(Failure(ConnectionError()))
    assert watch.told[-1] == "close"


def test_a_json_watch_that_is_not_read_pauses() -> None:
    """The transport's back-pressure reaches the store."""
    front = Front()
    _, wire = front.ask("/v3/watch", {"create_request": {"key": "aw=="}})
    (watch,) = front.store.watches
    wire.producer.pauseProducing()
    watch.sink.watch_response(api.WatchResponse(0, HEADER, None, created=True))
    assert watch.told[-1] == "pause"
    wire.producer.resumeProducing()
    assert watch.told[-1] == "resume"


def test_a_json_stream_that_fails() -> None:
    """The last line says why."""
    front = Front()
    _, wire = front.ask("/v3/watch", {"create_request": {"key": "aw=="}})
    front.store.watches[0].sink.watch_closed("too slow")
    status, _, body = read(wire)
    error = json.loads(body)["error"]
    assert status == 503
    assert (error["grpc_code"], error["http_code"]) == (14, 503)
    assert error["message"] == "too slow"


def test_json_streams_that_cannot_begin(logged_errors) -> None:
    """An error when it is opened is an answer like any other; one later ends the stream."""
    front = Front()

    def stopped(_sink):
        raise errors.Stopped

    front.store.watch_stream = stopped
    status, _, body = read(front.ask("/v3/watch", {"create_request": {"key": "aw=="}})[1])
    assert (status, json.loads(body)["code"]) == (503, 14)
    front = Front()
    _, wire = front.ask("/v3/lease/keepalive", {"ID": "7"})
    front.store.answer(ZeroDivisionError("secret"))
    status, _, body = read(wire)
    assert (status, json.loads(body)["error"]["message"]) == (500, "etcdserver: internal error")
    assert b"secret" not in body
    assert front.counters.total("etcd_faults_total") == 1
    logged_errors.flush(ZeroDivisionError)


def test_keepalives_in_json() -> None:
    """One line a renewal, then the end."""
    front = Front()
    _, wire = front.ask("/v3/lease/keepalive", {"ID": "7"})
    front.store.answer(api.LeaseKeepAliveResult(7, 60, HEADER))
    assert json.loads(read(wire)[2]) == {"result": {"header": ASKED, "ID": "7", "TTL": "60"}}


@pytest.mark.contract("KV-8", "KV-9")
def test_bodies_are_bounded() -> None:
    """Over the limit: etcd's answer once the body is there; far over it: cut."""
    front = Front()
    _, wire = front.ask("/v3/kv/put", b" " * (MAX_BODY_BYTES + 1))
    status, _, body = read(wire)
    assert (status, json.loads(body)["code"]) == (429, 8)
    value = encoded(bytes(2_100_000))
    _, wire = front.ask("/v3/kv/put", {"key": "aw==", "value": value})
    status, _, body = read(wire)
    assert (status, json.loads(body)["code"]) == (429, 8)
    assert not front.store.asked
    connection, wire = front.connect()
    connection.dataReceived(b"POST /v3/kv/put HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n")
    for _ in range(MAX_DISCARDED_BYTES // 1_000_000 + 2):
        connection.dataReceived(bytes(1_000_000))
    assert wire.aborted


@pytest.mark.contract("KV-9")
def test_slow_clients_are_cut() -> None:
    """Silence before the first byte, in a head, in a body, and between requests has an end."""
    for said, within in (
        (b"", 11),
        (b"PR", 11),
        (b"POST /v3/kv/put HT", 140),
        (b"POST /v3/kv/put HTTP/1.1\r\ncontent-length: 9\r\n\r\n12", 140),
    ):
        front = Front()
        connection, wire = front.connect()
        if said:
            connection.dataReceived(said)
        front.clock.pump([1.0] * within)
        assert wire.disconnecting, said
    front = Front()
    connection, wire = front.connect()
    connection.dataReceived(b"POST /v3/kv/put HTTP/1.1\r\ncontent-length: 900\r\n\r\n")
    for _ in range(61):
        front.clock.advance(1)
        connection.dataReceived(b" ")
    assert wire.aborted, "a body that drips has a minute"


@pytest.mark.contract("KV-9")
def test_connections_are_bounded(monkeypatch) -> None:
    """One more than the limit is cut at once; a place is free again when one leaves."""
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 2)
    front = Front()
    first, _ = front.connect()
    front.connect()
    _, over = front.connect()
    assert over.aborted
    first.connectionLost(Failure(ConnectionError()))
    _, wire = front.connect()
    assert not wire.aborted
    assert front.counters.total("etcd_connections_refused_total", reason="too_many") == 1


class Client(Peer):
    """``h2`` over a whole ``EtcdProtocol``."""

    def __init__(self, front: Front) -> None:
        super().__init__()
        self.front = front
        self.connection, self.wire = front.connect()

    def exchange(self, rounds: int = 50, most: int = 1 << 20) -> None:
        for _ in range(rounds):
            up = self.client.data_to_send()
            if up:
                self.connection.dataReceived(up)
            self.front.clock.advance(0)
            down = self.wire.value()
            self.wire.clear()
            if down:
                self.heard += self.client.receive_data(down)
            if not up and not down:
                return
        raise AssertionError("the two never fall silent")


def test_grpc_on_the_same_port() -> None:
    """The HTTP/2 preface is gRPC; the answers of one turn leave in one write."""
    front = Front()
    client = Client(front)
    sids = [client.request(pack(pb.PutRequest(key=b"k").SerializeToString())) for _ in range(3)]
    client.exchange()
    writes = []
    client.wire.write = writes.append
    for _ in sids:
        front.store.answer(api.PutResult(header=HEADER))
    front.clock.advance(0)
    (written,) = writes
    assert written.count(b"grpc-status") == 3
    client.connection.connectionLost(Failure(ConnectionError()))
    assert not front.clock.getDelayedCalls()


def test_draining_lets_calls_end() -> None:
    """Drain: watches end with UNAVAILABLE, calls in progress are answered, then all is closed."""
    front = Front()
    grpc, idle = Client(front), Client(front)
    for client in (grpc, idle):
        client.exchange()
    grpc.request(pack(pb.PutRequest(key=b"k").SerializeToString()))
    grpc.exchange()
    _, json_wire = front.ask("/v3/kv/put", {"key": "aw=="})
    _, json_idle = front.connect()
    _, json_watch = front.ask("/v3/watch", {"create_request": {"key": "aw=="}})
    done: list[None] = []
    front.factory.drain(5.0).addCallback(done.append)
    front.clock.advance(0.01)
    grpc.exchange()
    assert idle.wire.disconnecting
    assert json_idle.disconnecting
    assert b"server stopped" in json_watch.value()
    assert not grpc.wire.disconnecting
    front.store.answer(api.PutResult(header=HEADER))
    front.store.answer(api.PutResult(header=HEADER))
    front.clock.advance(0.01)
    assert b"grpc-status" in grpc.wire.value()
    assert grpc.wire.disconnecting
    assert b"revision" in json_wire.value()
    _, late = front.connect()
    assert late.aborted
    for connection in list(front.factory._connections):
        connection.connectionLost(Failure(ConnectionError()))
    assert done == [None]
    assert not front.clock.getDelayedCalls()


def test_draining_has_an_end() -> None:
    """What does not end in time is cut."""
    front = Front()
    client = Client(front)
    client.request(pack(pb.PutRequest(key=b"k").SerializeToString()))
    client.exchange()
    front.factory.drain(5.0)
    front.clock.pump([1.0] * 6)
    assert client.wire.aborted


def test_http1_errors_do_not_touch_others() -> None:
    """Garbage on one connection closes it and no other."""
    front = Front()
    client = Client(front)
    client.exchange()
    connection, wire = front.connect()
    connection.dataReceived(b"\x00\x01\x02 garbage\r\n\r\n")
    assert wire.disconnecting
    assert not client.wire.disconnecting
    assert HEAD


@given(st.binary(min_size=1, max_size=200))
@settings(max_examples=150, deadline=None)
def test_no_first_bytes_raise(data: bytes) -> None:
    """Any bytes at all on a new connection: no exception, nothing asked of the store."""
    front = Front()
    connection, _ = front.connect()
    connection.dataReceived(data)
    connection.connectionLost(Failure(ConnectionError()))
    assert not front.store.asked
    assert not front.clock.getDelayedCalls()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["key", "value", "compare", "success", "request_put", "limit", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(JSON_VALUES, st.sampled_from(["kv/put", "kv/range", "kv/txn", "watch", "lease/grant"]))
@settings(max_examples=200, deadline=None)
def test_any_json_is_judged(value: Any, path: str) -> None:
    """Any JSON value: taken, or refused as the client's error; never a fault of ours."""
    front = Front()
    _, wire = front.ask(f"/v3/{path}", value)
    if wire.value():
        assert read(wire)[0] in {200, 400}
    assert front.counters.total("etcd_faults_total") == 0


def test_snapshot_and_members_in_json() -> None:
    """Maintenance and Cluster speak JSON as well."""
    front = Front()
    _, wire = front.ask("/v3/cluster/member/add", {"peerURLs": ["http://a:1"], "isLearner": True})
    assert front.store.asked[0][1] == upkeep.MemberAdd(("http://a:1",), True)
    one = upkeep.KvMember(2**63 + 1, "n", ("http://a:1",), (), True)
    front.store.answer(upkeep.MembersResult((one,), one, HEADER))
    answer = json.loads(read(wire)[2])
    assert answer["member"]["ID"] == str(2**63 + 1)
    assert answer["members"] == [answer["member"]]
    _, wire = front.ask("/v3/maintenance/snapshot", {})
    front.store.sink.snapshot_chunk(upkeep.SnapshotChunk(b"abc", 0, HEADER))
    front.store.answer(None)
    (line,) = read(wire)[2].splitlines()
    assert json.loads(line)["result"]["blob"] == encoded(b"abc")

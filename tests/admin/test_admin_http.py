"""The admin HTTP side over real sockets, in front of a view that is ours to read."""

from __future__ import annotations

import http.client
import json
import socket

import pytest
import pytest_twisted
from twisted.internet import defer, reactor
from twisted.internet.threads import deferToThread

from meshsvc import errors
from meshsvc.admin.http import MAX_BODY, MAX_CONNECTIONS, admin_site
from meshsvc.counters import Counters
from meshsvc.mesh.controller import EpochUsed


class FakeView:
    """A node that says what it is told to say."""

    def __init__(self):
        self.reasons = []
        self.calls = []
        self.answer = defer.succeed("pong")
        self.listeners = []
        self.counters = Counters()

    def status(self):
        return {"name": "n1", "id": "a" * 32, "cluster": "demo", "pid": 42}

    def members(self):
        return [{"name": "n1", "id": "a" * 32, "status": "alive", "generation": 7}]

    def mesh(self):
        return {"epoch": "1.1", "state": "formed", "roster": ["n1"], "links": []}

    def shards(self):
        return [{"index": 0, "pid": 43}]

    def plugins(self):
        raise RuntimeError("broken view")

    def discovery(self):
        return defer.succeed({"backend": "static", "discovery_works": True})

    def ready(self):
        return (not self.reasons, self.reasons)

    def live(self):
        return (not self.reasons, self.reasons)

    def metrics(self):
        return [({"shard": "0"}, self.counters.snapshot())]

    def call(self, target, verb, payload, timeout_s):
        self.calls.append((target, verb, payload, timeout_s))
        return self.answer

    def query(self, *asked):
        self.calls.append(asked)
        return self.answer

    def send_event(self, *sent):
        self.calls.append(sent)
        return self.answer

    def form_mesh(self, epoch):
        if epoch.term < 3:
            error = errors.EpochConflict if epoch.term == 1 else EpochUsed
            return defer.fail(error(f"{epoch} is taken"))
        return defer.succeed(self.mesh() | {"epoch": str(epoch)})

    def add_event_listener(self, listener):
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)


class Served:
    """A listening site, and a client for it that runs in a thread."""

    def __init__(self, view, **options):
        self.view = view
        self.site = admin_site(view, **options)
        self.port = reactor.listenTCP(0, self.site, interface="127.0.0.1")
        self.at = ("127.0.0.1", self.port.getHost().port)

    def ask(self, method, path, body=None, headers=None):
        return deferToThread(self._ask, method, path, body, headers)

    async def get(self, path):
        status, _, body = await self.ask("GET", path)
        return status, json.loads(body)

    async def post(self, path, value, headers=None):
        headers = {"Content-Type": "application/json"} | (headers or {})
        status, _, body = await self.ask("POST", path, json.dumps(value), headers)
        return status, json.loads(body)

    def _ask(self, method, path, body, headers):
        connection = http.client.HTTPConnection(*self.at, timeout=10)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, headers, answer.read()
        finally:
            connection.close()

    def socket(self, data=b""):
        def open_():
            sock = socket.create_connection(self.at, timeout=10)
            sock.sendall(data)
            return sock

        return deferToThread(open_)


@pytest.fixture
def view():
    return FakeView()


@pytest.fixture
def served(view):
    served = Served(view, hosts=["admin.example"])
    yield served
    served.site.close()
    pytest_twisted.blockon(defer.ensureDeferred(stopped(served)))


async def stopped(served):
    """The site with no connection left."""
    await defer.maybeDeferred(served.port.stopListening)
    while served.site.channels:
        await turn()


def turn():
    """The next turn of the reactor but a few."""
    done = defer.Deferred()
    reactor.callLater(0.005, done.callback, None)
    return done


@pytest_twisted.ensureDeferred
async def test_questions_are_answered_with_json(served, view):
    """Each GET gives what the view says; status also says whether the node is ready."""
    assert await served.get("/v1/members") == (200, view.members())
    assert await served.get("/v1/mesh") == (200, view.mesh())
    assert await served.get("/v1/shards") == (200, view.shards())
    assert (await served.get("/v1/discovery"))[1]["backend"] == "static"
    assert await served.get("/v1/status") == (200, view.status() | {"ready": True, "reasons": []})


@pytest_twisted.ensureDeferred
async def test_a_head_has_no_body(served):
    """HEAD is a GET without its body."""
    status, headers, body = await served.ask("HEAD", "/v1/members")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 0


@pytest.mark.contract("OPS-4")
@pytest_twisted.ensureDeferred
async def test_health_says_why_not(served, view):
    """200 when all is well, 503 with the reasons when it is not."""
    assert await served.get("/readyz") == (200, {"ready": True, "reasons": []})
    view.reasons = ["shard 1 is starting"]
    assert await served.get("/readyz") == (503, {"ready": False, "reasons": view.reasons})
    assert await served.get("/livez") == (503, {"live": False, "reasons": view.reasons})


@pytest.mark.contract("OPS-4")
@pytest_twisted.ensureDeferred
async def test_metrics_are_prometheus_text(served, view):
    """Counters of each shard come with its label."""
    view.counters.drop("Envelope", "full")
    status, headers, body = await served.ask("GET", "/metrics")
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/plain")
    assert b'frame_drops_total{reason="full",shard="0",variant="Envelope"} 1.0\n' in body


@pytest_twisted.ensureDeferred
async def test_a_fault_of_the_view_is_a_500_and_no_more(served, logged_errors):
    """An exception becomes a typed error and is logged; the next request is served."""
    status, body = await served.get("/v1/plugins")
    assert (status, body["error"]["kind"]) == (500, "Internal")
    assert len(logged_errors.flush(RuntimeError)) == 1
    assert (await served.get("/v1/members"))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/nowhere", 404, "NotFound"),
        ("GET", "/v1/call", 405, "MethodNotAllowed"),
        ("DELETE", "/v1/members", 405, "MethodNotAllowed"),
        ("POST", "/v1/call", 415, "NotJson"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_wrong_requests_get_typed_errors(served, method, path, status, kind):
    """What there is no answer to is refused with the status that fits."""
    got, headers, body = await served.ask(method, path)
    assert (got, json.loads(body)["error"]["kind"]) == (status, kind)
    assert ("allow" in headers) == (status == 405)


@pytest_twisted.ensureDeferred
async def test_a_foreign_host_is_refused(served):
    """A name that is not this node's gets nothing, whatever it resolves to."""
    for host, status in (("evil.example", 403), ("admin.example:1", 200), ("n1", 200)):
        got, _, _ = await served.ask("GET", "/v1/members", headers={"Host": host})
        assert got == status


# --- calls -----------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_call_reaches_the_view_and_its_reply_comes_back(served, view):
    """Target, verb, payload and time-out arrive; bytes in the reply become base64."""
    view.answer = defer.succeed({"raw": b"\x00"})
    asked = {"target": "n2/1", "verb": "sys.echo", "payload": [1], "timeout_s": 2}
    assert await served.post("/v1/call", asked) == (200, {"reply": {"raw": {"base64": "AA=="}}})
    assert view.calls == [("n2/1", "sys.echo", [1], 2.0)]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.UnknownVerb("no sys.foo"), 404),
        (errors.HandlerFailed("ValueError", "bad"), 502),
        (errors.TimedOut("after 1 s"), 504),
        (errors.Disconnected("gone"), 503),
        (errors.Overloaded("full"), 503),
        (errors.Fenced("cut off"), 503),
        (errors.NoSuchTarget("no n9"), 404),
        (errors.NoOwner("nobody"), 503),
        (errors.NotEncodable("set"), 400),
    ],
)
@pytest_twisted.ensureDeferred
async def test_failed_calls_keep_their_kind(served, view, error, status):
    """The type of a failure is in the answer, so that a client can decide to retry."""
    view.answer = defer.fail(error)
    got, body = await served.post("/v1/call", {"target": "n1", "verb": "x"})
    assert (got, body["error"]["kind"]) == (status, type(error).__name__)


@pytest.mark.parametrize(
    "body",
    [
        {"verb": "x"},
        {"target": "n1"},
        {"target": "N 1", "verb": "x"},
        {"target": "n1", "verb": 5},
        {"target": "n1", "verb": "x", "timeout_s": 0},
        {"target": "n1", "verb": "x", "timeout_s": "1"},
        {"target": "n1", "verb": "x", "timeout_s": float("nan")},
        [],
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_wrong_body_is_a_400(served, view, body):
    """Nothing is called for a body that is not right."""
    status, answer = await served.post("/v1/call", body)
    assert (status, answer["error"]["kind"]) == (400, "BadRequest")
    assert view.calls == []


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_cancels_its_call(served, view):
    """Nobody waits for the answer any more, so the call ends."""
    cancelled = defer.Deferred()
    view.answer = defer.Deferred(lambda _: cancelled.callback("cancelled"))
    body = b'{"target": "n1", "verb": "x"}'
    head = b"POST /v1/call HTTP/1.1\r\nHost: n1\r\nContent-Type: application/json\r\n"
    sock = await served.socket(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    while not view.calls:
        await turn()
    sock.close()
    assert await cancelled == "cancelled"


@pytest_twisted.ensureDeferred
async def test_the_mesh_is_formed_by_hand(served):
    """The epoch is checked and handed on; a conflict is a 409."""
    assert (await served.post("/v1/mesh/form", {"epoch": "3.1"}))[1]["epoch"] == "3.1"
    assert (await served.post("/v1/mesh/form", {"epoch": "0.1"}))[0] == 400
    for epoch, kind in (("1.1", "EpochConflict"), ("2.1", "EpochUsed")):
        status, body = await served.post("/v1/mesh/form", {"epoch": epoch})
        assert (status, body["error"]["kind"]) == (409, kind)


# --- limits ------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_body_that_says_it_is_too_long_is_refused(served, view):
    """413 before the body is read, and the client gets to see it."""
    headers = {"Content-Type": "application/json"}
    status, _, body = await served.ask("POST", "/v1/call", b" " * (MAX_BODY + 1), headers)
    assert (status, json.loads(body)["error"]["kind"]) == (413, "BodyTooLarge")
    assert view.calls == []


@pytest_twisted.ensureDeferred
async def test_a_chunked_body_is_cut_at_the_limit(served, view):
    """A body of unknown length is counted while it is read."""
    chunk = b"%x\r\n%s\r\n" % (65536, b" " * 65536)
    head = b"POST /v1/call HTTP/1.1\r\nHost: n1\r\nTransfer-Encoding: chunked\r\n\r\n"
    sock = await served.socket(head + chunk * 17 + b"0\r\n\r\n")
    assert b"413" in await deferToThread(sock.recv, 1000)
    sock.close()
    assert view.calls == []


@pytest_twisted.ensureDeferred
async def test_a_body_of_the_limit_is_read(served, view):
    """The limit itself is allowed."""
    body = {"target": "n1", "verb": "x", "payload": ""}
    body["payload"] = "x" * (MAX_BODY - len(json.dumps(body)))
    assert (await served.post("/v1/call", body))[0] == 200
    assert len(view.calls[0][2]) == len(body["payload"])


@pytest_twisted.ensureDeferred
async def test_one_connection_too_many_is_told_so(served):
    """The 257th connection gets a 503; one that ends makes room."""
    held = [await served.socket() for _ in range(MAX_CONNECTIONS)]
    while len(served.site.channels) < MAX_CONNECTIONS:
        await turn()
    status, body = await served.get("/v1/members")
    assert (status, body["error"]["kind"]) == (503, "TooManyConnections")
    for sock in held:
        sock.close()
    while served.site.channels:
        await turn()
    assert (await served.get("/v1/members"))[0] == 200


@pytest_twisted.ensureDeferred
async def test_garbage_is_closed(served):
    """What is not HTTP gets a 400 and is cut; others are served on."""
    sock = await served.socket(b"\x00\x01garbage\r\n\r\n")
    assert b"400" in await deferToThread(sock.recv, 1000)
    assert await deferToThread(sock.recv, 1000) == b""
    sock.close()
    assert (await served.get("/v1/members"))[0] == 200


@pytest_twisted.ensureDeferred
async def test_an_adopted_socket_is_served(served):
    """Sockets that the supervisor accepted are served like those of a port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = await deferToThread(socket.create_connection, server.getsockname())
        accepted, _ = server.accept()
    accepted.setblocking(False)
    reactor.adoptStreamConnection(accepted.fileno(), socket.AF_INET, served.site)
    accepted.close()
    client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert b"200 OK" in await deferToThread(client.recv, 1000)
    client.close()


# --- events ------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_events_are_followed_line_by_line(served, view):
    """What happened before comes first, then a heartbeat, then what happens."""
    view.listeners[0]({"type": "alive", "node": "n2"})
    sock = await served.socket(b"GET /v1/events HTTP/1.0\r\nHost: n1\r\n\r\n")
    file = sock.makefile("rb")
    while await deferToThread(file.readline) != b"\r\n":
        pass
    assert json.loads(await deferToThread(file.readline)) == {"type": "alive", "node": "n2"}
    assert json.loads(await deferToThread(file.readline))["type"] == "heartbeat"
    view.listeners[0]({"type": "dead", "node": "n2"})
    assert json.loads(await deferToThread(file.readline)) == {"type": "dead", "node": "n2"}
    file.close()
    sock.close()
    while served.site.feed.streams:
        await turn()


@pytest_twisted.ensureDeferred
async def test_recent_events_are_told_without_following(served, view):
    """follow=0 ends after what is kept."""
    view.listeners[0]({"type": "alive"})
    status, _, body = await served.ask("GET", "/v1/events?follow=0")
    assert (status, body) == (200, b'{"type":"alive"}\n')


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_read_is_cut(served, view):
    """A stalled stream costs a bounded buffer, then its connection."""
    sock = await served.socket(b"GET /v1/events HTTP/1.1\r\nHost: n1\r\n\r\n")
    while not served.site.feed.streams:
        await turn()
    (stream,) = served.site.feed.streams
    sent = 0
    while served.site.feed.streams:
        view.listeners[0]({"type": "changed", "value": "x" * 60_000})
        assert stream.waiting_bytes <= 400_000
        sent += 1
        assert sent < 1000
        await turn()
    assert not stream.waiting
    sock.close()


@pytest_twisted.ensureDeferred
async def test_closing_the_site_ends_streams_and_connections(view):
    """Nothing is left of it: no stream, no connection, no listener."""
    served = Served(view)
    sock = await served.socket(b"GET /v1/events HTTP/1.1\r\nHost: n1\r\n\r\n")
    while not served.site.feed.streams:
        await turn()
    served.site.close()
    await stopped(served)
    sock.close()
    assert not served.site.feed.streams
    assert not view.listeners


# --- events and queries ----------------------------------------------------------------------


@pytest.mark.contract("GSP-12")
@pytest_twisted.ensureDeferred
async def test_a_query_reaches_the_view(served, view):
    """Name, payload, time-out, nodes and tags arrive; the answers come back."""
    view.answer = defer.succeed({"answers": [{"node": "n1", "reply": "pong"}], "missing": []})
    asked = {"name": "ping", "timeout_s": 2, "nodes": ["n1"], "tags": {"zone": "eu"}}
    status, body = await served.post("/v1/query", asked)
    assert (status, body["answers"]) == (200, [{"node": "n1", "reply": "pong"}])
    assert view.calls == [("ping", None, 2.0, ["n1"], {"zone": "eu"})]


@pytest.mark.contract("GSP-12")
@pytest_twisted.ensureDeferred
async def test_an_event_reaches_the_view(served, view):
    """Name, payload and whether it coalesces arrive; what is over a limit is a 400."""
    sent = {"name": "deploy", "payload": {"v": 1}, "coalesce": True}
    assert await served.post("/v1/events", sent) == (200, {"sent": True, "name": "deploy"})
    assert view.calls == [("deploy", {"v": 1}, True)]
    view.answer = defer.fail(errors.TooLarge("9003 bytes, 8192 are allowed"))
    status, body = await served.post("/v1/events", sent)
    assert (status, body["error"]["kind"]) == (400, "TooLarge")


@pytest.mark.contract("GSP-12")
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/query", {}),
        ("/v1/query", {"name": 1}),
        ("/v1/query", {"name": "x", "nodes": "n1"}),
        ("/v1/query", {"name": "x", "nodes": [1]}),
        ("/v1/query", {"name": "x", "tags": []}),
        ("/v1/query", {"name": "x", "timeout_s": 0}),
        ("/v1/events", {}),
        ("/v1/events", {"name": "x", "coalesce": 1}),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_wrong_question_or_event_is_a_400(served, view, path, body):
    """Nothing is asked or sent for a body that is not right."""
    status, answer = await served.post(path, body)
    assert (status, answer["error"]["kind"]) == (400, "BadRequest")
    assert not view.calls

"""The example application, with a mesh of our own to read instead of a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from ratelimit.buckets import Buckets, Decision, Limit, retry_after
from ratelimit.http import MAX_BODY, MAX_KEY, BadKey, parse_key, site
from ratelimit.options import Options
from ratelimit.service import PAUSE_S, VERB, OwnerUnreachable, RateLimitService
from twisted.internet.defer import Deferred, ensureDeferred, fail, maybeDeferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.plugin import getPlugins
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from meshsvc.errors import Disconnected, HandlerFailed, NoOwner, TimedOut
from meshsvc.interfaces import IMeshApplication
from meshsvc.model import NodeId, ShardAddress, ShardId


class FakeMesh:
    """One shard's mesh context; ``owners`` decides where a key lives."""

    def __init__(self, cluster: FakeCluster, here: str, options: dict | None = None) -> None:
        self.cluster = cluster
        self.node_id, self.shard = NodeId(here), ShardId(0)
        self.clock = cluster.clock
        self.options = options or {}
        self.handlers: dict[str, Callable] = {}
        self.callbacks: list[Callable] = []
        self.listening: list[tuple[str, object]] = []
        self.verbs = SimpleNamespace(register=self.handlers.__setitem__, unregister=self._forget)

    def _forget(self, verb: str) -> Deferred[None]:
        del self.handlers[verb]
        return succeed(None)

    def on_placement_change(self, callback: Callable) -> Callable[[], None]:
        self.callbacks.append(callback)
        return lambda: self.callbacks.remove(callback)

    def listen(self, listener: str, factory: object) -> Deferred[str]:
        self.listening.append((listener, factory))
        return succeed("127.0.0.1:1")

    def owner_of(self, key: str) -> SimpleNamespace:
        owner = self.cluster.owner(key)
        return SimpleNamespace(
            address=ShardAddress(NodeId(owner), ShardId(0)),
            ask=lambda *args, **kw: self.cluster.ask(owner, *args, **kw),
        )


class FakeCluster:
    """Shards that ask each other directly; ``failures`` are taken by the next asks."""

    def __init__(self, *shards: str, **options: object) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.owners: dict[str, str] = {}
        self.failures: list[Exception] = []
        self.meshes = {name: FakeMesh(self, name, options) for name in shards}
        self.services = {name: RateLimitService(mesh) for name, mesh in self.meshes.items()}
        for service in self.services.values():
            service.startService()

    def owner(self, key: str) -> str:
        owner = self.owners.get(key, next(iter(self.meshes)))
        if owner == "nobody":
            raise NoOwner("no node is alive")
        return owner

    def ask(self, address: str, verb: str, payload: object, timeout_s: float) -> Deferred:
        if self.failures:
            return fail(self.failures.pop(0))
        call = SimpleNamespace(payload=payload, now=self.clock.seconds())
        return maybeDeferred(self.meshes[address].handlers[verb], call)

    def move(self, key: str, to: str) -> None:
        self.owners[key] = to
        for mesh in self.meshes.values():
            for callback in mesh.callbacks:
                callback()

    def allow(self, shard: str, key: str) -> Decision:
        results: list = []
        work = ensureDeferred(self.services[shard].allow(key))
        work.addBoth(results.append)
        self.clock.pump([PAUSE_S] * 2)
        (result,) = results
        return result if isinstance(result, Decision) else result.raiseException()


def request(cluster: FakeCluster, shard: str, head: bytes, body: bytes = b"") -> tuple[int, dict]:
    """Send bytes to a shard's HTTP factory; the status and the headers with the JSON body."""
    ((_, factory),) = cluster.meshes[shard].listening
    protocol = factory.buildProtocol(None)
    transport = StringTransport()
    protocol.makeConnection(transport)
    protocol.dataReceived(head + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
    protocol.dataReceived(b"Content-Length: %d\r\n\r\n" % len(body) + body)
    cluster.clock.pump([PAUSE_S] * 2)
    top, _, rest = transport.value().partition(b"\r\n\r\n")
    lines = top.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    protocol.connectionLost(Failure(ConnectionDone()))
    if headers.get("content-type") == "application/json":
        headers["json"] = json.loads(rest)
    return int(lines[0].split()[1]), headers


def spend(buckets: Buckets, key: str, now: float) -> int:
    """Take until refused; how many were allowed."""
    count = 0
    while buckets.take(key, now).allowed:
        count += 1
    return count


# --- buckets -----------------------------------------------------------------------------


def test_a_bucket_gives_burst_then_rate() -> None:
    """A full bucket holds ``burst`` tokens and refills at ``rate``, never above ``burst``."""
    buckets = Buckets(Limit(rate=2, burst=4), now=0)
    assert spend(buckets, "k", 100) == 4
    assert spend(buckets, "k", 101) == 2
    assert spend(buckets, "k", 1000) == 4


def test_a_refusal_says_when_to_come_back() -> None:
    """Retry-After is whole seconds, rounded up, at least 1."""
    buckets = Buckets(Limit(rate=0.25, burst=1), now=0)
    spend(buckets, "k", 100)
    assert buckets.take("k", 101) == Decision(False, 0, 3.0)
    assert retry_after(Decision(False, 0, 3.0)) == 3
    assert retry_after(Decision(False, 0, 0.01)) == 1


def test_a_new_bucket_is_not_full_soon_after_a_change() -> None:
    """Within burst/rate seconds of a start or a change only what accrued since is there."""
    buckets = Buckets(Limit(rate=10, burst=10), now=100)
    assert spend(buckets, "at start", 100) == 0
    assert spend(buckets, "soon", 100.5) == 5
    assert spend(buckets, "later", 102) == 10
    buckets.ownership_changed(200)
    assert spend(buckets, "other", 200.25) == 2


def test_a_key_that_stayed_keeps_its_bucket() -> None:
    """One change does not touch the bucket of a key owned before and after it."""
    buckets = Buckets(Limit(rate=1, burst=10), now=0)
    buckets.take("k", 100)
    buckets.ownership_changed(100)
    assert buckets.take("k", 100) == Decision(True, 8, 0.0)


def test_a_key_that_may_have_been_away_is_not_full() -> None:
    """After two changes the key may have been counted elsewhere in between."""
    buckets = Buckets(Limit(rate=1, burst=10), now=0)
    buckets.take("k", 100)
    buckets.ownership_changed(200)
    buckets.ownership_changed(300)
    assert spend(buckets, "k", 303) == 3


def test_buckets_are_bounded_and_forgetting_gives_nothing_away() -> None:
    """The longest unused is evicted; a new one starts with what accrued since its last use."""
    buckets = Buckets(Limit(rate=1, burst=10), now=0, most=2)
    for key in ("a", "b", "c"):
        spend(buckets, key, 100)
    assert len(buckets) == 2
    assert spend(buckets, "a", 102) == 2
    idle = Buckets(Limit(rate=1, burst=10), now=0, most=1)
    spend(idle, "a", 100)
    assert spend(idle, "b", 200) == 10  # "a" was full again when it was forgotten


# --- options -----------------------------------------------------------------------------


def test_options_have_defaults_and_name_every_mistake() -> None:
    """All wrong options are named at once, each with what it should be."""
    assert Options.read({}) == Options(10.0, 10, "client")
    assert Options.read({"rate": 2, "listen": "tcp:0"}) == Options(2.0, 10, "tcp:0")
    with pytest.raises(ValueError, match=r"bursts is not an option.*rate must be.*burst must be"):
        Options.read({"bursts": 1, "rate": 0, "burst": True})


# --- service -----------------------------------------------------------------------------


def test_the_plugin_is_found_and_builds_a_service() -> None:
    """``getPlugins`` finds the application, and its service starts and stops."""
    (plugin,) = (p for p in getPlugins(IMeshApplication) if p.name == "ratelimit")
    assert verifyObject(IMeshApplication, plugin)
    mesh = FakeMesh(FakeCluster("a"), "b")
    service = plugin.make_service(mesh)
    service.startService()
    assert VERB in mesh.handlers
    assert mesh.listening[0][0] == "client"
    service.stopService()
    assert not mesh.handlers
    assert not mesh.callbacks


def test_every_shard_counts_in_one_place() -> None:
    """Requests through two shards draw from one bucket."""
    cluster = FakeCluster("a", "b", rate=0.001, burst=4)
    cluster.clock.advance(10_000)
    allowed = [cluster.allow(shard, "k").allowed for shard in "abababab"]
    assert allowed == [True] * 4 + [False] * 4


def test_a_moved_key_gets_no_second_burst() -> None:
    """A new owner, and the old one when the key comes back, stay within the limit."""
    cluster = FakeCluster("a", "b", rate=0.001, burst=4)
    cluster.clock.advance(10_000)
    assert [cluster.allow("a", "k").allowed for _ in range(5)] == [True] * 4 + [False]
    cluster.move("k", "b")
    assert not cluster.allow("a", "k").allowed
    cluster.move("k", "a")
    assert not cluster.allow("b", "k").allowed


def test_a_retriable_error_is_tried_once_more() -> None:
    """One lost connection is not the client's affair; two are a 503."""
    cluster = FakeCluster("a")
    cluster.clock.advance(10)
    cluster.failures = [Disconnected("gone")]
    assert cluster.allow("a", "k").allowed
    cluster.failures = [TimedOut("late"), Disconnected("gone")]
    with pytest.raises(OwnerUnreachable):
        cluster.allow("a", "k")


def test_a_handler_error_is_not_tried_again() -> None:
    """What will fail again is not repeated."""
    cluster = FakeCluster("a")
    cluster.failures = [HandlerFailed("KeyError", "key"), Disconnected("unused")]
    with pytest.raises(OwnerUnreachable):
        cluster.allow("a", "k")
    assert len(cluster.failures) == 1


def test_a_shard_does_not_count_for_keys_of_others() -> None:
    """A caller with an older view is sent away, waits and looks again."""
    cluster = FakeCluster("a", "b")
    call = SimpleNamespace(payload={"key": "k"}, now=cluster.clock.seconds())
    assert cluster.services["b"].take(call) == {"moved": True}
    assert len(cluster.services["b"].buckets) == 0


# --- http --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (b"/allow/alice", "alice"),
        (b"/allow/a%2Fb/c", "a/b/c"),
        (b"/allow/%C3%A9", "é"),
        (b"/allow/" + b"x" * MAX_KEY, "x" * MAX_KEY),
    ],
)
def test_a_key_is_the_decoded_rest_of_the_path(path: bytes, key: str) -> None:
    """Escapes are decoded; a slash is part of the key."""
    assert parse_key(path) == key


@pytest.mark.parametrize(
    "path", [b"/allow", b"/allow/", b"/allow/%FF", b"/allow/" + b"x" * (MAX_KEY + 1)]
)
def test_a_bad_key_is_refused(path: bytes) -> None:
    """Empty, not UTF-8, and over 256 bytes."""
    with pytest.raises(BadKey):
        parse_key(path)


def test_http_allows_then_refuses() -> None:
    """200 with what is left, then 429 with Retry-After."""
    cluster = FakeCluster("a", rate=0.5, burst=2)
    cluster.clock.advance(100)
    status, headers = request(cluster, "a", b"POST /allow/k")
    assert (status, headers["json"]) == (200, {"allowed": True, "remaining": 1})
    request(cluster, "a", b"POST /allow/k")
    status, headers = request(cluster, "a", b"POST /allow/k")
    assert (status, headers["json"]) == (429, {"allowed": False, "remaining": 0})
    assert int(headers["retry-after"]) >= 1


def test_http_says_what_is_wrong() -> None:
    """400 for a bad key, 405 for another method, 404 elsewhere, 413 for a large body."""
    cluster = FakeCluster("a")
    assert request(cluster, "a", b"POST /allow/")[0] == 400
    assert request(cluster, "a", b"GET /allow/k")[0] == 405
    assert request(cluster, "a", b"POST /")[0] == 404
    assert request(cluster, "a", b"POST /allow/k", b"x" * (MAX_BODY + 1))[0] == 413


def test_http_without_an_owner_is_unavailable() -> None:
    """503 with Retry-After when nobody may count for the key."""
    cluster = FakeCluster("a")
    cluster.owners["k"] = "nobody"
    status, headers = request(cluster, "a", b"POST /allow/k")
    assert (status, headers["retry-after"]) == (503, "1")


def test_a_client_that_left_is_not_answered() -> None:
    """A request whose connection is gone when the answer comes writes nothing."""
    clock, waiting = Clock(), Deferred()
    factory = site(SimpleNamespace(allow=lambda key: waiting), clock)
    protocol, transport = factory.buildProtocol(None), StringTransport()
    protocol.makeConnection(transport)
    protocol.dataReceived(b"POST /allow/k HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    protocol.connectionLost(Failure(ConnectionDone()))
    waiting.callback(Decision(True, 1, 0.0))
    assert transport.value() == b""

"""One port for both APIs: the first bytes of a connection tell gRPC from JSON.

``Http2Protocol`` drives a ``Connection`` and its ``Calls``; everything said in one reactor turn
leaves in one write, and one timer serves all that waits. ``EtcdFactory`` owns what connections
share: the store, limits, counters, the list of open connections, draining.
"""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocolNegotiationFactory,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshsvc.counters import Counters
from meshsvc.etcd.calls import SWEEP_S, Calls
from meshsvc.etcd.gateway.protocol import JsonChannel, JsonGateway
from meshsvc.etcd.http2.connection import Connection
from meshsvc.etcd.http2.events import ConnectionEnded
from meshsvc.etcd.http2.frames import PREFACE, ErrorCode
from meshsvc.etcd.http2.limits import Limits
from meshsvc.etcd.observer import Observer
from meshsvc.etcd.status import Code
from meshsvc.kv.backend import KvBackend
from meshsvc.link.protocol import TurnProtocol

MAX_CONNECTIONS = 4096
"""Open connections of one shard: well below the 16384 descriptors that the unit allows it."""

FIRST_BYTES_S = 10.0
"""How long a client may take to say which protocol it speaks."""

DEFAULT_LIMITS = Limits()

SNIFFED = PREFACE[:4]
"""``PRI `` begins no HTTP/1.1 request."""


class Http2Protocol(TurnProtocol):
    """A gRPC client."""

    def __init__(self, factory: EtcdFactory) -> None:
        super().__init__(factory.clock)
        self._observer = factory.observer
        self._tick_call: IDelayedCall | None = None
        self._tick_at = 0.0
        self._connection = Connection(factory.limits, factory.clock.seconds())
        self._calls = Calls(
            self._connection,
            factory.store,
            factory.observer,
            self.wake,
            factory.clock.seconds,
            partial(factory.clock.callLater, 0),
            Deferred,
        )

    def connected_to_peer(self) -> None:
        """Start the clock."""
        self._tick()

    def dataReceived(self, data: bytes) -> None:
        """Twisted: bytes came."""
        now = self.clock.seconds()
        connection = self._connection
        connection.receive(data, now)
        self._handle(now)
        if connection.has_output:
            self.wake()

    def take_output(self, max_bytes: int) -> bytes:
        """What to write next."""
        output = self._connection.take_output(max_bytes)
        self._handle(self.clock.seconds())
        if self._connection.draining and not self._connection.streams:
            self._tick_by(self.clock.seconds())  # not from in here: it closes the connection
        return output

    def drain(self) -> None:
        """Take no more calls; close once those in progress are answered."""
        self._connection.drain()
        self._calls.end_streams(Code.UNAVAILABLE, "etcdserver: server stopped")
        self.wake()
        self._tick_by(self.clock.seconds())

    def disconnected(self, reason: Failure) -> None:
        """The client is gone: so are its calls."""
        if self._tick_call is not None:
            self._tick_call.cancel()
            self._tick_call = None
        self._connection.abandon("connection lost")
        self._calls.handle(self._connection.take_events(), self.clock.seconds())

    def _handle(self, now: float) -> None:
        events = self._connection.take_events()
        if not events:
            return
        self._calls.handle(events, now)
        if self._calls.open:
            self._tick_by(now + SWEEP_S)
        last = events[-1]
        if isinstance(last, ConnectionEnded):
            if last.code != ErrorCode.NO_ERROR:
                self._observer.refused(last.code.name.lower())
            self.finish()

    def _tick_by(self, when: float) -> None:
        if self._tick_call is not None and when < self._tick_at:
            self._tick_at = when
            self._tick_call.reset(max(0.0, when - self.clock.seconds()))

    def _tick(self) -> None:
        self._tick_call = None
        now = self.clock.seconds()
        connection = self._connection
        connection.tick(now)
        self._handle(now)
        self._calls.sweep(now)
        if connection.has_output:
            self.wake()
        if connection.draining and not connection.streams:
            connection.refuse()
            self.finish()
            return
        deadline = connection.deadline()
        if deadline is not None:
            self._tick_at = min(deadline, now + SWEEP_S) if self._calls.open else deadline
            self._tick_call = self.clock.callLater(max(0.0, self._tick_at - now), self._tick)


class EtcdProtocol(Protocol):
    """A connection that has not said what it speaks; then the way to one that has."""

    _inner: Http2Protocol | JsonChannel | None = None
    _timeout: IDelayedCall | None = None

    def __init__(self, factory: EtcdFactory) -> None:
        self._factory = factory
        self._first = b""

    def connectionMade(self) -> None:
        """Twisted: a client."""
        if not self._factory.opened(self):
            self._abort()
            return
        self._timeout = self._factory.clock.callLater(FIRST_BYTES_S, self._abort)

    def dataReceived(self, data: bytes) -> None:
        """Twisted: bytes came."""
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        self._first += data
        if len(self._first) < len(SNIFFED) and SNIFFED.startswith(self._first):
            return
        self._become(
            Http2Protocol(self._factory)
            if self._first.startswith(SNIFFED)
            else self._factory.gateway.channel()
        )

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted: the client is gone."""
        self._stop_timeout()
        self._factory.closed(self)
        if self._inner is not None:
            self._inner.connectionLost(reason)

    def drain(self) -> None:
        """Finish what is in progress, then close."""
        if isinstance(self._inner, Http2Protocol):
            self._inner.drain()
        elif self._inner is None or not self._inner.busy:
            self._lose()
        else:
            self._inner.close_after_request()

    def abort(self) -> None:
        """Close at once."""
        self._abort()

    def _become(self, inner: Http2Protocol | JsonChannel) -> None:
        self._stop_timeout()
        self._inner = inner
        inner.makeConnection(self.transport)  # type: ignore[no-untyped-call]
        if isinstance(inner, Http2Protocol):  # saves a call for every read
            self.dataReceived = inner.dataReceived  # type: ignore[method-assign]
        inner.dataReceived(self._first)
        self._first = b""

    def _stop_timeout(self) -> None:
        if self._timeout is not None and self._timeout.active():
            self._timeout.cancel()

    def _lose(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]


@implementer(IProtocolNegotiationFactory)
class EtcdFactory(Factory):
    """Serves etcd's v3 API on every connection it is given.

    Args:
        store: what answers.
        clock: the reactor.
        counters: of the shard.
        limits: of one HTTP/2 connection.
    """

    noisy = False
    _log = Logger()

    def __init__(
        self,
        store: KvBackend,
        clock: IReactorTime,
        counters: Counters,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.store = store
        self.clock = clock
        self.limits = limits
        self.observer = Observer(counters, self._log_fault)
        self.gateway = JsonGateway(store, self.observer, clock)
        self._connections: dict[EtcdProtocol, None] = {}
        self._drained: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> EtcdProtocol:
        """Twisted: a connection."""
        return EtcdProtocol(self)

    def acceptableProtocols(self) -> list[bytes]:
        """Twisted, under TLS: what may be negotiated (gRPC clients insist on ``h2``)."""
        return [b"h2", b"http/1.1"]

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    def opened(self, protocol: EtcdProtocol) -> bool:
        """A connection is there; false when it may not stay."""
        if self._drained is not None or len(self._connections) >= MAX_CONNECTIONS:
            self.observer.refused("stopping" if self._drained else "too_many")
            return False
        self._connections[protocol] = None
        self.observer.counters.gauge("etcd_connections", len(self._connections))
        return True

    def closed(self, protocol: EtcdProtocol) -> None:
        """A connection is gone."""
        self._connections.pop(protocol, None)
        self.observer.counters.gauge("etcd_connections", len(self._connections))
        if self._drained is not None and not self._connections and not self._drained.called:
            self._drained.callback(None)

    def drain(self, within_s: float) -> Deferred[None]:
        """Finish what is in progress and close every connection, by force after ``within_s``.

        Streams end with UNAVAILABLE, which clients take as a reason to go to another node.
        """
        if self._drained is None:
            self._drained = Deferred()
            force = self.clock.callLater(within_s, self._abort_all)
            self._drained.addCallback(lambda _: force.cancel() if force.active() else None)
            for protocol in list(self._connections):
                protocol.drain()
            if not self._connections:
                self._drained.callback(None)
        return self._drained

    def _abort_all(self) -> None:
        for protocol in list(self._connections):
            protocol.abort()

    def _log_fault(self, path: str, error: BaseException | None) -> None:
        self._log.failure("{path} failed", failure=Failure(error), path=path, event_id="etcd.fault")

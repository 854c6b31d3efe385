"""The bus of one shard: listens for siblings of higher index, dials those of lower index.

Each pair of shards holds one connection a lane, over Unix sockets in the run directory, which
only this user can enter. Sends never wait: they are accepted, full or disconnected. Observers
hear ``shard_up`` before the first message of a sibling's life and ``shard_down`` after the last.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IDelayedCall, IListeningPort
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshsvc.counters import Counters
from meshsvc.errors import StartError
from meshsvc.model import MAX_SHARDS, Incarnation, Sent, ShardId
from meshsvc.retry import Retry, exponential
from meshsvc.shards.bus import BusEvent, Lane, Seat, Siblings, SiblingUp, Stream
from meshsvc.shards.protocol import BusConnection
from meshsvc.wire.messages import BusHello
from meshsvc.wire.registry import encode_message

MAX_SOCKET_PATH: Final = 107
"""Bytes of a Unix socket's path: the kernel's field has 108, one of them for the end."""

MAX_STRANGERS: Final = 2 * MAX_SHARDS
"""Accepted connections that said no hello yet: every sibling at once, both lanes."""

CONNECT_S: Final = 5.0
"""Seconds for a connect, which waits only while the sibling's backlog is full."""

REDIAL_FIRST_S: Final = 0.05
REDIAL_CAP_S: Final = 1.0
"""A sibling that restarts is back within a second; a refused connect costs microseconds."""

STABLE_S: Final = 5.0
"""A pair that was up this long starts a new row of redials."""

EX_CANTCREAT = 73
EX_CONFIG = 78

log = Logger()


class BusObserver(Protocol):
    """Hears what happens on the bus; must not block. What it raises is logged."""

    def shard_up(self, shard: ShardId, incarnation: Incarnation) -> None:
        """A sibling can be sent to."""

    def shard_down(self, shard: ShardId, incarnation: Incarnation) -> None:
        """That life of a sibling is gone, or out of reach: what it was asked is lost."""

    def received(self, shard: ShardId, incarnation: Incarnation, message: Any) -> None:
        """A message of the registry came from a sibling that is up."""


def socket_path(run_dir: str, shard: int) -> str:
    """Where a shard listens for its siblings.

    Raises:
        StartError: when the path is too long for the kernel.
    """
    path = os.path.join(run_dir, f"bus-{shard}.sock")
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH:
        raise StartError(
            f"run_dir {run_dir} is too long: {path} has {size} bytes, a Unix socket's path has"
            f" {MAX_SOCKET_PATH} at most: set run_dir to a shorter one",
            EX_CONFIG,
        )
    return path


class BusService(Service):
    """The bus as one shard holds it.

    Args:
        reactor: Twisted's, with Unix sockets and timers.
        run_dir: the node's private directory of sockets; it must exist.
        seat: who this shard is.
        shards: how many shards the node has.
        counters: where drops are counted.
    """

    name = "bus"

    def __init__(
        self, reactor: Any, run_dir: str, seat: Seat, shards: int, counters: Counters
    ) -> None:
        self.seat = seat
        self.counters = counters
        self._reactor = reactor
        self._core = Siblings(seat, shards, counters)
        self._path = socket_path(run_dir, seat.shard)
        self._dialers = {
            index: _Dialer(reactor, socket_path(run_dir, index), self._factory(index))
            for index in range(seat.shard)
        }
        self._observers: list[BusObserver] = []
        # In the order they were made, so that the oldest stranger is found first.
        self._connections: dict[BusConnection, None] = {}
        self._port: IListeningPort | None = None
        self._emptied: Deferred[None] | None = None
        self._telling = False

    # what the shard calls

    def add_observer(self, observer: BusObserver) -> None:
        """Tell this one too, from the next event on."""
        self._observers.append(observer)

    def send(self, shard: int, message: object, lane: int = Lane.MAIN) -> Sent:
        """Queue a message of the registry for a sibling; see ``send_body``."""
        return self._core.send(shard, encode_message(message), lane)

    def send_body(self, shard: int, body: bytes, lane: int = Lane.MAIN) -> Sent:
        """Queue an encoded message for whichever life of a sibling is up.

        Every outcome but ``ACCEPTED`` is counted as a drop.

        Raises:
            NotEncodable: when the message is over 1 MiB.
        """
        return self._core.send(shard, body, lane)

    def offer_body(self, shard: int, body: bytes, lane: int) -> Sent:
        """``send_body`` for a caller that keeps the message when the outbox is full, so that
        this is no drop.
        """
        return self._core.send(shard, body, lane, kept=True)

    def broadcast(self, message: object) -> dict[ShardId, Sent]:
        """Queue a message for every sibling that is up, in the main lane; encoded once.

        One that is not up is left out: it learns what it needs when it comes up.
        """
        body = encode_message(message)
        return {shard: self._core.send(shard, body, Lane.MAIN) for shard, _ in self._core.up()}

    def siblings(self) -> tuple[tuple[ShardId, Incarnation], ...]:
        """The siblings that are up, with the life each is in."""
        return self._core.up()

    def startService(self) -> None:
        """Listen and dial.

        Raises:
            StartError: when the socket cannot be bound.
        """
        self._remove_stale_socket()
        factory = Factory.forProtocol(lambda: BusConnection(self._reactor, self, None))
        factory.noisy = False
        try:
            self._port = self._reactor.listenUNIX(
                self._path, factory, backlog=MAX_STRANGERS, mode=0o600
            )
        except CannotListenError as error:
            raise StartError(
                f"shard {self.seat.shard} cannot listen at {self._path}: {error.socketError}",
                EX_CANTCREAT,
            ) from error
        super().startService()  # type: ignore[no-untyped-call]
        for dialer in self._dialers.values():
            dialer.start()

    def stopService(self) -> Deferred[None]:
        """Stop; what is queued has a second to leave. Fires when no connection is left."""
        super().stopService()  # type: ignore[no-untyped-call]
        for dialer in self._dialers.values():
            dialer.stop()
        port, self._port = self._port, None
        unbound = succeed(None) if port is None else maybeDeferred(port.stopListening)
        for connection in list(self._connections):
            connection.close("stopped", "this shard stops")
        return unbound.addCallback(lambda _: self._all_ended())

    # what a connection calls

    def connected(self, connection: BusConnection) -> None:
        """A connection was made; when too many are strangers, the oldest goes."""
        self._connections[connection] = None
        if not self.running:
            connection.break_off("stopped", "this shard stops")
            return
        strangers = [held for held in self._connections if held.stranger and held.dialed is None]
        if len(strangers) > MAX_STRANGERS:
            strangers[0].break_off("strangers", "too many connections without a hello")

    def greeted(self, connection: BusConnection, hello: BusHello) -> Stream:
        """A connection's other side said who it is."""
        return self._core.greeted(connection, hello)

    def opened(self, connection: BusConnection) -> None:
        """A lane is open: whoever is up now, or down, is told."""
        self._tell()

    def took(self, shard: ShardId, incarnation: Incarnation, message: object) -> None:
        """A message came."""
        for observer in self._observers:
            try:
                observer.received(shard, incarnation, message)
            except Exception:
                log.failure("an observer of the bus failed on a message")

    def ended(self, connection: BusConnection, unsent: int, text: str) -> None:
        """A connection is gone."""
        self._connections.pop(connection, None)
        self._core.lost(connection, unsent)
        if connection.dialed is not None:
            self._dialers[connection.dialed[0]].ended(connection, text)
        self._tell()
        if not self._connections and self._emptied is not None:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    # inside

    def _factory(self, shard: int) -> Callable[[Lane], BusConnection]:
        return lambda lane: BusConnection(self._reactor, self, (ShardId(shard), lane))

    def _all_ended(self) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        if self._connections:
            self._emptied = done
        else:
            done.callback(None)
        return done

    def _remove_stale_socket(self) -> None:
        # The last life of this shard leaves its socket behind when it is killed. Anything that
        # is no socket is not ours: binding fails and says so.
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(self._path).st_mode):
                os.unlink(self._path)

    def _tell(self) -> None:
        # An observer may cause further events; they are told in order by the outermost call.
        if self._telling:
            return
        self._telling = True
        try:
            while events := self._core.take_events():
                for event in events:
                    self._tell_one(event)
        finally:
            self._telling = False

    def _tell_one(self, event: BusEvent) -> None:
        came_up = isinstance(event, SiblingUp)
        for observer in self._observers:
            tell = observer.shard_up if came_up else observer.shard_down
            try:
                tell(event.shard, event.incarnation)
            except Exception:
                log.failure("an observer of the bus failed on {event}", event=event)
        if came_up:
            self._release(event.shard, event.incarnation)

    def _release(self, shard: ShardId, incarnation: Incarnation) -> None:
        if shard in self._dialers:
            self._dialers[shard].succeeded()
        for connection in list(self._connections):
            if (connection.shard, connection.incarnation) == (shard, incarnation):
                connection.release()


class _Dialer:
    """Keeps the pair of connections to one sibling: both lanes are dialed, and end, together."""

    def __init__(self, reactor: Any, path: str, build: Callable[[Lane], BusConnection]) -> None:
        self._reactor = reactor
        self._endpoint = UNIXClientEndpoint(reactor, path, timeout=CONNECT_S)
        self._path = path
        self._build = build
        # No jitter: a node has few shards, and a refused connect costs the sibling nothing.
        policy = exponential(REDIAL_FIRST_S, 2.0, REDIAL_CAP_S, lambda: 1.0)
        self._retry = Retry(policy, stable_after_s=STABLE_S)
        self._pair: list[BusConnection] = []
        self._connecting: list[Deferred[Any]] = []
        self._timer: IDelayedCall | None = None
        self._last_text = ""

    def start(self) -> None:
        """Dial now, and again whenever the pair is lost, until ``stop``."""
        self._retry.start(self._reactor.seconds())
        self._dial()

    def stop(self) -> None:
        """Dial no more; the service closes the connections."""
        self._retry.stop()
        self._pair = []
        self._cancel()

    def succeeded(self) -> None:
        """Both lanes are open."""
        self._last_text = ""
        self._retry.succeeded(self._reactor.seconds())

    def ended(self, connection: BusConnection, text: str) -> None:
        """One of the connections is gone; those of an earlier pair do not matter."""
        if connection in self._pair:
            self._failed(text)

    def _dial(self) -> None:
        self._pair = [self._build(lane) for lane in Lane]
        pair = self._pair
        for connection in pair:
            if self._pair is not pair:
                return  # the first lane failed at once
            connecting = self._endpoint.connect(_Once(connection))
            self._connecting.append(connecting)
            connecting.addErrback(self._not_connected, pair)

    def _not_connected(self, failure: Failure, pair: list[BusConnection]) -> None:
        if self._pair is pair:
            self._failed(failure.getErrorMessage())

    def _failed(self, text: str) -> None:
        pair, self._pair = self._pair, []
        self._cancel()
        for connection in pair:
            connection.break_off("pair", "the other lane of the pair ended")
        now = self._reactor.seconds()
        self._retry.failed(now)
        if text != self._last_text:
            log.info("the bus to {path} is down: {text}", path=self._path, text=text)
            self._last_text = text
        due = self._retry.deadline()
        if due is not None:
            self._timer = self._reactor.callLater(max(0.0, due - now), self._due)

    def _due(self) -> None:
        self._timer = None
        due = self._retry.deadline()
        # The timer was armed for this very moment: a clock a hair behind must not skip it.
        if due is not None and self._retry.tick(due):
            self._dial()

    def _cancel(self) -> None:
        connecting, self._connecting = self._connecting, []
        for deferred in connecting:
            deferred.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Once(Factory):
    """Hands out the one protocol it was made with."""

    noisy = False

    def __init__(self, protocol: BusConnection) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: IAddress | None) -> BusConnection:
        """Twisted: the connection is there."""
        return self._protocol

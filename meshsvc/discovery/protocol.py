"""Asks the backend, whatever that does, and the discovery of other nodes.

Every question here ends: the backend's after ``timeout_s``, a peer's after ``PEER_S``. So a
status is complete within a few seconds, with the nodes that were silent named in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from twisted.internet.defer import (
    Deferred,
    DeferredList,
    DeferredSemaphore,
    fail,
    maybeDeferred,
    succeed,
)
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshsvc.discovery.status import PeerState, read_state
from meshsvc.errors import Disconnected, Overloaded, TimedOut, UnknownVerb
from meshsvc.gossip.members import Member
from meshsvc.model import LinkClass, ShardAddress, ShardId

STATE = "discovery.state"
"""Answered with ``status.state_row``: [start time, {table: mark of its nodes}]."""

WAIT = "discovery.wait"
"""[ "nodes" or "ready", seconds ]: answered, then at the latest, with what is missing."""

PEER_S = 2.0
"""How long a peer may take to say what it has in memory: a hundred times what it needs."""

PEERS_AT_ONCE = 64
"""Questions under way: a status of a thousand nodes must not fill this shard's call table."""


log = Logger()

MAX_WAITERS = 256
"""More wait for one node to be ready only when something asks in a loop."""


class Messaging(Protocol):
    """What discovery needs of the messaging service."""

    def ask(
        self,
        target: ShardAddress,
        verb: str,
        payload: object,
        timeout_s: float,
        link_class: LinkClass,
    ) -> Deferred[Any]:
        """Ask; must fail at once where there is no way to the target."""

    def register(self, verb: str, handler: Callable[[Any], object]) -> None:
        """Answer a verb."""

    def unregister(self, verb: str) -> Deferred[None]:
        """Take it no more."""


class BackendTimedOut(Exception):
    """A backend did not answer within ``[discovery] timeout``."""


def within(
    asking: Deferred[Any], seconds: float, reactor: Any, late: Callable[[], Exception]
) -> Deferred[Any]:
    """What ``asking`` comes to, or a failure with ``late()`` after that many seconds.

    Unlike ``Deferred.addTimeout`` it does not rely on ``asking``, which is somebody else's,
    to end when it is cancelled, and whatever it ends with later is nobody's error.
    """
    answer: Deferred[Any] = Deferred(lambda _: stop())
    timer = reactor.callLater(seconds, lambda: answer.errback(_stopped(asking, late())))

    def ended(result: Any) -> None:
        if timer.active():
            timer.cancel()
            answer.callback(result)

    def stop() -> None:
        timer.cancel()
        _stopped(asking, None)

    asking.addBoth(ended)
    return answer


def _stopped(asking: Deferred[Any], reason: Any) -> Any:
    """Cancel a question that nobody waits for any more, whatever its canceller does."""
    try:
        asking.cancel()
    except Exception:
        log.failure("a backend failed to cancel its question")
    return reason


class BackendRunner:
    """One backend, asked so that its mistakes end in a Failure of one question and no more.

    Args:
        backend: an ``IDiscoveryBackend``, or None when none of the name is installed.
        name: the name it was chosen by.
        options: its ``[discovery.options]``.
        timeout_s: of one question.
    """

    def __init__(
        self, backend: Any, name: str, options: Mapping[str, object], timeout_s: float
    ) -> None:
        self.name = name
        self.absent = f"no installed plugin provides the backend {name!r}: see `meshsvc plugins`"
        self._backend = backend
        self._options = options
        self._timeout_s = timeout_s
        self._started = False

    def ask(self, reactor: IReactorTime) -> Deferred[Any]:
        """Whatever ``get_nodes`` comes to; fires or fails within ``timeout_s``, once."""
        late = BackendTimedOut(f"no answer in {self._timeout_s:g} s")
        asking: Deferred[Any] = maybeDeferred(self._ask, reactor)
        return within(asking, self._timeout_s, reactor, lambda: late)

    def _ask(self, reactor: IReactorTime) -> Any:
        if self._backend is None:
            raise LookupError(self.absent)
        if not self._started:
            self._backend.start(self._options, reactor)
            self._started = True
        return self._backend.get_nodes()

    def stop(self) -> None:
        """Tell the backend, if it wants to know."""
        stop = getattr(self._backend, "stop", None)
        if self._started and callable(stop):
            try:
                stop()
            except Exception:
                log.failure("backend {name} failed to stop", name=self.name)
        self._started = False


class Waiters:
    """Those who wait until nothing is missing; bounded, and each with a deadline.

    Args:
        reactor: for the deadlines.
        missing: what is waited for still, in words; asked at each ``check``.
        what: said in front of what is missing when a deadline has passed.
    """

    def __init__(
        self, reactor: IReactorTime, missing: Callable[[], Sequence[str]], what: str
    ) -> None:
        self._reactor = reactor
        self._missing = missing
        self._what = what
        self._waiting: dict[Deferred[None], IDelayedCall] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def wait(self, timeout_s: float) -> Deferred[None]:
        """Fires when nothing is missing; fails with ``TimedOut`` naming what is."""
        if not self._missing():
            return succeed(None)
        if len(self._waiting) >= MAX_WAITERS:
            return fail(Overloaded(f"{MAX_WAITERS} others wait already: try again"))
        waiter: Deferred[None] = Deferred(self._forget)
        self._waiting[waiter] = self._reactor.callLater(timeout_s, self._expire, waiter, timeout_s)
        return waiter

    def check(self) -> None:
        """Something changed."""
        if self._waiting and not self._missing():
            for waiter in list(self._waiting):
                self._forget(waiter)
                waiter.callback(None)

    def close(self) -> None:
        """The node stops: nobody waits any longer."""
        for waiter in list(self._waiting):
            self._forget(waiter)
            waiter.errback(Disconnected("this node is stopping"))

    def _expire(self, waiter: Deferred[None], timeout_s: float) -> None:
        self._forget(waiter)
        text = "; ".join(self._missing()) or "it became so this very moment"
        waiter.errback(TimedOut(f"{self._what} after {timeout_s:g} s: {text}"))

    def _forget(self, waiter: Deferred[None]) -> None:
        timer = self._waiting.pop(waiter, None)
        if timer is not None and timer.active():
            timer.cancel()


def reason_of(failure: Failure) -> str:
    """Why a check failed, in one short line."""
    text = failure.getErrorMessage().strip().partition("\n")[0]
    kind = failure.type.__name__ if failure.type is not None else "unknown"
    plain = failure.check(BackendTimedOut, LookupError) is not None and text
    return (text if plain else f"{kind}: {text}" if text else kind)[:200]


def ask_peers(
    messaging: Messaging, peers: Iterable[Member]
) -> Deferred[dict[str, PeerState | str | None]]:
    """The state of each peer by name, as ``status.Facts.peers`` has it; never fails."""
    tokens = DeferredSemaphore(PEERS_AT_ONCE)
    states: dict[str, PeerState | str | None] = {}

    def answered(row: Any, name: str) -> None:
        states[name] = read_state(row) or "it answered something that is no state"

    def failed(failure: Failure, name: str) -> None:
        if failure.check(UnknownVerb):
            states[name] = None
        elif failure.check(TimedOut):
            states[name] = f"no answer in {PEER_S:g} s"
        else:
            states[name] = failure.getErrorMessage()

    def ask(peer: Member) -> Deferred[None]:
        target = ShardAddress(peer.node_id, ShardId(0))
        asked = maybeDeferred(messaging.ask, target, STATE, None, PEER_S, LinkClass.CONTROL)
        asked.addCallback(answered, peer.name)
        return asked.addErrback(failed, peer.name)

    asking = DeferredList([tokens.run(ask, peer) for peer in peers])
    return asking.addCallback(lambda _: states)

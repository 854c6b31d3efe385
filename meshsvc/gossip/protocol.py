"""How others in this process hear of the membership: subscriptions, streams and waits.

Each of them has its own queue or condition and is served one event at a time; what it does
with an event, and how long it takes, is felt by nobody else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from meshsvc.errors import CallError, Cancelled, TimedOut
from meshsvc.gossip.events import AnyEvent, Event
from meshsvc.gossip.members import Member
from meshsvc.gossip.subscribers import EventQueue

EVENTS_A_TURN = 32
"""Events one subscriber gets before the reactor may do something else."""


class Source(Protocol):
    """The service that events come from."""

    def members(self) -> tuple[Member, ...]:
        """The view as it is."""

    def subscriber_failed(self, name: str, failure: Failure) -> None:
        """A subscriber raised."""

    def subscriber_overran(self, name: str) -> None:
        """A subscriber did not keep up."""


class Subscription:
    """Hands events to one ``IEndpointSubscriber``, the next when the last is done with."""

    def __init__(self, reactor: IReactorTime, source: Source, subscriber: Any) -> None:
        self._reactor = reactor
        self._source = source
        self._subscriber = subscriber
        self._queue = EventQueue()
        self._busy = False
        self._closed = False
        self._again: IDelayedCall | None = None

    def put(self, event: Event) -> None:
        """Queue an event, and hand it over unless the subscriber is at work."""
        if self._closed:
            return
        if not self._queue.put(event):
            self._source.subscriber_overran(self._subscriber.name)
        self._pump()

    def close(self) -> None:
        """Hand over nothing more."""
        self._closed = True
        if self._again is not None and self._again.active():
            self._again.cancel()

    def _pump(self) -> None:
        for _ in range(EVENTS_A_TURN):
            if self._busy or self._closed:
                return
            event = self._queue.take(self._source.members, self._reactor.seconds())
            if event is None:
                return
            self._hand_over(event)
        if len(self._queue) and (self._again is None or not self._again.active()):
            self._again = self._reactor.callLater(0, self._pump)

    def _hand_over(self, event: AnyEvent) -> None:
        self._busy = True
        handled = maybeDeferred(self._subscriber.endpoint_event, event)
        handled.addErrback(lambda f: self._source.subscriber_failed(self._subscriber.name, f))
        in_time = handled.called and not handled.paused
        handled.addCallback(lambda _: self._done(in_time))

    def _done(self, in_time: bool) -> None:
        self._busy = False
        if not in_time:
            self._pump()


class EventStream:
    """An asynchronous iterator over events; a reader that is too slow gets a ``Resync``."""

    name = "watch"

    def __init__(self, reactor: IReactorTime, source: Source, close: Callable[[], None]) -> None:
        """``close`` is called once when the reader is done."""
        self._reactor = reactor
        self._source = source
        self._close = close
        self._queue = EventQueue()
        self._reader: Deferred[AnyEvent] | None = None
        self._closed = False

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> AnyEvent:
        if self._closed:
            raise StopAsyncIteration
        event = self._queue.take(self._source.members, self._reactor.seconds())
        if event is None:
            self._reader = Deferred()
            event = await self._reader
        return event

    def put(self, event: Event) -> None:
        """Queue an event, or give it to the reader that waits."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.callback(event)
        elif not self._queue.put(event):
            self._source.subscriber_overran(self.name)

    def close(self) -> None:
        """Stop; a reader that waits ends."""
        if self._closed:
            return
        self._closed = True
        self._close()
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.errback(StopAsyncIteration())


class AliveWait:
    """Waits until certain nodes are alive here, or a time is up."""

    def __init__(
        self,
        reactor: IReactorTime,
        nodes: tuple[str, ...],
        timeout_s: float,
        members: Callable[[], tuple[Member, ...]],
    ) -> None:
        self._nodes = nodes
        self._timeout_s = timeout_s
        self._members = members
        self._timer = reactor.callLater(timeout_s, self._too_late)
        self.over = False
        self.done: Deferred[None] = Deferred(lambda _: self.end(Cancelled("no longer waited for")))

    def missing(self) -> list[str]:
        """Who is not alive, each with what it is instead."""
        rows: dict[str, Member] = {}
        for member in self._members():
            rows[member.node_id] = member
            # A name may have belonged to a node that is gone: the one that lives has it.
            if member.name not in rows or member.alive:
                rows[member.name] = member
        found = [(node, rows.get(node)) for node in self._nodes]
        return [
            f"{node} ({member.status.value if member else 'unknown'})"
            for node, member in found
            if member is None or not member.alive
        ]

    def check(self) -> None:
        """The view changed: done if nobody is missing."""
        if not self.over and not self.missing():
            self.end(None)

    def end(self, error: CallError | None) -> None:
        """Finish, at most once."""
        if self.over:
            return
        self.over = True
        if self._timer.active():
            self._timer.cancel()
        if error is None:
            self.done.callback(None)
        else:
            self.done.errback(error)

    def _too_late(self) -> None:
        names = ", ".join(self.missing())
        self.end(TimedOut(f"not alive after {self._timeout_s:g} s: {names}"))


class LinkObserver:
    """Picks out of what a link service reports what gossip cares about."""

    def __init__(self, link_up: Callable[[Any], None], link_down: Callable[[Any], None]) -> None:
        self.link_up = link_up
        self._link_down = link_down

    def link_down(self, link: Any, reason: str, text: str) -> None:
        """The reason makes no difference: a probe finds out."""
        self._link_down(link)

    def link_epoch(self, link: Any) -> None:
        """Epochs are the mesh's affair."""

    def received(self, link: Any, message: Any) -> None:
        """Verbs come by way of messaging."""

    def dropped(self, link: Any, envelope: Any, reason: str) -> None:
        """As ``received``."""

    def refused(self, peer: str, reason: str, text: str) -> None:
        """A refused peer is not linked, which is all gossip needs to know."""

    def epoch_seen(self, epoch: Any) -> None:
        """As ``link_epoch``."""

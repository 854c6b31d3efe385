"""User events: fire and forget, to every shard of every node, over the control plane.

Anybody sends one under a name of their own; whoever subscribed in any shard hears of it,
once, in the order in which it arrived. Nothing says who did: for that there are queries.
A reader that is too slow loses its oldest unread events and is told how many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from meshsvc.counters import Counters
from meshsvc.errors import BadName, LocalError, TooLarge
from meshsvc.messaging.dispatch import Call
from meshsvc.messaging.service import Messaging
from meshsvc.model import LinkClass, NodeId, Sent, ShardAddress, ShardId
from meshsvc.wire.codec import encode_payload

EVENT = "sys.event"

MAX_NAME = 128
"""Characters of the name of an event or a query, as of a verb."""

MAX_PAYLOAD = 8192
"""Bytes of an event's payload: it is copied to every shard there is. Let larger things be
asked for: send where they are."""

MAX_UNREAD = 256
"""Events that one reader may leave unread, as of members."""

HANDED_S = 2.0
"""How long shard 0 may take to take an event over."""


@dataclass(frozen=True, slots=True)
class UserEvent:
    """One event.

    ``node`` is the name of the node it was sent from and ``node_id`` its id; ``at`` is when
    it arrived here, in the clock's seconds; ``lost`` counts the events that this reader
    missed right before it.
    """

    name: str
    payload: Any
    node: str
    node_id: NodeId
    at: float
    lost: int = 0


Callback = Callable[[UserEvent], object]


class EventWatch:
    """An endless ``async for`` over events; ``close`` it after use."""

    def __init__(self, close: Callable[[EventWatch], None], counters: Counters) -> None:
        self._close = close
        self._counters = counters
        self._unread: deque[tuple[UserEvent, bool]] = deque()
        self._lost = 0
        self._waiting: Deferred[UserEvent] | None = None

    def __aiter__(self) -> EventWatch:
        return self

    def __anext__(self) -> Deferred[UserEvent]:
        waiting: Deferred[UserEvent] = Deferred()
        if self._unread:
            waiting.callback(self._marked(self._unread.popleft()[0]))
        else:
            self._waiting = waiting
        return waiting

    def take(self, event: UserEvent, coalesce: bool) -> None:
        """Another event came; with ``coalesce`` it replaces an unread one of its name."""
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.callback(self._marked(event))
            return
        if coalesce:
            kept = [one for one in self._unread if not (one[1] and one[0].name == event.name)]
            self._unread = deque(kept)
        if len(self._unread) >= MAX_UNREAD:
            self._unread.popleft()
            self._lost += 1
            self._counters.add("user_events_lost_total")
        self._unread.append((event, coalesce))

    def close(self) -> None:
        """Hear no more; a reader that waits ends."""
        self._close(self)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.errback(StopAsyncIteration())

    def _marked(self, event: UserEvent) -> UserEvent:
        lost, self._lost = self._lost, 0
        if not lost:
            return event
        return UserEvent(event.name, event.payload, event.node, event.node_id, event.at, lost)


class UserEvents:
    """The events of one shard: sends them, and hands on those that arrive."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        messaging: Messaging,
        node: str,
        node_id: NodeId,
        counters: Counters,
    ) -> None:
        self._clock = clock
        self._messaging = messaging
        self._node, self._node_id = node, node_id
        self._counters = counters
        self._callbacks: list[tuple[Callback, str | None]] = []
        self._watches: list[tuple[EventWatch, str | None]] = []
        messaging.register_oneway(EVENT, self._heard)

    def send(self, name: str, payload: object = None, coalesce: bool = False) -> Deferred[None]:
        """Send an event to every shard of every node, this one included.

        Args:
            name: 1 to 128 printable characters, no spaces; ``sys.`` is kept for meshsvc.
            payload: a plain CBOR value of at most 8 KiB.
            coalesce: only the latest of its name matters: readers that have not read an
                earlier one yet never see that.

        Returns:
            a Deferred that fires when this node has sent it; fails with ``Disconnected`` or
            another ``CallError`` when shard 0 of this node cannot be reached.

        Raises:
            BadName: for what is no name.
            TooLarge: when the payload is over the limit, which the text names.
            NotEncodable: when the payload has no strict CBOR form.
        """
        check_name(name, "an event")
        size = len(encode_payload(payload))
        if size > MAX_PAYLOAD:
            raise TooLarge(
                f"the payload of event {name!r} takes {size} bytes, {MAX_PAYLOAD} are allowed"
            )
        first = ShardAddress(self._node_id, ShardId(0))
        row = [name, payload, self._node, coalesce]
        told = self._messaging.ask(
            first, "sys.broadcast", [EVENT, row], HANDED_S, LinkClass.CONTROL
        )
        self._counters.add("user_events_sent_total")
        return told.addCallback(_accepted)

    def subscribe(self, callback: Callback, name: str | None = None) -> Callable[[], None]:
        """Call ``callback(event)`` with each event, or each of a name; returns what ends that.

        A callback that raises is logged, and called again with the next.
        """
        entry = (callback, name)
        self._callbacks.append(entry)
        return lambda: self._callbacks.remove(entry)

    def watch(self, name: str | None = None) -> EventWatch:
        """Every event from now on, or every one of a name, as an asynchronous iterator."""
        watch = EventWatch(self._unwatch, self._counters)
        self._watches.append((watch, name))
        return watch

    def _unwatch(self, watch: EventWatch) -> None:
        self._watches = [entry for entry in self._watches if entry[0] is not watch]

    def _heard(self, call: Call) -> None:
        name, payload, node, coalesce = call.payload
        event = UserEvent(str(name), payload, str(node), call.source.node, self._clock.seconds())
        self._counters.add("user_events_heard_total")
        for watch, wanted in list(self._watches):
            if wanted is None or wanted == event.name:
                watch.take(event, bool(coalesce))
        for callback, wanted in list(self._callbacks):
            if wanted is None or wanted == event.name:
                self._tell(callback, event)

    def _tell(self, callback: Callback, event: UserEvent) -> None:
        try:
            callback(event)
        except Exception:
            self._counters.add("user_event_errors_total")
            self.log.failure("a subscriber of events failed on {name}", name=event.name)


def check_name(name: Any, what: str) -> None:
    """Whether a user may give this name to an event or a query.

    Raises:
        BadName: when not; the text says what a name is.
    """
    fit = type(name) is str and 0 < len(name) <= MAX_NAME and name.isprintable()
    if not fit or " " in str(name):
        raise BadName(
            f"{name!r:.80} cannot name {what}: use 1 to {MAX_NAME} characters, printable and"
            " without spaces, such as app.action"
        )
    if what == "an event" and name.startswith("sys."):
        raise BadName(f"the event {name!r} cannot be sent: names in sys. are kept for meshsvc")


def _accepted(sent: int) -> None:
    if sent != Sent.ACCEPTED:
        raise LocalError(f"the event was not sent: shard 0 says {Sent(sent).name.lower()}")

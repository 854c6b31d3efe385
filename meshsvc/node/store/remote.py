"""The store from any shard of any node: requests go to a shard 0 that holds it.

Asks of one turn travel in one envelope, as all asks do, and become one batch of the log at
the other end. A watch is a stream that the holder feeds by tells; the watching shard shows
every few seconds that it is still there, and is told when it is not known any more.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, cast

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from meshsvc.errors import CallError
from meshsvc.kv import api, errors, verbs
from meshsvc.kv.backend import KvBackend, WatchSink
from meshsvc.kv.ports import REQUEST_S
from meshsvc.messaging.service import Messaging
from meshsvc.model import Sent, ShardAddress
from meshsvc.node.store.keyspace import kv_error

DO, WATCH, WATCHING, EVENTS = "kv.do", "kv.watch", "kv.watching", "kv.events"

SHOW_S = 5.0
"""How often a watching shard shows that it is there."""

GONE_S = 20.0
"""A watching shard that was not heard for so long has ended, or lost its way for good."""

ASK_S = REQUEST_S + 1.0
"""The holder's own limit of a request, and the way to it."""

MAX_HELD = 4096
"""Responses that wait for an application that is slow; then its watch ends, and it begins anew."""

MAX_STREAMS = 4096
"""Streams of other shards that one holder feeds; each may have any number of watches."""


class _Feed:
    """The holder's end of one stream: a sink that tells the shard that watches."""

    def __init__(self, holder: Holder, watcher: ShardAddress, number: int, now: float) -> None:
        self._holder, self._watcher, self._number = holder, watcher, number
        self.seen_at = now
        self.closed = False
        self.stream = holder.store.watch_stream(self)

    def watch_response(self, response: api.WatchResponse) -> None:
        """Pass it on; an outbox that is nearly full holds the stream on."""
        row = verbs.response_row(response)
        sent = self._holder.messaging.tell(self._watcher, EVENTS, [self._number, row])
        if sent is Sent.ACCEPTED:
            return
        # What was lost cannot be had again on this stream: the watcher begins anew.
        self._holder.drop(self._watcher, self._number)

    def watch_closed(self, reason: str) -> None:
        """The store ended it."""
        self.closed = True
        self._holder.messaging.tell(self._watcher, EVENTS, [self._number, reason])
        self._holder.drop(self._watcher, self._number)


class Holder:
    """Shard 0 of a node that holds the store: does what other shards ask."""

    def __init__(self, reactor: IReactorTime, messaging: Messaging, store: KvBackend) -> None:
        self.messaging, self.store = messaging, store
        self._reactor = reactor
        self._feeds: dict[tuple[ShardAddress, int], _Feed] = {}
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Take the verbs."""
        self.messaging.register(DO, self._do)
        self.messaging.register(WATCH, self._watch)
        self.messaging.register(WATCHING, self._watching)
        self._timer = self._reactor.callLater(SHOW_S, self._look)

    def stop(self) -> None:
        """Take them no more; streams end."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        for verb in (DO, WATCH, WATCHING):
            self.messaging.unregister(verb)
        for key in list(self._feeds):
            self.drop(*key)

    def drop(self, watcher: ShardAddress, number: int) -> None:
        """Feed a stream no more."""
        feed = self._feeds.pop((watcher, number), None)
        if feed is not None and not feed.closed:
            feed.closed = True
            feed.stream.close()

    def _do(self, call: Any) -> Deferred[list[Any]]:
        request = verbs.read_request(call.payload)
        return do(self.store, request).addCallback(verbs.result_row)

    def _watch(self, call: Any) -> int:
        number, row = call.payload
        key = (call.source, number)
        feed = self._feeds.get(key)
        if feed is None:
            if len(self._feeds) >= MAX_STREAMS:
                raise errors.TooManyRequests
            feed = self._feeds[key] = _Feed(self, call.source, number, self._reactor.seconds())
        return feed.stream.create(verbs.read_watch(row))

    def _watching(self, call: Any) -> list[int]:
        """Which of these streams are not fed here; the others of that shard have ended."""
        numbers = set(call.payload)
        for watcher, number in list(self._feeds):
            if watcher == call.source and number not in numbers:
                self.drop(watcher, number)
        now = self._reactor.seconds()
        for number in numbers:
            feed = self._feeds.get((call.source, number))
            if feed is not None:
                feed.seen_at = now
        return sorted(each for each in numbers if (call.source, each) not in self._feeds)

    def _look(self) -> None:
        self._timer = self._reactor.callLater(SHOW_S, self._look)
        late = self._reactor.seconds() - GONE_S
        for key, feed in list(self._feeds.items()):
            if feed.seen_at < late:
                self.drop(*key)


def do(store: KvBackend, request: verbs.Request) -> Deferred[Any]:
    """Have a store do any request that ``verbs`` knows."""
    calls: dict[type, Callable[[Any], Deferred[Any]]] = {
        api.Range: store.range,
        api.Put: store.put,
        api.DeleteRange: store.delete_range,
        api.Txn: store.txn,
        api.LeaseGrant: store.lease_grant,
        api.LeaseRevoke: store.lease_revoke,
        api.LeaseKeepAlive: store.lease_keepalive,
    }
    return calls[type(request)](request)


class RemoteStore:
    """The store as shards see it that do not hold it (what ``KvClient`` needs of a backend).

    Args:
        holder: says where the store is now; None when nowhere that is known.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        messaging: Messaging,
        holder: Callable[[], ShardAddress | None],
    ) -> None:
        self._reactor, self._messaging, self.holder = reactor, messaging, holder
        self._numbers = count(1)
        self._streams: dict[int, RemoteStream] = {}
        self._timer: IDelayedCall | None = None
        self._taken = False
        self.range = self.put = self.delete_range = self.txn = self._ask
        self.lease_grant = self.lease_revoke = self.lease_keepalive = self._ask

    def _ask(self, request: verbs.Request) -> Deferred[Any]:
        return self.ask(DO, verbs.request_row(request)).addCallback(verbs.read_result)

    def ask(self, verb: str, payload: object, at: ShardAddress | None = None) -> Deferred[Any]:
        """Ask the holder; fails with a ``KvError`` whatever happened on the way."""
        at = at or self.holder()
        if at is None:
            return fail(errors.NoLeader())
        asked = self._messaging.ask(at, verb, payload, ASK_S)
        return asked.addErrback(kv_error).addErrback(_way_lost)

    # --- watches -------------------------------------------------------------------------

    def watch_stream(self, sink: WatchSink) -> RemoteStream:
        """Open a stream of watches."""
        if not self._taken:
            self._taken = True
            self._messaging.register_oneway(EVENTS, self._events)
        number = next(self._numbers)
        stream = self._streams[number] = RemoteStream(self, number, sink)
        if self._timer is None:
            self._timer = self._reactor.callLater(SHOW_S, self._show)
        return stream

    def forget(self, number: int) -> None:
        """A stream has ended."""
        self._streams.pop(number, None)

    def stop(self) -> None:
        """End every stream."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        for stream in list(self._streams.values()):
            stream.lost(errors.Stopped.text)
        if self._taken:
            self._messaging.unregister(EVENTS)

    def _events(self, call: Any) -> None:
        number, row = call.payload
        stream = self._streams.get(number)
        if stream is None or stream.at != call.source:
            return
        if isinstance(row, str):
            stream.lost(row)
        else:
            stream.took(verbs.read_response(row))

    def _show(self) -> None:
        self._timer = None
        holders: dict[ShardAddress, list[int]] = {}
        for number, stream in self._streams.items():
            if stream.at is not None:
                holders.setdefault(stream.at, []).append(number)
        for at, numbers in holders.items():
            shown = self._messaging.ask(at, WATCHING, numbers, SHOW_S)
            shown.addCallbacks(self._unknown, lambda _, numbers=numbers: self._unknown(numbers))
        if self._streams:
            self._timer = self._reactor.callLater(SHOW_S, self._show)

    def _unknown(self, numbers: list[int]) -> None:
        for number in numbers:
            stream = self._streams.get(number)
            if stream is not None:
                stream.lost("the node that fed this watch knows it no more")


class RemoteStream:
    """This shard's end of a stream: watches that share one sink and one holder."""

    def __init__(self, store: RemoteStore, number: int, sink: WatchSink) -> None:
        self._store, self._number, self._sink = store, number, sink
        self.at: ShardAddress | None = None
        self._paused = False
        self._held: list[api.WatchResponse] = []

    def create(self, request: api.WatchCreate) -> int:
        """Begin a watch; the holder that is there now feeds the stream to its end."""
        self.at = self.at or self._store.holder()
        asked = self._store.ask(WATCH, [self._number, verbs.watch_row(request)], self.at)
        asked.addErrback(lambda failure: self.lost(failure.getErrorMessage()))
        return request.watch_id

    def cancel(self, watch_id: int) -> None:
        """End a watch: streams of other shards have one each."""
        self.close()

    def request_progress(self) -> None:
        """Streams of other shards say nothing when there is nothing."""

    def pause(self) -> None:
        """Hold what comes."""
        self._paused = True

    def resume(self) -> None:
        """Give what was held, and go on."""
        self._paused = False
        held, self._held = self._held, []
        for response in held:
            self._sink.watch_response(response)

    def close(self) -> None:
        """End it; the holder hears of it at the next sign of life."""
        self._store.forget(self._number)

    def took(self, response: api.WatchResponse) -> None:
        """The holder brought something."""
        if not self._paused:
            self._sink.watch_response(response)
        elif len(self._held) < MAX_HELD:
            self._held.append(response)
        else:
            self._held = []
            self.close()
            self.lost(f"over {MAX_HELD} responses behind")

    def lost(self, reason: str) -> None:
        """It ended from the other side."""
        self._store.forget(self._number)
        self._sink.watch_closed(reason)


def _way_lost(failure: Failure) -> Any:
    """What happened on the way, as what clients of the store know."""
    if failure.check(errors.KvError):
        return failure
    if failure.check(CallError):
        error = cast("CallError", failure.value)
        return Failure(errors.TimedOut() if error.kind == "TimedOut" else errors.LeaderChanged())
    return failure

"""Watches and leases as an application holds them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from meshsvc.errors import RemoteError
from meshsvc.kv import api
from meshsvc.kv.backend import KvBackend
from meshsvc.kv.errors import Compacted, KvError

PAUSE_EVENTS = 1_000
"""Events that wait for the application before the store is asked to hold on."""

RENEWALS = 3
"""Renewals in the time of a lease: two may fail before it is lost."""


class WatchLost(RemoteError):
    """A watch ended from the store's side; what was heard so far is whole. Watch anew."""


class _Inbox:
    """The sink of one watch: what came and was not taken yet."""

    def __init__(self) -> None:
        self.events: deque[api.Event] = deque()
        self.ended: Exception | None = None
        self.on_event: Callable[[], None] = lambda: None

    def watch_response(self, response: api.WatchResponse) -> None:
        """Take events, or the end."""
        if response.batch is not None:
            self.events.extend(response.batch.events)
        if response.compact_revision:
            self.ended = Compacted()
        elif response.canceled:
            self.ended = WatchLost(response.cancel_reason or "the watch was cancelled")
        self.on_event()

    def watch_closed(self, reason: str) -> None:
        """Take the end."""
        self.ended = WatchLost(reason)
        self.on_event()


class Watching:
    """Events as they happen: ``async for event in watching``.

    Ends in ``Compacted`` when the store has forgotten what comes next, or ``WatchLost``. An
    application that is slow makes the store hold on, until it is 16 MiB behind.
    """

    def __init__(self, backend: KvBackend, request: api.WatchCreate) -> None:
        self._inbox = _Inbox()
        self._inbox.on_event = self._arrived
        self._waiter: Deferred[None] | None = None
        self._paused = False
        self._stream = backend.watch_stream(self._inbox)
        self._stream.create(request)

    def __aiter__(self) -> Watching:
        return self

    async def __anext__(self) -> api.Event:
        inbox = self._inbox
        while not inbox.events:
            if inbox.ended is not None:
                raise inbox.ended
            if self._paused:
                self._paused = False
                self._stream.resume()
            self._waiter = Deferred()
            await self._waiter
        return inbox.events.popleft()

    def close(self) -> None:
        """Hear no more; who iterates is stopped."""
        self._stream.close()
        self._inbox.watch_closed("closed by this side")

    def _arrived(self) -> None:
        if len(self._inbox.events) > PAUSE_EVENTS and not self._paused:
            self._paused = True
            self._stream.pause()
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.called:
            waiter.callback(None)


class HeldLease:
    """A lease that is renewed until ``release``.

    Attributes:
        lease_id: to put keys under.
        ttl_s: what was granted.
        lost: a Deferred that fires with the reason once the lease cannot be relied on any
            more: the store said so, or no renewal got through in its time. That is judged
            by when the last good renewal was *sent*, so it fires before the store lets
            somebody else in.
    """

    def __init__(
        self, backend: KvBackend, reactor: IReactorTime, lease_id: int, ttl_s: int
    ) -> None:
        self.lease_id = lease_id
        self.ttl_s = ttl_s
        self.lost: Deferred[str] = Deferred()
        self._backend = backend
        self._reactor = reactor
        self._sent_at = self._good_until = 0.0
        self._renewing: Deferred[Any] | None = None
        self._call: IDelayedCall | None = None
        self._over = False

    def begin(self, sent_at: float) -> None:
        """Renew from now on; the request for the lease was sent at ``sent_at``."""
        self._good_until = sent_at + self.ttl_s
        self._call = self._reactor.callLater(self.ttl_s / RENEWALS, self._renew)

    @property
    def held(self) -> bool:
        """Whether the lease can be relied on now."""
        return not self._over

    async def release(self) -> None:
        """End the lease and all keys under it; if that fails, it ends by itself in its time."""
        self._stop()
        try:
            await self._backend.lease_revoke(api.LeaseRevoke(self.lease_id))
        except KvError:
            return

    def _renew(self) -> None:
        now = self._reactor.seconds()
        if now >= self._good_until:
            self._lose(f"the lease was not renewed for {self.ttl_s} s")
            return
        wait = min(self.ttl_s / RENEWALS, self._good_until - now)
        self._call = self._reactor.callLater(wait, self._renew)
        if self._renewing is None:
            self._sent_at = now
            self._renewing = self._backend.lease_keepalive(api.LeaseKeepAlive(self.lease_id))
            self._renewing.addCallbacks(self._renewed, self._failed)

    def _renewed(self, result: api.LeaseKeepAliveResult) -> None:
        self._renewing = None
        if result.ttl_s <= 0:
            self._lose("the store has ended the lease")
        else:
            self._good_until = self._sent_at + result.ttl_s

    def _failed(self, failure: Any) -> None:
        self._renewing = None
        if not failure.check(KvError, CancelledError):
            self._lose(f"the lease cannot be renewed: {failure.getErrorMessage()}")

    def _lose(self, reason: str) -> None:
        if not self._over:
            self._stop()
            self.lost.callback(reason)

    def _stop(self) -> None:
        self._over = True
        if self._call is not None and self._call.active():
            self._call.cancel()
        if self._renewing is not None:
            self._renewing.cancel()

"""The messaging service of a shard: asks and tells out, verbs in, one flush a reactor turn.

Rules it keeps: an ask ends exactly once, in a reply or one ``CallError``; a tell never
waits; a handler that raises costs its caller an error and nobody else anything; nothing is
timed by more than one delayed call.
"""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshsvc.counters import Counters
from meshsvc.errors import (
    CallError,
    Cancelled,
    Disconnected,
    NotEncodable,
    Overloaded,
    TimedOut,
)
from meshsvc.messaging import items
from meshsvc.messaging.calls import CallTable, PendingCall
from meshsvc.messaging.dispatch import Handler
from meshsvc.messaging.lanes import Lane
from meshsvc.messaging.post import Post
from meshsvc.messaging.protocol import Inbox
from meshsvc.messaging.relays import Relays
from meshsvc.messaging.stats import VerbStats
from meshsvc.model import Epoch, LinkClass, Sent, ShardAddress
from meshsvc.wire.codec import encode_payload
from meshsvc.wire.messages import Envelope

FULL_RETRY_S = 0.005
"""How soon a full outbox is tried again: it drains at hundreds of megabytes a second."""

_ACCEPTED = Sent.ACCEPTED


class Messaging(Service):
    """Registered verbs, asked and told across shards and nodes (contracts VERB-1 to VERB-8)."""

    log = Logger()

    def __init__(self, reactor: IReactorTime, post: Post, counters: Counters) -> None:
        self._reactor = reactor
        self._post = post
        self._counters = counters
        self._calls = CallTable()
        self._stats = VerbStats(counters)
        self._relays = Relays(post.me.node, post.forward)
        self._flushing = False
        self._timer: IDelayedCall | None = None
        self._stopped = False
        self._inbox = Inbox(
            reactor, post, counters, self._stats, self._settle, self._put, self._forward
        )
        self.deliver = post.deliver = self._inbox.deliver
        self.bounce = self._inbox.bounce
        self.undelivered = self._inbox.undelivered
        self.source_gone = self._inbox.source_gone
        post.on_closed = self._lanes_closed

    # --- verbs ---------------------------------------------------------------------------

    def register(self, verb: str, handler: Handler) -> None:
        """Answer asks (and take tells) for a verb in this shard.

        Args:
            verb: 1 to 128 characters, by convention ``application.action``.
            handler: called with a ``Call``; returns a plain CBOR value, a Deferred or a
                coroutine of one.

        Raises:
            VerbTaken: when the verb is registered in this shard already.
        """
        self._inbox.verbs.register(verb, handler, oneway=False)

    def register_oneway(self, verb: str, handler: Handler) -> None:
        """Take tells for a verb; what the handler returns is not sent anywhere.

        Raises:
            VerbTaken: when the verb is registered in this shard already.
        """
        self._inbox.verbs.register(verb, handler, oneway=True)

    def unregister(self, verb: str) -> Deferred[None]:
        """Stop taking a verb; fires when the calls of it that are running have ended."""
        registration = self._inbox.verbs.remove(verb)
        done: Deferred[None] = Deferred()
        if registration is None or not registration.running:
            done.callback(None)
        else:
            registration.drained = done
        return done

    def registered(self) -> list[str]:
        """The verbs this shard answers, sorted."""
        return sorted(self._inbox.verbs.verbs)

    # --- out -----------------------------------------------------------------------------

    def lane(self, target: ShardAddress, link_class: LinkClass = LinkClass.DATA) -> Lane:
        """The lane to a shard, to be held on to by whoever sends there often."""
        return self._post.lane(target, link_class)

    def tell(
        self,
        target: ShardAddress,
        verb: str,
        payload: object = None,
        link_class: LinkClass = LinkClass.DATA,
    ) -> Sent:
        """Send without an answer; never waits.

        Returns:
            ``Sent.ACCEPTED``, ``Sent.FULL`` (try later) or ``Sent.DISCONNECTED``.

        Raises:
            NotEncodable: when the payload has no strict CBOR form.
        """
        return self.tell_lane(self._post.lane(target, link_class), verb, payload)

    def tell_lane(self, lane: Lane, verb: str, payload: object) -> Sent:
        """``tell`` over a lane from ``lane``."""
        return self._tell(lane, verb, encode_payload(payload))

    def _tell(self, lane: Lane, verb: str, data: bytes) -> Sent:
        stats = self._stats.of(verb)
        item = stats.tell_prefix + data
        sent = self._put(lane, item)
        if sent is _ACCEPTED:
            stats.accepted.value += 1
        else:
            stats.rejected(sent)
        return sent

    def tell_now(self, target: ShardAddress, verb: str, data: bytes, link_class: LinkClass) -> Sent:
        """``tell`` another node without waiting for the turn to end.

        For one who collects what it says in a turn by itself, and encodes it: ``data`` is a
        payload in strict CBOR. What waits for the same shard leaves with it, before it.
        """
        lane = self._post.lane(target, link_class)
        waiting = lane.dirty
        lane.dirty = True  # no flush is wanted at the turn's end, unless something gets stuck
        sent = self._tell(lane, verb, data)
        lane.dirty = waiting
        if sent is _ACCEPTED and not self._post.send_now(lane) and not waiting:
            self._post.written(lane)
            self._flush_later(FULL_RETRY_S)
        return sent

    def ask(
        self,
        target: ShardAddress,
        verb: str,
        payload: object = None,
        timeout_s: float = 5.0,
        link_class: LinkClass = LinkClass.DATA,
    ) -> Deferred[Any]:
        """Ask and wait for the answer; cancelling the Deferred cancels the call.

        Args:
            target: the shard to ask.
            verb: what to ask.
            payload: a plain CBOR value.
            timeout_s: seconds until it ends in TimedOut; the handler sees what is left.

        Returns:
            a Deferred of the reply; fails with exactly one ``CallError``, or with
            ``NotEncodable`` when the payload has no strict CBOR form.
        """
        return self.ask_lane(self._post.lane(target, link_class), verb, payload, timeout_s)

    def ask_lane(self, lane: Lane, verb: str, payload: object, timeout_s: float) -> Deferred[Any]:
        """``ask`` over a lane from ``lane``."""
        try:
            stats = self._stats.of(verb)
            data = encode_payload(payload)
        except NotEncodable:
            return fail(Failure())
        now = self._reactor.seconds()
        call_id = self._calls.next_id()
        remaining_ms = int(timeout_s * 1000)
        item = stats.ask_prefix + data + items.ask_suffix(call_id, remaining_ms)
        stats.asked.value += 1
        sent = Sent.FULL if self._stopped or self._calls.full else self._put(lane, item)
        if sent is not _ACCEPTED:
            refused = self._refusal(lane, sent, verb)
            stats.ended(refused.kind)
            return fail(refused)
        waiter: Deferred[Any] = Deferred(lambda _: self._cancelled(call_id))
        call = PendingCall(call_id, waiter, lane, item, stats, now, now + timeout_s)
        if self._calls.start(call):
            self._arm()
        return waiter

    def _refusal(self, lane: Lane, sent: Sent, verb: str) -> CallError:
        if self._stopped:
            return Disconnected(f"asking {verb}: this shard is stopping")
        if self._calls.full:
            return Overloaded(f"asking {verb}: too many asks are pending in this shard")
        if sent is Sent.FULL:
            return Overloaded(f"asking {verb}: the outbox to shard {lane.target} is full")
        return Disconnected(f"asking {verb}: there is no way to shard {lane.target} now")

    def _put(self, lane: Lane, item: bytes) -> Sent:
        if len(item) < items.MAX_BATCH:
            sent = lane.put(item)
        elif len(item) <= items.MAX_ITEM:
            sent = lane.put_all(items.parts(self._calls.next_id(), item))
        else:
            raise NotEncodable(
                f"a payload of {len(item)} bytes is over the limit of {items.MAX_ITEM}"
            )
        if sent is _ACCEPTED and not lane.dirty:
            self._written(lane)
        return sent

    def _written(self, lane: Lane) -> None:
        self._post.written(lane)
        self._flush_later(0)

    def _flush_later(self, delay_s: float) -> None:
        if not self._flushing:
            self._flushing = True
            self._reactor.callLater(delay_s, self._flush)

    def _flush(self) -> None:
        self._flushing = False
        waiting = self._pass_on()
        if self._post.flush() or waiting:
            self._flush_later(FULL_RETRY_S)

    def hurry(self, target: ShardAddress, link_class: LinkClass = LinkClass.DATA) -> None:
        """Write what waits for another shard now: for who has sent it much and works on, so
        that the other side works meanwhile. What finds no room leaves later, as always.
        """
        self._post.send_now(self._post.lane(target, link_class))

    # --- ends of asks --------------------------------------------------------------------

    def _end(self, call: PendingCall, error: CallError) -> None:
        call.verb.ended(error.kind)
        call.waiter.errback(error)

    def _cancelled(self, call_id: int) -> None:
        call = self._calls.end(call_id)
        if call is not None:
            self._withdraw(call)
            self._end(call, Cancelled("the caller cancelled"))

    def _withdraw(self, call: PendingCall) -> None:
        if not call.lane.remove(call.item):
            self._put(call.lane, items.cancel(call.call_id))

    def _expire(self) -> None:
        self._timer = None
        now = self._reactor.seconds()
        for call in self._calls.expire(now):
            self._withdraw(call)
            waited = now - call.started
            self._end(
                call,
                TimedOut(
                    f"no answer from shard {call.lane.target} to {call.verb.verb} in {waited:.3f} s"
                ),
            )
        self._arm()

    def _arm(self) -> None:
        due = self._calls.deadline()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if due is not None:
            wait = max(0.0, due - self._reactor.seconds())
            self._timer = self._reactor.callLater(wait, self._expire)

    def _lanes_closed(self, lanes: list[Lane], why: str) -> None:
        for call in self._calls.on_lanes(lanes):
            self._end(call, Disconnected(f"asking {call.verb.verb}: {why}"))

    def _settle(self, item: list[Any], source: ShardAddress, now: float) -> None:
        call = self._calls.answered(item[0], source)
        if call is None:
            self._counters.drop("reply", "late")
            return
        if len(item) == 4:
            self._end(call, items.error_of(item))
            return
        call.verb.ok.value += 1
        call.verb.latency.observe(now - call.started)
        call.waiter.callback(item[1])

    # --- the way ---------------------------------------------------------------

    def set_epoch(self, epoch: Epoch) -> None:
        """From now on data envelopes of other nodes are taken under this epoch only."""
        self._inbox.finish()  # it came under the epoch before
        self._post.epoch = epoch
        self._inbox.epoch_adopted()

    def relay(self, envelope: Envelope) -> None:
        """Pass on an envelope that this shard is only on the way of."""
        sent = self._forward(envelope)
        if sent is Sent.FULL:
            self.bounce(envelope, "full", "an outbox on the way is full")
        elif sent is Sent.DISCONNECTED:
            self.bounce(envelope, "disconnected", "the way is gone")

    def _forward(self, envelope: Envelope) -> Sent:
        """Send an envelope on, now or when there is room."""
        sent = self._relays.send(envelope)
        if self._relays:
            self._flush_later(FULL_RETRY_S)
        return sent

    def _pass_on(self) -> bool:
        """Try the relays that had to wait; True when one still has to."""
        for envelope in self._relays.pass_on():
            self.bounce(envelope, "disconnected", "the way is gone")
        return bool(self._relays)

    @property
    def busy(self) -> int:
        """Asks under way: those this shard runs, and those it waits for."""
        return self._inbox.running + len(self._calls)

    def leave(self) -> None:
        """This shard stops: who asks for a verb that is gone by now had better ask elsewhere."""
        self._inbox.leaving = True

    def stopService(self) -> None:
        """Fail every pending ask, and report verbs that were left registered."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._stopped = True
        self._inbox.stop()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        for call in self._calls.all():
            self._end(call, Disconnected("this shard is stopping"))
        left = self._inbox.verbs.leftovers(("sys.", "gossip.", "mesh.", "tables."))
        if left:
            self.log.warn("verbs left registered at stop: {verbs}", verbs=", ".join(left))

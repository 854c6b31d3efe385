"""The receiving side of messaging: what is done with each item of an envelope.

Rules it keeps: what is stale is dropped and counted, and its asks end at once in an error
that can be retried; a handler that raises costs its caller an error and nobody else
anything; work whose deadline has passed is not started.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from inspect import iscoroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshsvc.counters import Counters
from meshsvc.errors import (
    CallError,
    Disconnected,
    HandlerFailed,
    LocalError,
    NotEncodable,
    Overloaded,
    RemoteError,
    TimedOut,
    UnknownVerb,
    WireError,
)
from meshsvc.messaging import items
from meshsvc.messaging.dispatch import MAX_RUNNING, Call, Registration, VerbTable
from meshsvc.messaging.lanes import Lane
from meshsvc.messaging.post import Post
from meshsvc.messaging.stats import VerbStats
from meshsvc.model import Epoch, LinkClass, Sent, ShardAddress, ShardId
from meshsvc.wire.messages import Envelope

_DATA = int(LinkClass.DATA)

MAX_AHEAD = 256
"""Envelopes kept that came before news of their epoch did: a few turns' worth."""

Settle = Callable[[list[Any], ShardAddress], None]
PutItem = Callable[[Lane, bytes], Sent]


class Inbox:
    """Takes the envelopes addressed to this shard, runs verbs and sends their answers."""

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        post: Post,
        counters: Counters,
        stats: VerbStats,
        settle: Settle,
        put: PutItem,
    ) -> None:
        self.verbs = VerbTable()
        self._reactor = reactor
        self._post = post
        self._counters = counters
        self._stats = stats
        self._settle = settle
        self._put = put
        self._assembly = items.Assembly()
        self._ahead: list[Envelope] = []
        self._cancelling = False
        self._running: dict[tuple[ShardAddress, int, int], Deferred[Any]] = {}

    def deliver(self, envelope: Envelope) -> None:
        """Take an envelope addressed to this shard; what is stale is dropped and counted."""
        me = self._post.me
        if envelope.target_incarnation not in (0, me.incarnation):
            self._counters.drop("verb", "stale")
            return
        if envelope.link_class == _DATA and envelope.source != me.node:
            theirs = Epoch(envelope.term, envelope.attempt)
            if theirs != self._post.epoch:
                self._other_epoch(envelope, theirs)
                return
        try:
            batch = items.split(envelope.body)
        except WireError as error:
            self._counters.drop("verb", "malformed")
            self.log.warn("dropped a malformed batch: {error}", error=error)
            return
        source = ShardAddress(envelope.source, ShardId(envelope.source_shard))  # type: ignore[arg-type]
        now = self._reactor.seconds()
        verbs = self.verbs.verbs
        for item in batch:
            head = item[0]
            if type(head) is str and len(item) == 2:
                registration = verbs.get(head)
                if registration is not None:
                    self._run_tell(registration, item[1], source, now)
                else:
                    self._stats.unknown.value += 1
            else:
                self._take(item, envelope, source, now)

    def _other_epoch(self, envelope: Envelope, theirs: Epoch) -> None:
        """A sibling may know a new epoch a moment before this shard: wait for it."""
        if theirs > self._post.epoch and len(self._ahead) < MAX_AHEAD:
            self._ahead.append(envelope)
        else:
            mine = self._post.epoch
            self.bounce(envelope, "stale-epoch", f"it was sent under epoch {theirs}, not {mine}")

    def epoch_adopted(self) -> None:
        """Take, or drop, what had come ahead of the epoch."""
        ahead, self._ahead = self._ahead, []
        for envelope in ahead:
            self.deliver(envelope)

    def _take(self, item: list[Any], envelope: Envelope, source: ShardAddress, now: float) -> None:
        size = len(item)
        if type(item[0]) is str and size == 4 and type(item[2]) is int:
            self._run_ask(item, envelope, source, now)
        elif type(item[0]) is not int:
            self._counters.drop("verb", "malformed")
        elif size in (2, 4):
            self._settle(item, source)
        elif size == 1:
            self._cancel((source, envelope.source_incarnation, item[0]))
        else:
            self._take_part(item, envelope, source)

    def _cancel(self, key: tuple[ShardAddress, int, int]) -> None:
        running = self._running.pop(key, None)
        if running is not None:
            self._cancelling = True  # what comes of it is nobody's answer and no error
            try:
                running.cancel()
            finally:
                self._cancelling = False

    def _take_part(self, item: list[Any], envelope: Envelope, source: ShardAddress) -> None:
        origin = (envelope.source_incarnation, envelope.link_class)
        try:
            whole = self._assembly.add(source, origin, item) if len(item) == 5 else None
            if whole is not None:
                batch = items.split(items.join([whole]))
                self._take_whole(batch[0], envelope, source)
        except WireError as error:
            self._counters.drop("verb", "malformed")
            self.log.warn("dropped a part from shard {source}: {error}", source=source, error=error)

    def _take_whole(self, item: list[Any], envelope: Envelope, source: ShardAddress) -> None:
        now = self._reactor.seconds()
        if type(item[0]) is str and len(item) == 2:
            registration = self.verbs.verbs.get(item[0])
            if registration is None:
                self._stats.unknown.value += 1
            else:
                self._run_tell(registration, item[1], source, now)
        else:
            self._take(item, envelope, source, now)

    def bounce(self, envelope: Envelope, reason: str, why: str) -> None:
        """Drop an envelope, counted; the asks in it, or answered by it, end in Disconnected."""
        self._counters.drop("verb", reason)
        if envelope.target_incarnation:
            self._bounce_replies(envelope, why)
            return
        where = f"shard {envelope.target[:8]}/{envelope.target_shard}"
        error = Disconnected(f"the call to {where} was not delivered: {why}")
        for call_id in items.asks_in(envelope.body):
            self._reply(envelope, items.failure(call_id, error))

    def _bounce_replies(self, envelope: Envelope, why: str) -> None:
        """The calls were answered, but the answers may not be delivered: say so instead."""
        me, epoch = self._post.me, self._post.epoch
        if envelope.target != me.node:
            return  # its own node will notice the loss of the link, or time out
        error = Disconnected(f"the call was answered, but the answer was not delivered: {why}")
        failed = [items.failure(call_id, error) for call_id in items.replies_in(envelope.body)]
        if failed:
            told = replace(
                envelope, term=epoch.term, attempt=epoch.attempt, body=items.join(failed)
            )
            self._post.forward(told)

    # --- running verbs -------------------------------------------------------------------

    def _run_tell(
        self, registration: Registration, payload: Any, source: ShardAddress, now: float
    ) -> None:
        try:
            result = registration.handler(Call(registration.verb, payload, source, now, None))
        except Exception:
            self._tell_failed(Failure(), registration)
            return
        self._stats.handled(registration.verb).value += 1
        if result is not None:
            waiting = _deferred(result)
            if waiting is not None:
                registration.running += 1
                waiting.addErrback(self._tell_failed, registration)
                waiting.addBoth(lambda _: self._ran(registration))

    def _tell_failed(self, failure: Failure, registration: Registration) -> None:
        self._counters.add("verb_handler_errors_total", verb=registration.verb)
        self.log.failure("the handler of {verb} failed", failure, verb=registration.verb)

    def _run_ask(
        self, item: list[Any], envelope: Envelope, source: ShardAddress, now: float
    ) -> None:
        verb, payload, call_id, remaining_ms = item
        registration = self.verbs.verbs.get(verb)
        if registration is None:
            self._stats.unknown.value += 1
            error: CallError = UnknownVerb(
                f"shard {envelope.target[:8]}/{envelope.target_shard} has no verb {verb!r}"
            )
        elif len(self._running) >= MAX_RUNNING:
            error = Overloaded(f"{MAX_RUNNING} calls are running in the target shard")
        elif remaining_ms <= 0:
            error = TimedOut("the deadline passed before the call arrived")
        else:
            deadline = now + remaining_ms / 1000
            self._start(registration, Call(verb, payload, source, now, deadline), call_id, envelope)
            return
        self._reply(envelope, items.failure(call_id, error))

    def _start(
        self, registration: Registration, call: Call, call_id: int, envelope: Envelope
    ) -> None:
        try:
            result = registration.handler(call)
        except Exception:
            self._answer_failure(Failure(), registration, call_id, envelope)
            return
        waiting = _deferred(result) if result is not None else None
        if waiting is None:
            try:
                self._answer(result, registration, call_id, envelope)
            except NotEncodable:
                self._answer_failure(Failure(), registration, call_id, envelope)
            return
        key = (call.source, envelope.source_incarnation, call_id)
        registration.running += 1
        self._running[key] = waiting
        waiting.addCallback(self._answer, registration, call_id, envelope)
        waiting.addErrback(self._answer_failure, registration, call_id, envelope)
        waiting.addBoth(lambda _: self._ran(registration, key))

    def _ran(self, registration: Registration, key: Any = None) -> None:
        self._running.pop(key, None)
        registration.running -= 1
        if registration.drained is not None and not registration.running:
            registration.drained.callback(None)

    def _answer(
        self, result: Any, registration: Registration, call_id: int, envelope: Envelope
    ) -> None:
        item = items.reply(call_id, None if registration.oneway else result)
        self._stats.handled(registration.verb).value += 1
        self._reply(envelope, item)

    def _answer_failure(
        self, failure: Failure, registration: Registration, call_id: int, envelope: Envelope
    ) -> None:
        if self._cancelling:
            return
        error = failure.value
        if not isinstance(error, CallError):
            if not isinstance(error, (LocalError, RemoteError)):
                self.log.failure("the handler of {verb} failed", failure, verb=registration.verb)
            error = HandlerFailed(type(error).__name__, str(error))
        self._counters.add("verb_handler_errors_total", verb=registration.verb)
        self._reply(envelope, items.failure(call_id, error))

    def _reply(self, envelope: Envelope, item: bytes) -> None:
        target = ShardAddress(envelope.source, ShardId(envelope.source_shard))  # type: ignore[arg-type]
        lane = self._post.lane(target, LinkClass(envelope.link_class), envelope.source_incarnation)
        sent = self._put(lane, item)
        if sent is not Sent.ACCEPTED:
            self._counters.drop("reply", sent.name.lower())

    def source_gone(self, source: ShardAddress) -> None:
        """A shard that may have begun an oversize item ended."""
        self._assembly.forget(source)


def _deferred(result: Any) -> Deferred[Any] | None:
    if isinstance(result, Deferred):
        return result
    if iscoroutine(result):
        coroutine: Coroutine[Deferred[Any], Any, Any] = result
        return Deferred.fromCoroutine(coroutine)
    return None

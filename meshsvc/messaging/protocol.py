"""The receiving side of messaging: what is done with each item of an envelope.

Rules it keeps: what is stale is dropped and counted, and its asks end at once in an error
that can be retried; a handler that raises costs its caller an error and nobody else
anything; work whose deadline has passed is not started.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from inspect import iscoroutine
from itertools import islice
from operator import length_hint
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
    Overloaded,
    RemoteError,
    TimedOut,
    UnknownVerb,
    WireError,
)
from meshsvc.messaging import items
from meshsvc.messaging.dispatch import MAX_RUNNING, Call, Origin, Registration, VerbTable
from meshsvc.messaging.lanes import Lane
from meshsvc.messaging.post import Post
from meshsvc.messaging.stats import VerbStats
from meshsvc.model import (
    NO_EPOCH,
    Epoch,
    Incarnation,
    LinkClass,
    NodeId,
    Sent,
    ShardAddress,
    ShardId,
)
from meshsvc.wire.messages import Envelope

_DATA = int(LinkClass.DATA)
_CLASSES = {link_class.value: link_class for link_class in LinkClass}

SLICE = 32
"""Items of a batch of asks that one turn takes: their answers leave while the next are run, so
that two sides that ask each other in batches both work, and nobody waits for a whole batch."""

MAX_AHEAD = 32
"""Envelopes (a mebibyte each at most) that wait for news of their epoch: a few turns' worth."""

UNORDERED = 0
"""The ``seq`` of what is written on the way in somebody's name."""

_PLAIN = frozenset((bytes, str, int, float, bool, type(None), list, dict, tuple))

Settle = Callable[[list[Any], ShardAddress, float], None]
PutItem = Callable[[Lane, bytes], Sent]
Forward = Callable[[Envelope], Sent]


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
        forward: Forward,
    ) -> None:
        self.verbs = VerbTable(stats.handled)
        self._reactor = reactor
        self._post = post
        self._counters = counters
        self._stats = stats
        self._settle = settle
        self._put = put
        self._forward = forward
        self._assembly = items.Assembly()
        self._ahead: list[Envelope] = []
        self._cancelling = False
        self._rest: Iterator[list[Any]] = iter(())
        self._rest_of: Any = None
        self._slicing = False
        self.leaving = False
        self._running: dict[tuple[ShardAddress, int, int], Deferred[Any]] = {}

    def deliver(self, envelope: Envelope) -> None:
        """Take an envelope addressed to this shard; what is stale is dropped and counted."""
        me = self._post.me
        if envelope.target_incarnation not in (0, me.incarnation):
            self._counters.drop("verb", "stale")
            return
        if envelope.link_class == _DATA and envelope.source != me.node:
            epoch = self._post.epoch
            if envelope.term != epoch.term or envelope.attempt != epoch.attempt:
                self._other_epoch(envelope, Epoch(envelope.term, envelope.attempt))
                return
        try:
            batch = items.split(envelope.body)
        except WireError as error:
            self._counters.drop("verb", "malformed")
            self.log.warn("dropped a malformed batch: {error}", error=error)
            return
        self.finish()
        origin = self._origin(envelope)
        if len(batch) > SLICE and type(batch[0][0]) is str and len(batch[0]) == 4:
            self._rest, self._rest_of = iter(batch), origin
            self._take_slice()
        else:
            for item in batch:
                self._take(item, origin)

    def _take_slice(self) -> None:
        for item in islice(self._rest, SLICE):
            self._take(item, self._rest_of)
        if length_hint(self._rest) and not self._slicing:
            self._slicing = True
            self._reactor.callLater(0, self._next_slice)

    def _next_slice(self) -> None:
        self._slicing = False
        self._take_slice()

    def finish(self) -> None:
        """Take what is left of the last batch: before what came later, or changes the rules."""
        for item in self._rest:
            self._take(item, self._rest_of)

    def stop(self) -> None:
        """Take nothing more of the last batch."""
        self._rest = iter(())

    def _origin(self, envelope: Envelope) -> Origin:
        node, link_class = NodeId(envelope.source), _CLASSES[envelope.link_class]
        return Origin(
            ShardAddress(node, ShardId(envelope.source_shard)),
            Incarnation(envelope.source_incarnation),
            link_class,
            self._post.losses(node, link_class),
            self._reactor.seconds(),
        )

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

    def _take(self, item: list[Any], origin: Origin) -> None:
        head, size = item[0], len(item)
        if type(head) is str:
            if size == 2:
                self._run_tell(head, item[1], origin)
                return
            if size == 4 and type(item[2]) is int and type(item[3]) is int:
                self._run_ask(item, origin)
                return
        elif type(head) is int:
            if size in {2, 4}:
                self._settle(item, origin.source, origin.now)
                return
            if size == 1:
                self._cancel((origin.source, origin.incarnation, head))
                return
            if size == 5:
                self._take_part(item, origin)
                return
        self._counters.drop("verb", "malformed")

    def _cancel(self, key: tuple[ShardAddress, int, int]) -> None:
        running = self._running.pop(key, None)
        if running is not None:
            self._cancelling = True  # what comes of it is nobody's answer and no error
            try:
                running.cancel()
            finally:
                self._cancelling = False

    def _take_part(self, item: list[Any], origin: Origin) -> None:
        stream = (origin.incarnation, origin.link_class)
        try:
            whole = self._assembly.add(origin.source, stream, item)
            if whole is not None:
                self._take(items.split(items.join([whole]))[0], origin)
        except WireError as error:
            self._counters.drop("verb", "malformed")
            self.log.warn("dropped a part from {source}: {error}", source=origin, error=error)

    def bounce(self, envelope: Envelope, reason: str, why: str) -> None:
        """Drop an envelope, counted; see ``undelivered``."""
        self._counters.drop("verb", reason)
        self.undelivered(envelope, why)

    def undelivered(self, envelope: Envelope, why: str) -> None:
        """The asks in a dropped envelope, or answered by it, end in Disconnected."""
        if envelope.target_incarnation:
            self._bounce_replies(envelope, why)
            return
        where = f"shard {envelope.target[:8]}/{envelope.target_shard}"
        error = Disconnected(f"the call to {where} was not delivered: {why}")
        failed = [items.failure(call_id, error) for call_id in items.asks_in(envelope.body)]
        me = self._post.me
        if (envelope.target, envelope.target_shard) == (me.node, me.shard):
            origin = self._origin(envelope)
            for item in failed:
                self._reply(origin, item)
        elif failed:
            self._answer_for(envelope, failed)

    def _answer_for(self, envelope: Envelope, failed: list[bytes]) -> None:
        """Answer in the name of the shard that was asked: its caller listens to no other."""
        epoch = self._post.epoch if envelope.link_class == _DATA else NO_EPOCH
        answer = replace(
            envelope,
            source=envelope.target,
            source_shard=envelope.target_shard,
            source_incarnation=0,
            target=envelope.source,
            target_shard=envelope.source_shard,
            target_incarnation=envelope.source_incarnation,
            term=epoch.term,
            attempt=epoch.attempt,
            seq=UNORDERED,
            body=items.join(failed),
        )
        self._answered_for(answer, failed)

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
            self._answered_for(told, failed)

    def _answered_for(self, answer: Envelope, failed: list[bytes]) -> None:
        if self._forward(answer) is not Sent.ACCEPTED:
            self._counters.drop("reply", "unroutable", len(failed))

    # --- running verbs -------------------------------------------------------------------

    def _run_tell(self, verb: str, payload: Any, origin: Origin) -> None:
        registration = self.verbs.verbs.get(verb)
        if registration is None:
            self._stats.unknown.value += 1
            return
        try:
            result = registration.handler(Call(verb, payload, origin.source, origin.now, None))
        except Exception:
            self._tell_failed(Failure(), registration)
            return
        registration.handled.value += 1
        if result is not None:
            waiting = _deferred(result)
            if waiting is not None:
                registration.running += 1
                waiting.addErrback(self._tell_failed, registration)
                waiting.addBoth(lambda _: self._ran(registration))

    def _tell_failed(self, failure: Failure, registration: Registration) -> None:
        self._counters.add("verb_handler_errors_total", verb=registration.verb)
        self.log.failure("the handler of {verb} failed", failure, verb=registration.verb)

    def _run_ask(self, item: list[Any], origin: Origin) -> None:
        verb, payload, call_id, remaining_ms = item
        registration = self.verbs.verbs.get(verb)
        if registration is None or remaining_ms <= 0 or len(self._running) >= MAX_RUNNING:
            error = self._objection(verb, remaining_ms)
            self._reply(origin, items.failure(call_id, error))
            return
        now = origin.now
        call = Call(verb, payload, origin.source, now, now + remaining_ms / 1000)
        try:
            result = registration.handler(call)
            waiting = None if type(result) in _PLAIN else _deferred(result)
            if waiting is None:
                self._answer(result, registration, call_id, origin)
                return
        except Exception:
            self._answer_failure(Failure(), registration, call_id, origin)
            return
        key = (call.source, origin.incarnation, call_id)
        registration.running += 1
        self._running[key] = waiting
        waiting.addCallback(self._answer, registration, call_id, origin)
        waiting.addErrback(self._answer_failure, registration, call_id, origin)
        waiting.addBoth(lambda _: self._ran(registration, key))

    def _objection(self, verb: str, remaining_ms: int) -> CallError:
        """Why an ask is not run."""
        if verb in self.verbs.verbs:
            if remaining_ms <= 0:
                return TimedOut("the deadline passed before the call arrived")
            return Overloaded(f"{MAX_RUNNING} calls are running in the target shard")
        self._stats.unknown.value += 1
        me = self._post.me
        text = f"shard {me.node[:8]}/{me.shard} has no verb {verb!r}"
        if self.leaving:  # its application is stopped before its links are
            return Disconnected(f"{text} any more: it is stopping")
        return UnknownVerb(text)

    def _ran(self, registration: Registration, key: Any = None) -> None:
        self._running.pop(key, None)
        registration.running -= 1
        if registration.drained is not None and not registration.running:
            registration.drained.callback(None)

    def _answer(
        self, result: Any, registration: Registration, call_id: int, origin: Origin
    ) -> None:
        item = items.reply(call_id, None if registration.oneway else result)
        registration.handled.value += 1
        self._reply(origin, item)

    def _answer_failure(
        self, failure: Failure, registration: Registration, call_id: int, origin: Origin
    ) -> None:
        if self._cancelling:
            return
        error = failure.value
        if not isinstance(error, CallError):
            if not isinstance(error, (LocalError, RemoteError)):
                self.log.failure("the handler of {verb} failed", failure, verb=registration.verb)
            error = HandlerFailed(type(error).__name__, str(error))
        self._counters.add("verb_handler_errors_total", verb=registration.verb)
        self._reply(origin, items.failure(call_id, error))

    def _reply(self, origin: Origin, item: bytes) -> None:
        # The caller was told that the way is lost, or is gone: a later life of its node numbers
        # its shards' lives and calls alike, and must not take this for an answer of its own.
        if origin.gone:
            self._counters.drop("reply", "stale")
            return
        lane = origin.lane
        if lane is None or not lane.open:
            lane = self._post.lane(origin.source, origin.link_class, origin.incarnation)
            origin.lane = lane
        sent = self._put(lane, item)
        if sent is not Sent.ACCEPTED:
            self._counters.drop("reply", sent.name.lower())

    @property
    def running(self) -> int:
        """Asks that have come and whose handlers have not ended."""
        return len(self._running) + length_hint(self._rest)

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

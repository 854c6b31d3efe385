"""Asks and tells between four shards against a model of VERB-2, 3, 4 and 7: each ask ends once.

Real messaging over the in-memory net of ``messaging_net``. Frames are lost, links part, shard
processes die, epochs change one shard after another, callers cancel, outboxes fill up. The
model is a list of asks with their deadlines, and of the numbers each tell carried.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from messaging_net import Net, Shard, node_id
from rules import bounded
from twisted.internet.task import deferLater

from meshsvc.errors import CALL_ERRORS, CallError, NotEncodable
from meshsvc.model import Epoch, LinkClass, Sent
from meshsvc.shards.routing import ViaLink

LATE_S = 0.05
NODES = "ab"
INDEXES = st.integers(0, 3)
CLASSES = st.sampled_from([LinkClass.DATA, LinkClass.DATA, LinkClass.CONTROL])
VERBS = ["t.echo", "t.slow", "t.never", "t.bad", "t.odd", "t.unknown"]


@dataclass(eq=False)
class Asked:
    """One ask, and all that it ever ended in."""

    source: Shard
    target: Shard
    link_class: LinkClass
    verb: str
    payload: list[object]
    due: float
    deferred: object = None
    ends: list[object] = field(default_factory=list)
    cancelled: bool = False


class CallRules(RuleBasedStateMachine):
    """Nodes a and b of two shards each, linked by both classes at first."""

    @initialize(trouble=st.sampled_from(["epochs", "deaths", "links", "all"]))
    def make(self, trouble):
        self.trouble = trouble
        self.net = Net()
        self.shards = [*self.net.add("a", 2), *self.net.add("b", 2)]
        self.net.join(*NODES)
        self.joined = set(LinkClass)
        self.epoch = 0
        self.lives = [1] * 4
        self.number = 0
        self.asks: list[Asked] = []
        self.told: dict[object, int] = {}
        self.dead: list[Shard] = []
        self.envelope = None
        self.faults: list[str] = []
        for shard in self.shards:
            self._serve(shard)

    def _serve(self, shard):
        register = shard.messaging.register
        register("t.echo", lambda call: self._heard(shard, call).payload)
        register("t.slow", lambda call: self._later(shard, call, 0.3))
        register("t.never", lambda call: self._later(shard, call, 6.0))
        register("t.bad", lambda call: self._refuse(shard, call))
        register("t.odd", lambda call: self._heard(shard, call) and object())
        shard.messaging.register_oneway("t.tell", lambda call: self._tell_came(shard, call))
        real = shard.messaging.deliver

        def deliver(envelope):
            self.envelope = envelope
            try:
                real(envelope)
            finally:
                self.envelope = None

        shard.messaging.deliver = shard.post.deliver = deliver

    # --- handlers ------------------------------------------------------------------------

    def _heard(self, shard, call):
        if self.envelope is not None:
            self._right_epoch(shard)
            self._hold(call.deadline > call.now, "work whose deadline has passed")
        return call

    def _right_epoch(self, shard):
        envelope = self.envelope
        if envelope.source != shard.node and envelope.link_class == LinkClass.DATA:
            epoch = Epoch(envelope.term, envelope.attempt)
            self._hold(epoch == shard.post.epoch, "taken under another epoch")

    def _hold(self, right, words):
        """In a handler: what it raises would be its caller's, not ours."""
        if not right:
            self.faults.append(words)

    def _later(self, shard, call, seconds):
        self._heard(shard, call)
        return deferLater(self.net.clock, seconds, lambda: call.payload)

    def _refuse(self, shard, call):
        self._heard(shard, call)
        raise NotEncodable("no")

    def _tell_came(self, shard, call):
        if self.envelope is not None:
            self._right_epoch(shard)
        sender, number, link_class = call.payload
        key = (sender, link_class, shard)
        self._hold(number > self.told.get(key, 0), "tells out of order, or twice")
        self.told[key] = number

    # --- callers -------------------------------------------------------------------------

    @rule(
        source=INDEXES,
        to=INDEXES,
        verb=st.sampled_from(VERBS),
        link_class=CLASSES,
        timeout=st.sampled_from([0.04, 0.2, 1.0, 3.0]),
    )
    def ask(self, source, to, verb, link_class, timeout):
        self.number += 1
        one, other = self.shards[source], self.shards[to]
        due = self.net.clock.seconds() + timeout
        asked = Asked(one, other, link_class, verb, [source, self.number], due)
        self.asks.append(asked)
        asked.deferred = one.messaging.ask(other.address, verb, asked.payload, timeout, link_class)
        asked.deferred.addBoth(asked.ends.append)

    @rule(source=INDEXES, to=INDEXES, link_class=CLASSES, count=st.integers(1, 3))
    def tell(self, source, to, link_class, count):
        one, other = self.shards[source], self.shards[to]
        way = one.node == other.node or link_class in self.joined
        for _ in range(count):
            self.number += 1
            sender = [source, self.lives[source]]
            payload = [repr(sender), self.number, int(link_class)]
            sent = one.messaging.tell(other.address, "t.tell", payload, link_class)
            assert sent is not Sent.FULL
            assert (sent is Sent.ACCEPTED) is way

    @precondition(lambda self: self._pending())
    @rule(data=st.data())
    def cancel(self, data):
        asked = data.draw(st.sampled_from(self._pending()))
        asked.cancelled = True
        asked.deferred.cancel()
        assert asked.ends, "cancelled, and still pending"
        assert asked.ends[0].value.kind == "Cancelled"

    def _pending(self):
        return [asked for asked in self.asks if not asked.ends and asked.source not in self.dead]

    # --- the world -----------------------------------------------------------------------

    @rule(turns=st.integers(1, 6))
    def turn(self, turns):
        self.net.run(turns=turns)

    @rule(seconds=st.sampled_from([0.05, 0.25, 1.0]))
    def time_passes(self, seconds):
        self.net.run(seconds)

    @precondition(lambda self: self.net.flying)
    @rule(data=st.data())
    def frame_is_lost(self, data):
        self.net.flying.pop(data.draw(st.integers(0, len(self.net.flying) - 1)))

    @precondition(lambda self: self.trouble != "epochs")
    @rule(link_class=st.sampled_from(LinkClass), lose=st.booleans())
    def part(self, link_class, lose):
        """The link of a class ends; every ask over it ends at once."""
        if link_class not in self.joined:
            return
        self.joined.discard(link_class)
        for shard in self.shards:
            peer = node_id("b" if shard.node == node_id("a") else "a")
            shard.post.link_closed(peer, link_class, "the link was lost")
        if lose:
            self.net.flying.clear()
        for asked in self._pending():
            if asked.source.node != asked.target.node:
                assert asked.link_class is not link_class, "still pending over a lost link"

    @rule()
    def join(self):
        lost = [each for each in LinkClass if each not in self.joined]
        if lost:
            self.net.join(*NODES, *lost)
            self.joined.update(lost)

    @rule(index=INDEXES, outbox=st.sampled_from([Sent.FULL, Sent.ACCEPTED, Sent.ACCEPTED]))
    def outbox_below(self, index, outbox):
        self.shards[index].outbox = outbox

    @precondition(lambda self: self.trouble in ("epochs", "all"))
    @rule(index=INDEXES)
    def epoch_moves(self, index):
        """One shard hears of the newest epoch, or is the first to hear of the next."""
        shard = self.shards[index]
        if shard.post.epoch.attempt == self.epoch:
            self.epoch += 1
        shard.messaging.set_epoch(Epoch(1, self.epoch))

    @precondition(lambda self: self.trouble in ("deaths", "all"))
    @rule(index=INDEXES)
    def shard_dies(self, index):
        """Its process is gone, its next life begins; all others are told, in any order."""
        old = self.shards[index]
        letter = NODES[index // 2]
        self.dead.append(old)
        self._stop(old)
        self.lives[index] += 1
        new = Shard(self.net, letter, old.index, 2, self.lives[index])
        # Whatever is on its way is passed on to the life that is current when it comes.
        self.net.flying = [(new if to is old else to, body) for to, body in self.net.flying]
        self.net.shards[old.node, old.index] = self.shards[index] = new
        self._serve(new)
        sibling = self.shards[index ^ 1]
        owned = [each for each in self.joined if self._owns(old, each)]
        sibling.post.sibling_down(old.index)
        for link_class in owned:
            self.part(link_class, True)
        for far in self.shards:
            if far.node != old.node:
                far.post.shard_gone(old.address, self.lives[index] - 1)
                far.messaging.source_gone(old.address)
        for asked in self._pending():
            assert asked.target is not old, "still pending at a shard that is gone"
        sibling.post.sibling_up(old.index)
        for each in (sibling.index, old.index):
            new.post.sibling_up(each)
        peer = node_id("b" if letter == "a" else "a")
        for link_class in self.joined:
            new.post.link_open(peer, link_class)
        new.messaging.set_epoch(sibling.post.epoch)

    @precondition(lambda self: self.trouble in ("deaths", "all"))
    @rule(index=INDEXES, to=INDEXES, turns=st.integers(1, 4))
    def caller_dies(self, index, to, turns):
        """Its next life asks the same shard, while the answer to the last one is on its way."""
        self.ask(index, to, "t.echo", LinkClass.DATA, 1.0)
        self.turn(turns)
        self.shard_dies(index)
        for verb in ("t.never", "t.never", "t.never"):
            self.ask(index, to, verb, LinkClass.DATA, 1.0)
        self.turn(6)

    def _stop(self, old):
        messaging = old.messaging
        messaging._stopped = True
        if messaging._timer is not None and messaging._timer.active():
            messaging._timer.cancel()
        messaging._calls.all()
        messaging.deliver = messaging.relay = lambda envelope: None
        old.outbox = Sent.DISCONNECTED

    def _owns(self, shard, link_class):
        peer = node_id("b" if shard.node == node_id("a") else "a")
        return isinstance(shard.post._router.route(peer, 0, link_class), ViaLink)

    # --- what must hold ------------------------------------------------------------------

    @invariant()
    def asks_end_once_and_in_time(self):
        now = self.net.clock.seconds() if hasattr(self, "net") else 0.0
        for asked in self.asks if hasattr(self, "asks") else ():
            if asked.source in self.dead:
                continue
            assert len(asked.ends) <= 1
            if not asked.ends:
                assert now <= asked.due + LATE_S, f"{asked.verb} is pending after its deadline"
                continue
            self._plausible(asked, asked.ends[0])

    def _plausible(self, asked, end):
        error = getattr(end, "value", None)
        if error is None:
            assert asked.verb in ("t.echo", "t.slow"), f"{asked.verb} was answered"
            assert end == asked.payload, "the answer to another ask"
            return
        assert isinstance(error, CallError)
        assert CALL_ERRORS[error.kind] is type(error)
        assert (error.kind == "Cancelled") is asked.cancelled
        if error.kind == "UnknownVerb":
            assert asked.verb == "t.unknown"
        if error.kind == "HandlerFailed":
            assert asked.verb in ("t.bad", "t.odd", "t.slow")

    @invariant()
    def handlers_are_content(self):
        assert not getattr(self, "faults", [])

    @invariant()
    def sums_match(self):
        for shard in self.shards if hasattr(self, "shards") else ():
            asked = shard.counters.total("verb_asks_total")
            ended = shard.counters.total("verb_outcomes_total")
            assert asked - ended == len(shard.messaging._calls)

    def teardown(self):
        """Nothing stays behind: no ask, no timer."""
        if not hasattr(self, "net"):
            return
        for shard in self.shards:
            shard.outbox = Sent.ACCEPTED
        for _ in range(8):
            self.net.run(1.0)
        assert not self._pending()
        self.asks_end_once_and_in_time()
        left = [
            call for call in self.net.clock.getDelayedCalls() if call.func.__name__ != "_expire"
        ]
        assert not left, left
        for shard in self.shards:
            assert not shard.messaging._inbox._running
            assert not len(shard.messaging._calls)


@pytest.mark.contract("VERB-2", "VERB-3", "VERB-4", "VERB-7")
def test_each_ask_ends_exactly_once():
    """Loss, deaths, epochs, full outboxes and cancels: one end each, in time, and it adds up."""
    run_state_machine_as_test(CallRules, settings=bounded(250, 40))

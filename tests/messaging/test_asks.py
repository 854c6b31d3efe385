"""Asks end exactly once, tells never wait, order holds: over shards joined in memory."""

from dataclasses import astuple

import pytest
from messaging_net import Net, node_id, outcome
from twisted.internet.defer import Deferred

from meshsvc.errors import (
    Cancelled,
    Disconnected,
    HandlerFailed,
    NotEncodable,
    Overloaded,
    TimedOut,
    UnknownVerb,
    VerbTaken,
)
from meshsvc.messaging import lanes
from meshsvc.messaging.items import ask_suffix, envelope_head, reply, seal
from meshsvc.messaging.protocol import SLICE
from meshsvc.model import Epoch, LinkClass, Sent, ShardAddress, ShardId
from meshsvc.wire.codec import encode
from meshsvc.wire.messages import Envelope
from meshsvc.wire.registry import code_of, encode_message


@pytest.fixture
def net():
    return Net()


@pytest.fixture
def pair(net):
    (a,), (b,) = net.add("a"), net.add("b")
    net.join("a", "b")
    return a, b


def ask(net, shard, to, verb, payload=None, timeout_s=1.0):
    seen = outcome(shard.messaging.ask(to.address, verb, payload, timeout_s))
    net.run()
    return seen


@pytest.mark.contract("VERB-1", "VERB-2")
def test_plain_deferred_and_coroutine_handlers_all_reply(net, pair):
    """A handler may return a value, a Deferred or a coroutine; each becomes the reply."""
    a, b = pair
    later = Deferred()

    async def coroutine(call):
        return [call.payload, await later]

    b.messaging.register("t.value", lambda call: call.payload)
    b.messaging.register("t.deferred", lambda call: later)
    b.messaging.register("t.coroutine", coroutine)
    assert ask(net, a, b, "t.value", {"k": [1, 2.5, None, b"x"]}) == [
        ("ok", {"k": [1, 2.5, None, b"x"]})
    ]
    waiting = ask(net, a, b, "t.coroutine", "p")
    assert waiting == []
    later.callback("late")
    net.run()
    assert waiting == [("ok", ["p", "late"])]


@pytest.mark.contract("VERB-2")
def test_an_unknown_verb_is_named(net, pair):
    """Asking for a verb the target does not have ends in UnknownVerb that names it."""
    [(kind, error)] = ask(net, *pair, "no.such")
    assert kind == "error"
    assert isinstance(error, UnknownVerb)
    assert "no.such" in str(error)


@pytest.mark.contract("VERB-2")
def test_a_failing_handler_gives_type_and_text(net, pair, logged_errors):
    """HandlerFailed carries the exception's type and text, and the next call works."""
    a, b = pair

    def broken(call):
        if call.payload == "bad":
            raise KeyError("nope")
        return "fine"

    b.messaging.register("t.broken", broken)
    [(_, error)] = ask(net, a, b, "t.broken", "bad")
    assert isinstance(error, HandlerFailed)
    assert (error.type, error.text) == ("KeyError", "'nope'")
    assert ask(net, a, b, "t.broken", "good") == [("ok", "fine")]
    assert len(logged_errors.flush(KeyError)) == 1


@pytest.mark.contract("VERB-2")
def test_a_reply_that_cannot_be_encoded_is_the_handlers_failure(net, pair):
    """A handler that returns a set fails its caller with NotEncodable, not the link."""
    a, b = pair
    b.messaging.register("t.set", lambda call: {1, 2})
    [(_, error)] = ask(net, a, b, "t.set")
    assert isinstance(error, HandlerFailed)
    assert error.type == "NotEncodable"


@pytest.mark.contract("VERB-2", "VERB-3")
def test_an_ask_times_out_within_fifty_milliseconds_of_its_deadline(net, pair):
    """With no answer an ask ends in TimedOut, never early and at most 50 ms late."""
    a, b = pair
    b.messaging.register("t.never", lambda call: Deferred())
    started = net.clock.seconds()
    ended = []
    d = a.messaging.ask(b.address, "t.never", None, 0.5)
    d.addErrback(lambda f: ended.append((f.value, net.clock.seconds() - started)))
    net.run(0.7)
    [(error, after)] = ended
    assert isinstance(error, TimedOut)
    assert 0.5 <= after <= 0.55


@pytest.mark.contract("VERB-3")
def test_a_handler_sees_what_is_left_of_the_deadline(net, pair):
    """The deadline travels with the request."""
    a, b = pair
    seen = []
    b.messaging.register("t.left", lambda call: seen.append(call.remaining_s))
    ask(net, a, b, "t.left", timeout_s=0.75)
    assert seen == [0.75]


@pytest.mark.contract("VERB-3")
def test_work_whose_deadline_has_passed_is_not_started(net, pair):
    """An ask that arrives without time left is answered TimedOut and its handler not run."""
    a, b = pair
    ran = []
    b.messaging.register("t.run", ran.append)
    seen = outcome(a.messaging.ask(b.address, "t.run", None, 0.0001))
    net.run()
    assert ran == []
    assert isinstance(seen[0][1], TimedOut)


@pytest.mark.contract("VERB-3")
def test_cancelling_before_sending_removes_the_call(net, pair):
    """cancel() of an unsent call takes it out of the lane: the other side never sees it."""
    a, b = pair
    ran = []
    b.messaging.register("t.run", ran.append)
    d = a.messaging.ask(b.address, "t.run", None, 1)
    seen = outcome(d)
    d.cancel()
    net.run()
    assert ran == []
    assert isinstance(seen[0][1], Cancelled)


@pytest.mark.contract("VERB-3")
def test_cancelling_after_sending_tells_the_other_side(net, pair):
    """cancel() of a sent call cancels the handler's Deferred."""
    a, b = pair
    cancelled = []
    b.messaging.register("t.wait", lambda call: Deferred(lambda d: cancelled.append(True)))
    d = a.messaging.ask(b.address, "t.wait", None, 1)
    seen = outcome(d)
    net.run()
    d.cancel()
    net.run()
    assert cancelled == [True]
    assert isinstance(seen[0][1], Cancelled)


@pytest.mark.contract("VERB-2")
def test_losing_the_link_ends_every_ask_at_once(net, pair):
    """Nothing stays pending when a peer is lost: all its asks end in Disconnected."""
    a, b = pair
    b.messaging.register("t.never", lambda call: Deferred())
    ended = [outcome(a.messaging.ask(b.address, "t.never", None, 60)) for _ in range(100)]
    net.run()
    net.part("a", "b")
    assert all(isinstance(seen[0][1], Disconnected) for seen in ended)
    assert len(a.messaging._calls) == 0


@pytest.mark.contract("VERB-2", "SHD-8")
def test_losing_one_remote_shard_ends_only_its_asks(net):
    """A shard that ended fails the calls to that life of it; its siblings' go on."""
    (a,), (b0, b1) = net.add("a"), net.add("b", 2)
    net.join("a", "b")
    for shard in (b0, b1):
        shard.messaging.register("t.never", lambda call: Deferred())
    to0 = outcome(a.messaging.ask(b0.address, "t.never", None, 9))
    to1 = outcome(a.messaging.ask(b1.address, "t.never", None, 9))
    net.run()
    a.post.shard_gone(b1.address, 1)
    assert to0 == []
    assert isinstance(to1[0][1], Disconnected)


@pytest.mark.contract("VERB-2")
def test_asking_without_a_way_fails_at_once(net):
    """No link: Disconnected in the same turn, and a tell says so."""
    (a,), (b,) = net.add("a"), net.add("b")
    seen = outcome(a.messaging.ask(b.address, "t.x", None, 9))
    assert isinstance(seen[0][1], Disconnected)
    assert a.messaging.tell(b.address, "t.x") is Sent.DISCONNECTED


@pytest.mark.contract("VERB-2", "VERB-4")
def test_a_full_outbox_is_felt_by_the_sender(net, pair, monkeypatch):
    """When nothing moves, tells become FULL and asks Overloaded; both work afterwards."""
    a, b = pair
    monkeypatch.setattr(lanes, "MAX_ITEMS", 10)
    got = []
    b.messaging.register_oneway("t.tell", lambda call: got.append(call.payload))
    a.outbox = Sent.FULL
    sent = [a.messaging.tell(b.address, "t.tell", n) for n in range(12)]
    net.run()
    assert sent == [Sent.ACCEPTED] * 10 + [Sent.FULL] * 2
    seen = outcome(a.messaging.ask(b.address, "t.tell", None, 1))
    assert isinstance(seen[0][1], Overloaded)
    a.outbox = Sent.ACCEPTED
    net.run(0.05)
    assert got == list(range(10))


@pytest.mark.contract("VERB-4")
def test_order_holds_over_tells_asks_and_large_payloads(net, pair):
    """FIFO per sender shard, receiver shard and class, whatever the size."""
    a, b = pair
    got = []
    b.messaging.register("t.any", lambda call: got.append(call.payload[0]))
    sizes = (1, 100, 700_000, 3, 3_000_000, 5)
    for n, size in enumerate(sizes):
        if n % 2:
            a.messaging.ask(b.address, "t.any", [n, b"x" * size], 5)
        else:
            a.messaging.tell(b.address, "t.any", [n, b"x" * size])
    net.run(0.1)
    assert got == list(range(len(sizes)))


@pytest.mark.contract("WIRE-1")
def test_a_payload_over_a_frame_is_chunked_and_one_over_the_limit_refused(net, pair):
    """5 MB there and back works; over 64 MiB is refused by name before it is sent."""
    a, b = pair
    b.messaging.register("t.echo", lambda call: call.payload)
    big = bytes(5_000_000)
    seen = ask(net, a, b, "t.echo", big, timeout_s=5.0)
    for _ in range(10):
        net.run(0.02)
    assert seen == [("ok", big)]
    with pytest.raises(NotEncodable, match="over the limit"):
        a.messaging.tell(b.address, "t.echo", bytes(65 * 1024 * 1024))


@pytest.mark.contract("VERB-5")
def test_unregister_waits_for_running_calls(net, pair):
    """unregister fires when calls in flight are done; new ones get UnknownVerb meanwhile."""
    a, b = pair
    later = Deferred()
    b.messaging.register("t.slow", lambda call: later)
    first = ask(net, a, b, "t.slow", timeout_s=9)
    done = outcome(b.messaging.unregister("t.slow"))
    [(_, error)] = ask(net, a, b, "t.slow")
    assert isinstance(error, UnknownVerb)
    assert done == []
    later.callback("end")
    net.run()
    assert done == [("ok", None)]
    assert first == [("ok", "end")]


@pytest.mark.contract("VERB-2", "VERB-5")
def test_a_verb_gone_because_its_shard_stops_can_be_asked_for_again(net, pair):
    """Applications stop before links do: a caller hears Disconnected, which a retry can heal."""
    a, b = pair
    b.messaging.register("t.gone", print)
    b.messaging.leave()
    b.messaging.unregister("t.gone")
    [(_, error)] = ask(net, a, b, "t.gone")
    assert isinstance(error, Disconnected)
    assert "it is stopping" in str(error)


@pytest.mark.contract("VERB-5")
def test_a_verb_is_registered_once(pair):
    """Registering a verb twice is refused by name."""
    a, _ = pair
    a.messaging.register("t.x", print)
    with pytest.raises(VerbTaken, match=r"t\.x"):
        a.messaging.register("t.x", print)


@pytest.mark.contract("VERB-7")
def test_sent_equals_the_sum_of_outcomes(net, pair, logged_errors):
    """Per verb, asks sent equal the sum of their outcomes once nothing is pending."""
    a, b = pair
    b.messaging.register("t.odd", lambda call: call.payload if call.payload % 2 else 1 / 0)
    b.messaging.register("t.never", lambda call: Deferred())
    for n in range(20):
        ask(net, a, b, "t.odd", n)
        a.messaging.ask(b.address, "t.never", None, 0.1).addErrback(lambda _: None)
    net.run(0.3)
    for verb in ("t.odd", "t.never"):
        asked = a.counters.total("verb_asks_total", verb=verb)
        assert asked == 20 == a.counters.total("verb_outcomes_total", verb=verb)
    assert a.counters.histogram("verb_latency_seconds", verb="t.odd").count == 10
    assert len(logged_errors.flush(ZeroDivisionError)) == 10


@pytest.mark.contract("MESH-9")
def test_an_envelope_of_another_epoch_is_not_delivered_and_its_asks_end(net, pair):
    """Sent under the old epoch, arriving under the new: dropped, counted, Disconnected."""
    a, b = pair
    ran = []
    b.messaging.register("t.run", ran.append)
    a.messaging.set_epoch(Epoch(1, 1))
    b.messaging.set_epoch(Epoch(1, 2))
    seen = ask(net, a, b, "t.run")
    assert ran == []
    assert b.drops(reason="stale-epoch") == 1
    a.messaging.set_epoch(Epoch(1, 2))
    net.run()
    assert isinstance(seen[0][1], Disconnected)
    assert ask(net, a, b, "t.run") == [("ok", None)]


@pytest.mark.contract("MESH-9")
def test_what_comes_ahead_of_its_epoch_waits_for_it(net, pair):
    """A shard that learns the epoch a moment later delivers what was sent under it."""
    a, b = pair
    b.messaging.register("t.run", lambda call: "ran")
    a.messaging.set_epoch(Epoch(2, 1))
    seen = ask(net, a, b, "t.run")
    assert seen == []
    b.messaging.set_epoch(Epoch(2, 1))
    net.run()
    assert seen == [("ok", "ran")]


@pytest.mark.contract("VERB-4")
def test_a_batch_of_asks_is_taken_in_slices_and_in_order(net, pair):
    """One turn takes 32 of a batch; their answers leave while the rest is run, and what comes
    later waits for the rest."""
    a, b = pair
    took, answers = [], []
    b.messaging.register("t.run", lambda call: took.append(call.payload))
    for number in range(100):
        a.messaging.ask(b.address, "t.run", number).addCallback(
            lambda _, n=number: answers.append(n)
        )
    net.run(turns=1)
    assert took == list(range(SLICE))
    assert b.messaging.busy == 100 - SLICE
    net.clock.advance(0)
    assert [target.index for target, _ in net.flying] == [a.index] * 4  # a slice's answers each
    a.messaging.tell(b.address, "t.run", "behind")
    net.run()
    assert took == [*range(100), "behind"]
    assert answers == list(range(100))
    assert b.messaging.busy == 0


def begun_batch(net, a, b):
    """What ran of a hundred asks that came at once, after one turn; it grows."""
    took = []
    b.messaging.register("t.run", lambda call: took.append(call.payload))
    for number in range(100):
        a.messaging.ask(b.address, "t.run", number).addErrback(lambda failure: None)
    net.run(turns=1)
    return took


@pytest.mark.contract("MESH-9", "VERB-2")
def test_what_is_left_of_a_batch_is_taken_before_the_epoch_changes(net, pair):
    """It came under the epoch in force: it is run, not dropped."""
    a, b = pair
    took = begun_batch(net, a, b)
    b.messaging.set_epoch(Epoch(1, 1))
    assert took == list(range(100))
    a.messaging.set_epoch(Epoch(1, 1))
    net.run(seconds=6)


def test_what_is_left_of_a_batch_is_not_taken_after_the_stop(net, pair):
    """A shard that stopped runs nothing more."""
    a, b = pair
    took = begun_batch(net, a, b)
    b.messaging.unregister("t.run")
    b.messaging.stopService()
    net.run(seconds=6)
    assert took == list(range(SLICE))


@pytest.mark.contract("WIRE-3")
@pytest.mark.parametrize("seq", [1, 23, 24, 255, 256, 65535, 65536, 2**32])
@pytest.mark.parametrize("size", [0, 1, 23, 24, 255, 256, 65535, 65536, 500_000])
def test_an_envelope_is_put_together_as_it_is_encoded(seq, size):
    """A lane encodes the head of its envelopes once; the bytes are those of the message."""
    envelope = Envelope("a" * 32, 1, 70_000, "b" * 32, 0, 3, 1, 2, 300, seq, b"x" * size)
    fields = astuple(envelope)
    assert seal(envelope_head(code_of(Envelope), fields[:-2]), seq, fields[-1]) == encode_message(
        envelope
    )


@pytest.mark.parametrize("call_id", [0, 23, 65535, 65536, 2**32 - 1, 2**32])
def test_calls_are_put_together_as_they_are_encoded(call_id):
    """The parts of an ask and of a reply are those of the arrays they make up."""
    assert b"\x82" + ask_suffix(call_id, 5000) == encode([call_id, 5000])
    assert reply(call_id, "x") == encode([call_id, "x"])


@pytest.mark.contract("SHD-4")
def test_a_reply_for_an_earlier_life_is_dropped_and_counted(net, pair):
    """A reply addressed to another incarnation of this shard is stale, never delivered."""
    a, b = pair
    lane = b.post.lane(a.address, LinkClass.DATA, incarnation=7)
    b.messaging._put(lane, b"\x82\x01\x02")
    net.run()
    assert a.drops(variant="verb", reason="stale") == 1


def test_any_shard_reaches_any_shard(net):
    """Two nodes of three shards: every shard asks every shard, over bus and link."""
    every = net.add("a", 3) + net.add("b", 3)
    net.join("a", "b")
    for shard in every:
        shard.messaging.register("t.who", lambda call, s=shard: [s.node, s.index])
    for source in every:
        for target in every:
            assert ask(net, source, target, "t.who") == [("ok", [target.node, target.index])]


def test_a_payload_handed_to_oneself_is_a_copy(net):
    """What a shard tells itself goes through the codec: nothing mutable is shared."""
    (a,) = net.add("a")
    kept = []
    a.messaging.register("t.keep", lambda call: kept.append(call.payload))
    payload = {"list": [1]}
    a.messaging.tell(a.address, "t.keep", payload)
    payload["list"].append(2)
    net.run()
    assert kept == [{"list": [1]}]


def test_stopping_ends_pending_asks(net, pair):
    """stopService fails what is pending and refuses what comes after."""
    a, b = pair
    b.messaging.register("t.never", lambda call: Deferred())
    seen = ask(net, a, b, "t.never", timeout_s=9)
    a.messaging.stopService()
    assert isinstance(seen[0][1], Disconnected)
    late = outcome(a.messaging.ask(b.address, "t.never", None, 1))
    assert isinstance(late[0][1], Disconnected)
    assert net.clock.getDelayedCalls() == []


def test_addresses_of_nobody_fail_at_once(net, pair):
    """A node that is not there, or a shard it does not have, is no way."""
    a, _ = pair
    nowhere = ShardAddress(node_id("f"), ShardId(0))
    assert a.messaging.tell(nowhere, "t.x") is Sent.DISCONNECTED


@pytest.mark.contract("VERB-4", "VERB-8")
def test_a_tell_now_leaves_with_what_waits_before_it_and_leaves_no_turn_behind(net, pair):
    """Who batches a turn by itself pays for no other; what finds no room goes as any tell does."""
    a, b = pair
    got = []
    b.messaging.register_oneway("t.note", lambda call: got.append(call.payload))
    a.messaging.tell_now(b.address, "t.note", encode(0), LinkClass.CONTROL)
    assert len(net.flying) == 1
    assert net.clock.getDelayedCalls() == []
    a.messaging.tell(b.address, "t.note", 1, LinkClass.CONTROL)
    a.messaging.tell_now(b.address, "t.note", encode(2), LinkClass.CONTROL)
    a.outbox = Sent.FULL
    assert a.messaging.tell_now(b.address, "t.note", encode(3), LinkClass.CONTROL) is Sent.ACCEPTED
    a.outbox = Sent.ACCEPTED
    net.run(0.1)
    assert got == [0, 1, 2, 3]

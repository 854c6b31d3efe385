"""Sessions back to back: how a link comes up, lives, and ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from link_net import CONTROL, DATA, E1, Ends, disposed, envelope, node, roster, up_pair

from meshsvc.link import preface
from meshsvc.link.admission import Known
from meshsvc.link.events import Disposal, Ended, Intent, Limits, Proven, Received, Up
from meshsvc.link.session import LINGER_S, Session
from meshsvc.model import NO_EPOCH, LinkClass, Sent
from meshsvc.wire.frames import pack
from meshsvc.wire.messages import Bye, Confirm, Hello, Ping, Refusal, ShardGone
from meshsvc.wire.registry import Role, decode_message, encode_message

GONE = ShardGone(1, 2)


@pytest.mark.contract("LINK-4")
@pytest.mark.parametrize("link_class", list(LinkClass))
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_a_handshake_in_any_pieces(link_class: LinkClass, chunk: int) -> None:
    """Up at both ends, each knows the other, and both know one key, however bytes are cut."""
    ends = Ends(link_class=link_class, known=(Known(epoch=E1), Known(epoch=E1)))
    assert not ends.ends[0].up
    for _ in range(6):
        ends.move(0, chunk)
        ends.move(1, chunk)
    (dialed,), (accepted,) = ends.of(0, Up), ends.of(1, Up)
    assert dialed.peer.key == accepted.peer.key
    assert dialed.peer.info.name == "n2"
    assert accepted.peer.info.name == "n1"
    assert (dialed.peer.dialed_by_us, accepted.peer.dialed_by_us) == (True, False)
    assert all(len(ends.of(end, Proven)) == 1 for end in (0, 1))
    assert all(end.agreed for end in ends.ends)


@pytest.mark.contract("LINK-4")
def test_who_is_up_when() -> None:
    """The dialer is up at the acceptor's Hello, the acceptor at Confirm, not before."""
    ends = Ends()
    ends.move(0)
    assert not ends.ends[1].up
    ends.move(1)
    assert ends.ends[0].up
    assert not ends.ends[1].up
    ends.move(0)
    assert ends.ends[1].up
    assert not ends.of(0, Proven)
    ends.move(1)
    assert ends.of(0, Proven)


def test_what_comes_with_confirm_comes_after_up() -> None:
    """Messages in the read that completes the handshake are delivered, behind Up."""
    ends = Ends()
    ends.move(0)
    ends.move(1)
    assert ends.ends[0].send(GONE) is Sent.ACCEPTED
    ends.move(0)
    kinds = ends.kinds(1)
    assert kinds.index("Up") < kinds.index("Received")
    assert ends.of(1, Received) == [Received(GONE)]


def test_a_preface_that_was_read_is_not_awaited() -> None:
    """An acceptor that is told so starts with the Hello."""
    dialer = Session(node(1), Known, Limits(), 0.0, Intent(CONTROL, 7))
    acceptor = Session(node(2), Known, Limits(), 0.0, preface_read=True)
    data = dialer.take_output(1 << 20, 0.0)
    acceptor.receive(data[preface.PREFACE_BYTES :], 0.0)
    assert acceptor.hello is not None


@pytest.mark.contract("LINK-1")
@pytest.mark.parametrize("said", ["nothing", "preface", "hello"])
def test_a_slow_handshake_is_cut_at_five_seconds(said: str) -> None:
    """Whatever was said before, after 5 s without the next step the stranger is refused."""
    ends = Ends()
    acceptor = ends.ends[1]
    data = ends.ends[0].take_output(1 << 20, ends.now)
    acceptor.receive({"nothing": b"", "preface": data[:30], "hello": data}[said], ends.now)
    assert acceptor.deadline() == 105.0
    acceptor.tick(104.99)
    assert not disposed(acceptor)
    acceptor.tick(105.0)
    (end,) = [each for each in acceptor.take_events() if isinstance(each, Ended)]
    assert (end.reason, end.heals, end.remote) == ("timeout", True, False)
    assert acceptor.disposal is Disposal.FLUSH
    assert b"timeout" in acceptor.take_output(1 << 20, 105.0)


@pytest.mark.contract("LINK-2")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"acceptor": node(2, cluster="prod")}, "wrong-cluster"),
        ({"acceptor": node(2, protocol_min=2, protocol_max=2)}, "version"),
        ({"acceptor": node(1)}, "self-dial"),
        ({"acceptor": node(2, name="n1")}, "name-collision"),
        ({"expect": node(3).node_id}, "wrong-node"),
    ],
)
def test_both_sides_see_a_refusal(changes: dict[str, Any], reason: str) -> None:
    """Both ends end with the same reason, text and chance to heal, and no link was up."""
    ends = Ends(**changes)
    ends.settle()
    told = [ends.of(end, Ended)[0] for end in (0, 1)]
    assert {each.reason for each in told} == {reason}
    assert len({each.text for each in told}) == 1
    assert {each.heals for each in told} == {reason == "name-collision"}
    assert {each.remote for each in told} == {True, False}
    assert all(disposed(end) for end in ends.ends)
    assert not ends.of(0, Up)
    assert not ends.of(1, Up)


def test_the_dialer_refuses_too() -> None:
    """A dialer that finds out whom it reached may not want it; the acceptor is told why."""
    removed = Known(removed=frozenset({node(2).node_id}))
    ends = Ends(known=(removed, Known()))
    ends.settle()
    assert [each.remote for each in ends.of(1, Ended)] == [True]
    assert [each.reason for each in ends.of(1, Ended)] == ["removed"]


def test_a_refusal_at_confirm_reaches_a_dialer_that_is_up() -> None:
    """The acceptor's last word counts until it has said anything that only a link says."""
    known = Known()
    ends = Ends(known=(Known(), known))
    ends.move(0)
    ends.move(1)
    assert ends.ends[0].up
    known.removed = frozenset({node(1).node_id})
    ends.settle()
    (end,) = ends.of(0, Ended)
    assert (end.reason, end.remote) == ("removed", True)
    assert not ends.of(1, Up)


def test_a_refusal_after_that_is_out_of_place() -> None:
    """Once the acceptor has proven the link, a Refusal breaks the protocol."""
    ends = up_pair()
    refusal = Refusal("removed", "text", 0, 0, False)
    for end in ends.ends:
        end.receive(pack(encode_message(refusal)), ends.now)
    ends.collect()
    assert [ends.of(end, Ended)[0].reason for end in (0, 1)] == ["wrong-role"] * 2


@pytest.mark.contract("LINK-2")
def test_goodbye_leaves_behind_what_was_queued() -> None:
    """Messages sent before close arrive, then the reason; both ends can close then."""
    ends = up_pair()
    for _ in range(3):
        ends.ends[0].send(GONE)
    ends.ends[0].close("stopping", "n1 stops", ends.now)
    assert ends.ends[0].send(GONE) is Sent.DISCONNECTED
    assert ends.ends[0].disposal is Disposal.KEEP
    ends.move(0)
    assert ends.kinds(1) == ["Received"] * 3 + ["Ended"]
    assert ends.of(1, Ended) == [Ended("stopping", "n1 stops", True, remote=True)]
    assert ends.ends[1].disposal is Disposal.FLUSH


def test_who_said_goodbye_does_not_wait_for_ever() -> None:
    """Without an answer the connection is closed after the linger."""
    ends = up_pair()
    end = ends.ends[0]
    end.close("stopping", "", ends.now)
    assert end.deadline() == ends.now + LINGER_S
    end.tick(ends.now + LINGER_S)
    assert end.disposal is Disposal.FLUSH
    assert end.deadline() is None


def test_after_goodbye_only_a_duplicate_delivers() -> None:
    """A link closed for a reason delivers no more; one that gives way to another does."""
    for delivering in (True, False):
        ends = up_pair()
        ends.ends[0].close("duplicate", "", ends.now, delivering=delivering)
        ends.ends[1].send(GONE)
        ends.move(1)
        assert len(ends.of(0, Received)) == int(delivering)


def test_two_goodbyes_cross() -> None:
    """Both close at once: each tells its end once, and both connections can go."""
    ends = up_pair()
    for end in ends.ends:
        end.close("stopping", "", ends.now)
    ends.settle()
    assert [len(ends.of(end, Ended)) for end in (0, 1)] == [1, 1]
    assert [end.disposal for end in ends.ends] == [Disposal.FLUSH] * 2


def test_a_close_before_up_is_a_refusal() -> None:
    """A stranger that is turned away hears the reason."""
    ends = Ends()
    ends.move(0)
    ends.ends[1].close("overloaded", "too many", ends.now)
    ends.settle()
    assert ends.of(0, Ended) == [Ended("overloaded", "too many", True, remote=True)]


@pytest.mark.contract("LINK-4")
def test_a_quiet_link_stays_up_and_a_dead_one_does_not() -> None:
    """Pings alone keep a link up for as long as both answer; silence ends it in 5 s."""
    ends = up_pair()
    ends.pass_time(60)
    assert all(end.up and end.rtt_s is not None for end in ends.ends)
    start, end = ends.now, ends.ends[0]
    while end.up:
        ends.now += 0.25
        at = end.deadline()
        if at is not None and at <= ends.now:
            end.tick(ends.now)
        end.take_output(1 << 20, ends.now)
    ends.collect()
    assert ends.now - start <= 5
    assert ends.of(0, Ended)[0].reason == "silent"
    assert end.disposal is Disposal.RESET


@pytest.mark.contract("LINK-4")
def test_a_peer_that_does_not_read_is_found_while_it_talks() -> None:
    """Output that stays for 5 s ends the link even while bytes keep coming in."""
    ends = up_pair()
    end = ends.ends[0]
    end.blocked(ends.now)
    for _ in range(28):
        ends.now += 0.25
        ends.ends[1].send(GONE)
        ends.move(1)
        end.tick(ends.now)
    ends.collect()
    assert ends.of(0, Ended)[0].reason == "stalled"


@pytest.mark.contract("LINK-5")
def test_what_a_peer_that_only_talks_costs_is_bounded() -> None:
    """A thousand Pings and epochs without a read are answered by one frame of each kind."""
    ends = up_pair(DATA)
    end = ends.ends[0]
    for number in range(1000):
        end.receive(pack(encode_message(Ping(number))), ends.now)
        end.set_epoch(replace(E1, attempt=number + 2))
    data = end.take_output(1 << 20, ends.now)
    assert len(data) < 100
    assert encode_message(Ping(999))[2:] in data


@pytest.mark.contract("LINK-5")
def test_a_full_outbox_says_so() -> None:
    """send answers FULL at the bound, and accepts again once something left."""
    ends = up_pair(limits=Limits(max_frames=3, max_bytes=2 << 20))
    sent = [ends.ends[0].send(GONE) for _ in range(4)]
    assert sent == [Sent.ACCEPTED] * 3 + [Sent.FULL]
    ends.move(0)
    assert ends.ends[0].send(GONE) is Sent.ACCEPTED


def test_a_held_link_sends_controls_only() -> None:
    """While held back, Pongs leave and messages wait; released, they follow."""
    ends = up_pair()
    end = ends.ends[0]
    end.hold(True)
    end.send(GONE)
    end.receive(pack(encode_message(Ping(5))), ends.now)
    ends.move(0)
    assert not ends.of(1, Received)
    end.hold(False)
    ends.move(0)
    assert ends.of(1, Received) == [Received(GONE)]


def test_a_lost_connection_ends_once() -> None:
    """The end is told once, whatever happens afterwards; nothing more can be sent."""
    ends = up_pair()
    end = ends.ends[0]
    end.lost("lost", "reset", ends.now)
    end.lost("lost", "again", ends.now)
    end.close("stopping", "", ends.now)
    end.tick(ends.now + 100)
    end.receive(b"late", ends.now)
    ends.collect()
    assert ends.of(0, Ended) == [Ended("lost", "reset", True, remote=False)]
    assert end.send(GONE) is Sent.DISCONNECTED
    assert end.send_body(b"") is Sent.DISCONNECTED
    assert end.take_output(100, ends.now) == b""


def test_a_confirm_for_another_dial_is_refused() -> None:
    """Confirm must name the dial of the Hello."""
    ends = Ends()
    ends.move(0)
    ends.ends[1].receive(pack(encode_message(Confirm(8))), ends.now)
    ends.collect()
    assert ends.of(1, Ended)[0].reason == "malformed"


def test_an_acceptor_that_answers_for_another_is_refused() -> None:
    """The acceptor's Hello must be for this dial and this class."""
    for changes in ({"dial": 8}, {"link_class": 1, "term": 1, "attempt": 1}):
        ends = Ends()
        ends.move(0)
        answer = ends.ends[1].take_output(1 << 20, ends.now)
        hello = decode_message(answer[4:], Role.ACCEPTOR)
        assert isinstance(hello, Hello)
        ends.ends[0].receive(pack(encode_message(replace(hello, **changes))), ends.now)
        ends.collect()
        assert ends.of(0, Ended)[0].reason == "malformed"


@pytest.mark.contract("MESH-9")
def test_data_needs_the_roster_on_either_end() -> None:
    """Whichever end holds a roster without the other refuses it."""
    strict = Known(epoch=E1, roster=roster(E1, node(3)))
    for known in ((strict, Known(epoch=E1)), (Known(epoch=E1), strict)):
        ends = Ends(link_class=DATA, known=known)
        ends.settle()
        assert {ends.of(end, Ended)[0].reason for end in (0, 1)} == {"not-in-roster"}


def test_a_peers_words_are_made_printable_and_short() -> None:
    """What a peer says in its goodbye cannot write into logs and terminals."""
    ends = up_pair()
    bye = Bye("re\x1b[2J\nason", "x" * 10_000)
    ends.ends[0].receive(pack(encode_message(bye)), ends.now)
    ends.collect()
    (end,) = ends.of(0, Ended)
    assert end.reason == "re?[2J?ason"
    assert len(end.text) == 500


def test_a_control_envelope_needs_no_epoch() -> None:
    """Control links are always agreed, at 0.0."""
    ends = up_pair(CONTROL)
    assert all(end.agreed and end.epoch == NO_EPOCH for end in ends.ends)
    sent = envelope(NO_EPOCH, 1, CONTROL)
    assert ends.ends[0].send(sent) is Sent.ACCEPTED
    assert ends.ends[0].send_body(encode_message(sent)) is Sent.ACCEPTED
    ends.settle()
    assert ends.of(1, Received) == [Received(sent)] * 2

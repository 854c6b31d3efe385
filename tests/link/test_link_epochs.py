"""Epochs on a data link: refused in the handshake, agreed in band once up (MESH-3, MESH-9)."""

from __future__ import annotations

from itertools import permutations

import pytest
from link_net import DATA, E1, E2, E3, Ends, envelope, up_pair

from meshsvc.link.admission import Known
from meshsvc.link.events import (
    Dropped,
    Ended,
    EpochAgreed,
    EpochParted,
    EpochSeen,
    Received,
    Up,
)
from meshsvc.model import Epoch, Sent
from meshsvc.wire.frames import pack
from meshsvc.wire.messages import EpochIs
from meshsvc.wire.registry import encode_message

pytestmark = pytest.mark.contract("MESH-9")


@pytest.mark.contract("MESH-3")
@pytest.mark.parametrize(("mine", "theirs"), [(E1, E2), (E2, E1)])
def test_unequal_epochs_are_refused_and_the_lower_end_learns(mine: Epoch, theirs: Epoch) -> None:
    """Both ends name both epochs; the one that is behind, and only it, hears of the other."""
    ends = Ends(link_class=DATA, known=(Known(epoch=mine), Known(epoch=theirs)))
    ends.settle()
    for end in (0, 1):
        (ended,) = ends.of(end, Ended)
        assert ended.heals
        assert str(mine) in ended.text
        assert str(theirs) in ended.text
    behind = 0 if mine < theirs else 1
    assert ends.of(behind, EpochSeen) == [EpochSeen(max(mine, theirs))]
    assert ends.of(1 - behind, EpochSeen) == []


def test_both_move_on_and_the_link_stays() -> None:
    """After both adopted the new epoch the link is agreed at it, and envelopes flow."""
    ends = up_pair(DATA)
    ends.ends[0].set_epoch(E2)
    assert not ends.ends[0].agreed
    assert ends.ends[0].send(envelope(E2)) is Sent.DISCONNECTED
    assert ends.ends[0].send_body(encode_message(envelope(E2))) is Sent.DISCONNECTED
    ends.settle()
    assert not ends.ends[1].agreed
    assert ends.of(1, EpochSeen) == [EpochSeen(E2)]
    assert ends.of(1, EpochParted) == [EpochParted(E1, E2)]
    ends.ends[1].set_epoch(E2)
    assert ends.ends[1].agreed
    assert not ends.ends[0].agreed
    assert ends.ends[1].send(envelope(E2, 5)) is Sent.ACCEPTED
    ends.settle()
    assert all(end.agreed and end.epoch == E2 for end in ends.ends)
    assert ends.of(0, EpochAgreed) == ends.of(1, EpochAgreed) == [EpochAgreed(E2)]
    assert ends.of(0, Received) == [Received(envelope(E2, 5))]
    assert not ends.of(0, Ended)
    assert not ends.of(1, Ended)


def test_what_was_queued_under_the_old_epoch_is_dropped() -> None:
    """The announcement leaves before queued envelopes, so the peer drops them even at E1."""
    ends = up_pair(DATA)
    ends.ends[0].send(envelope(E1, 1))
    ends.ends[0].set_epoch(E2)
    ends.settle()
    assert ends.of(1, Received) == []
    assert ends.of(1, Dropped) == [Dropped(envelope(E1, 1), "stale-epoch")]


def test_an_envelope_ahead_of_this_side_is_named_so() -> None:
    """One that carries an epoch this side has yet to adopt is dropped as ahead."""
    ends = up_pair(DATA)
    ends.ends[0].receive(pack(encode_message(envelope(E3, 1))), ends.now)
    ends.collect()
    assert ends.of(0, Dropped) == [Dropped(envelope(E3, 1), "ahead")]


STEPS = ("a adopts", "b adopts", "a sends", "b sends", "a to b", "b to a")


@pytest.mark.parametrize("first", STEPS)
def test_no_order_of_events_delivers_across_epochs(first: str) -> None:
    """In every order of adopting, sending and carrying: an end that has adopted E2, or has
    heard that its peer has, delivers nothing of E1; in the end both agree on E2."""
    for order in permutations(STEPS):
        if order[0] == first:
            _run_order(order)


def _run_order(order: tuple[str, ...]) -> None:
    ends = up_pair(DATA)
    for step in order:
        actor = 0 if step[0] == "a" else 1
        if step.endswith("adopts"):
            ends.ends[actor].set_epoch(E2)
        elif step.endswith("sends"):
            ends.ends[actor].send(envelope(ends.ends[actor].epoch))
        else:
            _carry_and_check(ends, actor)
    _carry_and_check(ends, 0)
    _carry_and_check(ends, 1)
    ends.settle()
    assert all(end.up and end.agreed and end.epoch == E2 for end in ends.ends)


def _carry_and_check(ends: Ends, source: int) -> None:
    before = len(ends.of(1 - source, Received))
    epochs = {ends.ends[0].epoch, ends.ends[1].epoch}
    ends.move(source)
    for event in ends.of(1 - source, Received)[before:]:
        got = Epoch(event.message.term, event.message.attempt)
        assert got == ends.ends[1 - source].epoch
        if ends.ends[source].epoch == E2:
            assert got == E2, f"delivered {got} while the ends are at {epochs}"


@pytest.mark.parametrize("moves", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("when", [0, 1, 2])
def test_an_epoch_adopted_during_the_handshake_is_agreed_in_band(
    moves: tuple[int, ...], when: int
) -> None:
    """Whoever moves on between the Hellos and Confirm, the link comes up and says so; it is
    refused only when the ends differed at the acceptor's judgement."""
    known = (Known(epoch=E1), Known(epoch=E1))
    ends = Ends(link_class=DATA, known=known)
    for step in range(3):
        if step == when:
            for end in moves:
                known[end].epoch = E2
                ends.ends[end].set_epoch(E2)
        ends.move((0, 1, 0)[step])
    ends.settle()
    if when == 0 and 1 in moves:
        # The dialer's Hello, which told E1, was on its way.
        assert ends.of(1, Ended)[0].reason == "epoch-low"
        return
    for end in (0, 1):
        assert ends.of(end, Up)
        known[end].epoch = E2
        ends.ends[end].set_epoch(E2)
    ends.settle()
    assert all(end.agreed and end.epoch == E2 for end in ends.ends)


def test_twenty_epochs_in_one_turn_are_one_announcement() -> None:
    """Only the latest epoch is announced, and agreed on."""
    ends = up_pair(DATA)
    for attempt in range(2, 22):
        ends.ends[0].set_epoch(Epoch(1, attempt))
    ends.ends[1].set_epoch(Epoch(1, 21))
    ends.settle()
    assert ends.of(1, EpochAgreed) == [EpochAgreed(Epoch(1, 21))]
    assert all(end.agreed for end in ends.ends)


@pytest.mark.parametrize("said", [EpochIs(1, 0), EpochIs(0, 0), EpochIs(0, 5)])
def test_an_announced_epoch_must_rise(said: EpochIs) -> None:
    """An epoch that was never minted, or is less than the one before, ends the link."""
    ends = up_pair(DATA)
    ends.ends[0].receive(pack(encode_message(said)), ends.now)
    ends.collect()
    assert ends.of(0, Ended)[0].reason == "malformed"


def test_a_control_link_has_no_epoch_to_announce() -> None:
    """EpochIs over a control link ends it; adopting an epoch does not touch it."""
    ends = up_pair()
    ends.ends[0].set_epoch(E2)
    ends.settle()
    assert ends.ends[0].agreed
    ends.ends[0].receive(pack(encode_message(EpochIs(1, 1))), ends.now)
    ends.collect()
    assert ends.of(0, Ended)[0].reason == "malformed"

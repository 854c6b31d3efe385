"""The order of control envelopes over a change of way."""

import pytest
from relay_net import envelope

from meshsvc.relay.order import MAX_SENDERS, Order

pytestmark = pytest.mark.contract("VERB-4", "VERB-6")


def test_what_was_overtaken_is_not_admitted():
    """Numbers of a sender rise; a copy, or a late one, is refused."""
    order = Order()
    assert order.admits(envelope(1, 2, seq=1), 10)
    assert order.admits(envelope(1, 2, seq=5), 10)
    assert not order.admits(envelope(1, 2, seq=4), 10)
    assert not order.admits(envelope(1, 2, seq=5), 10)
    assert order.admits(envelope(3, 2, seq=1), 10)


def test_replies_and_other_shards_have_rows_of_their_own():
    """Replies travel in lanes of their own, so they are no measure for the rest."""
    order = Order()
    reply = envelope(1, 2, seq=3)
    object.__setattr__(reply, "target_incarnation", 1)
    assert order.admits(envelope(1, 2, seq=5), 10)
    assert order.admits(reply, 10)
    other = envelope(1, 2, seq=2)
    object.__setattr__(other, "target_shard", 1)
    assert order.admits(other, 10)


def test_a_later_life_begins_anew_and_an_earlier_one_is_over():
    """After a restart numbers count from one; what the old life wrote is refused."""
    order = Order()
    assert order.admits(envelope(1, 2, seq=9), 10)
    assert order.admits(envelope(1, 2, seq=1), 11)
    assert not order.admits(envelope(1, 2, seq=99), 10)


def test_what_somebody_on_the_way_wrote_is_outside_the_order():
    """A number of 0 is always admitted, and changes nothing."""
    order = Order()
    assert order.admits(envelope(1, 2, seq=9), 10)
    assert order.admits(envelope(1, 2, seq=0), 1)
    assert not order.admits(envelope(1, 2, seq=9), 10)


def test_senders_are_bounded():
    """The one that was met first is forgotten for one more."""
    order = Order()
    for number in range(MAX_SENDERS + 5):
        order.admits(envelope(number, 2), 10)
    assert len(order._senders) == MAX_SENDERS

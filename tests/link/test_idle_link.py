"""A link on which nothing is said but Ping and Pong stays up."""

import pytest

from meshsvc.link.keepalive import Keepalive, SendPing


@pytest.mark.contract("LINK-4")
def test_each_answered_ping_is_followed_by_another_a_second_later():
    """Answers that come between two ticks count: an idle link is pinged each second."""
    keepalive = Keepalive(0.0)
    pings, now = [], 0.0
    while now < 60.0:
        now = keepalive.deadline()
        for effect in keepalive.tick(now):
            assert isinstance(effect, SendPing)
            pings.append(now)
            number = keepalive.ping_number(now)
            keepalive.received_at = now + 0.001
            keepalive.pong(number, now + 0.001)
    assert len(pings) >= 55

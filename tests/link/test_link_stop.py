"""Stopping a link service ends its dials as well as its links."""

from __future__ import annotations

from random import Random

from link_net import CONTROL, node
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from meshsvc.counters import Counters
from meshsvc.link.service import LinkService


def test_a_dial_that_another_link_made_needless_ends_with_the_service() -> None:
    """Stop cancels every dial, or its connection would come up after the stop and stay."""
    dials: list[Deferred] = []

    def connect(address, factory):
        dials.append(Deferred())
        return dials[-1]

    links = LinkService(Clock(), node(1), Counters(), Random(1), connect)
    links.startService()
    there = node(2)
    links.keep(there.address, CONTROL, there.node_id)
    links._targets.linked(there.node_id, CONTROL, 0.0)  # as when the other side dialed first
    links.stopService()
    assert [dial.called for dial in dials] == [True]

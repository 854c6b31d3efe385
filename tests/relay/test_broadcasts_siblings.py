"""A broadcast reaches the siblings of a shard 0 that has just begun."""

from __future__ import annotations

import pytest
from relay_net import node_id
from twisted.internet.task import Clock

from meshsvc.counters import Counters
from meshsvc.model import Address, Incarnation, NodeInfo, ShardId
from meshsvc.relay.protocol import MAX_OWED, Broadcasts
from meshsvc.relay.routes import Routes
from meshsvc.wire.messages import Cast


@pytest.mark.contract("VERB-6")
def test_a_sibling_that_the_bus_has_yet_to_reach_has_it_when_it_is_reached():
    """Once, in order, and a bounded number of them."""
    me = NodeInfo(node_id(1), "n1", Incarnation(7), Address("127.0.0.1", 1), 2)
    given, up = [], []
    casts = Broadcasts(
        *(Clock(), me, 2, None, Routes(me.node_id)),
        *((lambda envelope: given.append((envelope.target_shard, envelope.body)), lambda: up),),
        Counters(),
    )
    source = node_id(2)
    for number in range(1, MAX_OWED + 3):
        casts.received(source, Cast(source, 0, 1, number, 0, (), b"%d" % number))
    assert [shard for shard, _ in given] == [0] * (MAX_OWED + 2)
    given.clear()
    casts.sibling_up(ShardId(1))
    assert given == [(1, b"%d" % number) for number in range(3, MAX_OWED + 3)]
    up.append((ShardId(1), Incarnation(1)))
    given.clear()
    casts.sibling_up(ShardId(1))
    assert given == []
    casts.received(source, Cast(source, 0, 1, MAX_OWED + 3, 0, (), b"x"))
    assert given == [(0, b"x"), (1, b"x")]
    casts.stop()

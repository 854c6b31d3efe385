"""Bugs in relaying over other nodes and in broadcasts."""

from __future__ import annotations

from math import inf

from planting import bug, swap

from meshsvc.gossip.service import ECHO, GossipService
from meshsvc.model import NodeId, Sent
from meshsvc.relay import relay
from meshsvc.relay.casts import Casts, Seen
from meshsvc.relay.relay import Relay


@bug(scenario="partial-partition", section="RELAY")
def a_broadcast_stays_with_the_neighbours():
    """Nobody passes it on, and nobody tells others what it holds (VERB-6)."""
    with (
        swap(Casts, "_pass_on", lambda self, peer, message: None),
        swap(Casts, "_partners", lambda self: []),
    ):
        yield


@bug(scenario="partial-partition", section="RELAY")
def a_broadcast_is_delivered_with_each_copy():
    """What was seen is seen as new (VERB-6)."""

    def add(self, key):
        right(self, key)
        return True

    with swap(Seen, "add", add) as right:
        yield


@bug(scenario="shard-churn", section="RELAY")
def a_new_shard_is_told_what_the_old_one_was():
    """A shard 0 that was restarted takes back what it had passed to its siblings (VERB-6)."""

    def take(self, message, now, new):
        self._began = -inf
        return right(self, message, now, new)

    with swap(Casts, "_take", take) as right:
        yield


@bug(scenario="partial-partition", section="RELAY")
def nothing_is_relayed():
    """Who has no link is out of reach, whoever else has one (VERB-6)."""
    with swap(Relay, "send", lambda self, target, envelope: Sent.DISCONNECTED):
        yield


@bug(scenario="partial-partition", section="RELAY")
def a_relayed_message_goes_back_where_it_was():
    """Each hop asks its own routes only, whatever the message went through (VERB-6)."""

    def received(self, peer, message):
        target = NodeId(message.target)
        path = [NodeId(str(node)) for node in message.path]
        if target == self._me:
            self._take(message)
            return
        hop = self._routes.next_hop(target)
        if hop is not None:
            self._hand(hop, relay._moved(message, [*path, self._me], []))

    with swap(Relay, "received", received):
        yield


@bug(scenario="partial-partition", section="RELAY")
def an_echo_goes_over_others():
    """A probe says that a link is well which is not there (GSP-7)."""

    def ask(self, node, timeout_s):
        return self._ask(node, ECHO, None, timeout_s)

    with swap(GossipService, "_ask_directly", ask):
        yield

"""Bugs in asks and tells, and in the ways they take."""

from __future__ import annotations

from dataclasses import replace
from weakref import WeakKeyDictionary

from planting import bug, swap

from meshsvc.messaging.calls import CallTable
from meshsvc.messaging.items import join
from meshsvc.messaging.lanes import Lane
from meshsvc.messaging.post import Post
from meshsvc.messaging.protocol import Inbox
from meshsvc.messaging.service import Messaging


@bug(scenario="shard-churn", section="VERB", rules="calls")
def asks_do_not_end_with_the_way():
    """A lost link, shard or epoch is not told to those who wait (VERB-2)."""
    with swap(Messaging, "_lanes_closed", lambda self, lanes, why: None):
        yield


@bug(scenario="swarm", section="VERB", rules="calls")
def asks_do_not_time_out():
    """Deadlines pass and nobody looks (VERB-2)."""
    with (
        swap(CallTable, "expire", lambda self, now: []),
        swap(CallTable, "deadline", lambda self: None),
    ):
        yield


@bug(scenario="shard-churn", section="SHARD", rules="calls")
def a_reply_to_another_life_is_delivered():
    """The life that asked is gone; its next one is given the answer (VERB-2)."""

    def deliver(self, envelope):
        if envelope.target_incarnation:
            envelope = replace(envelope, target_incarnation=self._post.me.incarnation)
        right(self, envelope)

    with swap(Inbox, "deliver", deliver) as right:
        yield


@bug(scenario="swarm", section="VERB", rules="calls")
def a_lane_is_not_fifo():
    """A batch leaves in the reverse of its order (VERB-4)."""

    def next_body(self):
        body, count = right(self)
        return (join(list(self.items)[count - 1 :: -1]), count) if count > 1 else (body, count)

    with swap(Lane, "next_body", next_body) as right:
        yield


@bug(scenario="swarm", rules="calls")
def an_ask_that_is_cancelled_is_not_forgotten():
    """A late answer ends it a second time: the table keeps what was cancelled (VERB-2)."""

    def cancelled(self, call_id):
        call = self._calls._calls.get(call_id)
        if call is not None:
            self._withdraw(call)

    with swap(Messaging, "_cancelled", cancelled):
        yield


@bug(scenario="swarm")  # VERB, or RELAY when the item is a broadcast
def an_item_is_sent_twice():
    """The first item of a batch leaves once more at its end (VERB-2, 4)."""

    def next_body(self):
        items = list(self.items)
        _, count = right(self)
        return join([*items[:count], items[0]]), count

    with swap(Lane, "next_body", next_body) as right:
        yield


@bug(scenario="swarm")
def ids_of_calls_are_reused():
    """The fourth call has the id of the first, which may still wait (VERB-2)."""

    def next_id(self):
        self._next = self._next % 3 + 1
        return self._next

    with swap(CallTable, "next_id", next_id):
        yield


@bug(scenario="swarm")
def a_way_is_not_opened_again():
    """A link that comes back is not told to those who send (VERB-1)."""
    seen = WeakKeyDictionary()

    def link_open(self, node, link_class):
        ways = seen.setdefault(self, set())
        if (node, link_class) not in ways:
            ways.add((node, link_class))
            right(self, node, link_class)

    with swap(Post, "link_open", link_open) as right:
        yield

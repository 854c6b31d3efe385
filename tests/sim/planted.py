"""Bugs to plant, each one a few lines wrong in the product, and the scenario to look in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meshsvc.gossip import endpoints, states, watch
from meshsvc.link import keepalive, pairing
from meshsvc.link.gate import EpochGate
from meshsvc.link.targets import Targets
from meshsvc.mesh.delivery import Delivery
from meshsvc.mesh.epoch import Answer, NodeEpoch
from meshsvc.messaging.calls import CallTable
from meshsvc.messaging.lanes import Lane, join
from meshsvc.messaging.post import Post
from meshsvc.messaging.protocol import Inbox
from meshsvc.messaging.service import Messaging
from meshsvc.node.handoff import Publisher
from meshsvc.retry import Retry
from meshsvc.shards.bus import SiblingDown, Siblings, Stream
from meshsvc.storage.counter import EpochStore

Plant = Callable[[Any], None]


@dataclass(frozen=True)
class Bug:
    name: str
    plant: Plant
    scenario: str = "swarm"
    section: str = ""


BUGS: list[Bug] = []


def bug(scenario: str = "swarm", section: str = "") -> Callable[[Plant], Plant]:
    def add(plant: Plant) -> Plant:
        BUGS.append(Bug(plant.__name__, plant, scenario, section))
        return plant

    return add


@bug("flapping-controller", "MESH")
def a_lower_epoch_is_accepted(monkeypatch):
    def offer(self, roster):
        me = roster.get(self._me)
        if me is None or me.incarnation != self._incarnation:
            return Answer(False, self.greatest, "not-in-roster: no")
        if roster.epoch != self.epoch:
            self._machine.adopt(roster)
        return Answer(True, self.epoch, "")

    monkeypatch.setattr(NodeEpoch, "offer", offer)


@bug("mass-restart", "MESH")
def an_epoch_is_sent_before_it_is_saved(monkeypatch):
    monkeypatch.setattr(EpochStore, "save", lambda self, epoch: None)


@bug("swarm", "MESH")
def the_epoch_gate_is_open(monkeypatch):
    monkeypatch.setattr(EpochGate, "objection", lambda self, envelope: None)
    monkeypatch.setattr(Inbox, "_other_epoch", lambda self, envelope, theirs: None)


@bug("flapping-controller", "LIVENESS")
def a_create_mesh_that_fails_is_not_sent_again(monkeypatch):
    monkeypatch.setattr(Delivery, "failed", lambda self, node, now: None)
    monkeypatch.setattr(Delivery, "shown", lambda self, node, behind, now: None)


@bug("swarm", "GOSSIP")
def alive_without_an_echo(monkeypatch):
    learned = watch.Watch.learned

    def believe(self, node, generation, now):
        learned(self, node, generation, now)
        watched = self._watched[node]
        if watched.generation == generation:
            watched.machine.echoed()
            self._settle(node, watched, now)

    monkeypatch.setattr(watch.Watch, "learned", believe)


@bug("quiet-death", "GOSSIP")
def nobody_is_ever_convicted(monkeypatch):
    monkeypatch.setattr(watch.Watch, "_expire", lambda self, node, now: None)


@bug("swarm")
def a_lost_timer_of_a_retry(monkeypatch):
    monkeypatch.setattr(Retry, "deadline", lambda self: None)
    monkeypatch.setattr(Targets, "deadline", lambda self: None)


@bug("swarm")
def each_end_keeps_another_of_two_links(monkeypatch):
    pick = pairing.survivor

    def other(a, b):
        kept = pick(a, b)
        return a if a.dial % 2 else kept

    monkeypatch.setattr(pairing, "survivor", other)


@bug("swarm")
def silence_is_never_noticed(monkeypatch):
    monkeypatch.setattr(keepalive, "DEAD_AFTER_S", 1e9)


@bug("busy-crash", "VERB")
def asks_are_not_failed_when_the_way_is_lost(monkeypatch):
    monkeypatch.setattr(Messaging, "_lanes_closed", lambda self, lanes, why: None)


@bug("swarm", "VERB")
def deadlines_are_forgotten(monkeypatch):
    monkeypatch.setattr(CallTable, "expire", lambda self, now: [])
    monkeypatch.setattr(CallTable, "deadline", lambda self: None)


@bug("swarm", "VERB")
def a_batch_is_sent_backwards(monkeypatch):
    def backwards(self):
        return join(list(self.items)[::-1]), len(self.items)

    monkeypatch.setattr(Lane, "next_body", backwards)


@bug("swarm", "VERB")
def ids_of_calls_are_reused(monkeypatch):
    def again(self):
        self._next = self._next % 3 + 1
        return self._next

    monkeypatch.setattr(CallTable, "next_id", again)


@bug("swarm")
def a_frame_of_the_bus_vanishes(monkeypatch):
    send = Stream.send

    def lossy(self, body, carrier):
        if self.sent % 40 == 39:
            self.sent += 1
        return send(self, body, carrier)

    monkeypatch.setattr(Stream, "send", lossy)


@bug("swarm")
def a_lost_sibling_is_not_told(monkeypatch):
    take = Siblings.take_events
    monkeypatch.setattr(
        Siblings,
        "take_events",
        lambda self: [event for event in take(self) if not isinstance(event, SiblingDown)],
    )


@bug("swarm", "LIVENESS")
def other_shards_are_not_told_of_changes(monkeypatch):
    def changed(self):
        index, whole, rows = self._view_since(self._members.index)
        if index != self._members.index:
            self._members.apply(index, whole, rows)

    monkeypatch.setattr(Publisher, "changed", changed)


@bug("swarm")
def a_way_is_not_opened_again(monkeypatch):
    link_open = Post.link_open

    def once(self, node, link_class):
        seen = self.__dict__.setdefault("_seen", set())
        if (node, link_class) not in seen:
            seen.add((node, link_class))
            link_open(self, node, link_class)

    monkeypatch.setattr(Post, "link_open", once)


@bug("swarm")
def an_older_life_replaces_a_later_one(monkeypatch):
    def fit(delta, mine):
        return states.Fit.NEWS

    def merge(one, other):
        return other

    monkeypatch.setattr(endpoints, "fit", fit)
    monkeypatch.setattr(endpoints, "merge", merge)


@bug("swarm", "VERB")
def an_item_is_sent_twice(monkeypatch):
    def twice(self):
        return join([*self.items, self.items[0]]), len(self.items)

    monkeypatch.setattr(Lane, "next_body", twice)

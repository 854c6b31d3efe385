"""The Twisted driver: services over a messaging and link service in memory, on one Clock."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
from harness import address, node_id, plain
from twisted.internet.defer import Deferred, ensureDeferred, fail, maybeDeferred, succeed
from twisted.internet.task import Clock

from meshsvc.counters import Counters
from meshsvc.errors import Cancelled, Disconnected, StartError, TimedOut
from meshsvc.gossip.detector import NO
from meshsvc.gossip.events import Changed, Event, Joined, Resync
from meshsvc.gossip.members import Member, Status, View
from meshsvc.gossip.membership import Membership
from meshsvc.gossip.service import GossipService
from meshsvc.gossip.settings import Contacts, Settings
from meshsvc.gossip.subscribers import MAX_QUEUED, EventQueue
from meshsvc.model import Address, Incarnation, LinkClass, NodeId, NodeInfo, Sent, ShardAddress

START = 1_700_000_000.0
HOP_S = 0.001


@dataclass
class Call:
    source: ShardAddress
    payload: Any


@dataclass(eq=False)
class FakeLink:
    peer: NodeInfo
    link_class: LinkClass = LinkClass.CONTROL


class Place:
    """Messaging and links of one node, over a World."""

    def __init__(self, world: World, number: int, settings: Settings, seeds: list[int]) -> None:
        self.world = world
        self.info = NodeInfo(
            node_id(number), f"n{number}", Incarnation(int(START)), address(number), 1
        )
        self.verbs: dict[str, Any] = {}
        self.up: dict[NodeId, FakeLink] = {}
        self.kept: set[Address] = set()
        self.observers: list[Any] = []
        self.counters = Counters()
        self.membership = Membership(
            self.info,
            random.Random(number),
            self.counters,
            settings,
            Contacts(tuple(address(seed) for seed in seeds)),
        )
        self.service = GossipService(world.clock, self.membership, self, self, self.counters)

    # messaging

    def tell(self, target: ShardAddress, verb: str, payload: object, link_class: LinkClass) -> Sent:
        if target.node not in self.up:
            return Sent.DISCONNECTED
        other = self.world.by_id[target.node]
        call = Call(ShardAddress(self.info.node_id, target.shard), plain(payload))
        self.world.clock.callLater(HOP_S, other.called, verb, call)
        return Sent.ACCEPTED

    def ask(
        self,
        target: ShardAddress,
        verb: str,
        payload: object,
        timeout_s: float,
        link_class: LinkClass,
    ) -> Deferred[Any]:
        if target.node not in self.up:
            return fail(Disconnected("no way"))
        other = self.world.by_id[target.node]
        call = Call(ShardAddress(self.info.node_id, target.shard), plain(payload))
        answer: Deferred[Any] = Deferred()
        late = self.world.clock.callLater(timeout_s, lambda: answer.errback(TimedOut("late")))

        def answered(value: Any) -> None:
            if not answer.called:
                late.cancel()
                answer.callback(value)

        def deliver() -> None:
            if verb in other.verbs and not other.world.frozen:
                maybeDeferred(other.verbs[verb], call).addCallback(
                    lambda value: self.world.clock.callLater(HOP_S, answered, value)
                )

        self.world.clock.callLater(HOP_S, deliver)
        return answer

    def called(self, verb: str, call: Call) -> None:
        if verb in self.verbs:
            self.verbs[verb](call)

    def register(self, verb: str, handler: Any) -> None:
        self.verbs[verb] = handler

    register_oneway = register

    def unregister(self, verb: str) -> Deferred[None]:
        del self.verbs[verb]
        return succeed(None)

    # links

    def add_observer(self, observer: Any) -> None:
        self.observers.append(observer)

    def links(self) -> tuple[FakeLink, ...]:
        return tuple(self.up.values())

    def keep(self, target: Address, link_class: LinkClass, expect: NodeId | None) -> None:
        self.kept.add(target)
        self.world.clock.callLater(HOP_S, self.world.connect, self, target)

    def forget(self, target: Address, link_class: LinkClass) -> None:
        self.kept.discard(target)


class World:
    def __init__(self, count: int, settings: Settings | None = None, seed: int = 0) -> None:
        self.clock = Clock()
        self.clock.rightNow = START
        self.frozen = False
        self.places = [
            Place(self, n, settings or Settings(), [seed] if n != seed else [])
            for n in range(count)
        ]
        self.by_id = {place.info.node_id: place for place in self.places}

    def connect(self, one: Place, target: Address) -> None:
        other = next((p for p in self.places if p.info.address == target), None)
        if other is None or not (one.service.running and other.service.running):
            return
        for a, b in ((one, other), (other, one)):
            if b.info.node_id not in a.up:
                link = a.up[b.info.node_id] = FakeLink(b.info)
                for observer in a.observers:
                    observer.link_up(link)

    def cut(self, one: Place, other: Place) -> None:
        for a, b in ((one, other), (other, one)):
            link = a.up.pop(b.info.node_id)
            for observer in a.observers:
                observer.link_down(link, "lost", "")

    def start(self) -> World:
        for place in self.places:
            place.service.startService()
        return self

    def run(self, seconds: float) -> None:
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            self.clock.advance(0.005)


class Listener:
    def __init__(self, name: str, do: Any = None) -> None:
        self.name = name
        self.events: list[Any] = []
        self.do = do or (lambda event: None)

    def endpoint_event(self, event: Event) -> Any:
        self.events.append(event)
        return self.do(event)


@pytest.mark.contract("GSP-14")
def test_waiting_for_nodes_by_name_and_by_id() -> None:
    """Fires once all are alive here; round trips are known for those that talk."""
    world = World(3).start()
    first = world.places[0]
    done = first.service.wait_alive(["n1", node_id(2)], 5)
    assert not done.called
    world.run(0.5)
    assert done.called
    assert first.service.wait_alive(["n0", "n1"], 5).called
    world.run(5)
    trips = first.service.round_trips()
    assert trips.keys() == {node_id(1), node_id(2)}
    assert all(0 < ms < 50 for ms in trips.values())
    assert first.verbs["gossip.rtt"](None) == trips


@pytest.mark.contract("GSP-14")
def test_waiting_in_vain_names_who_is_missing() -> None:
    """Each with what it is instead; a cancelled wait leaves nothing behind."""
    world = World(2).start()
    world.run(1)
    service = world.places[0].service
    caught: list[Any] = []
    service.wait_alive(["n1", "n7"], 2).addErrback(caught.append)
    cancelled = service.wait_alive(["n7"], 2)
    cancelled.addErrback(caught.append)
    cancelled.cancel()
    assert caught.pop().check(Cancelled)
    world.run(2.1)
    assert caught[0].check(TimedOut)
    assert str(caught[0].value) == "not alive after 2 s: n7 (unknown)"


@pytest.mark.contract("GSP-13")
def test_entering_tells_whether_anybody_was_there() -> None:
    """False with company, True alone; a node that requires a contact fails, naming it."""
    world = World(2).start()
    met = world.places[1].service.entered()
    world.run(0.1)
    assert world.places[0].service.entered().result is True
    assert met.result is False
    for required, outcome in ((False, True), (True, None)):
        lost = World(1, Settings(shadow_required=required), seed=9).start()
        waiting = lost.places[0].service.entered()
        caught: list[Any] = []
        waiting.addErrback(caught.append)
        lost.run(9.9)
        assert not waiting.called
        lost.run(0.2)
        assert waiting.result is outcome
        if required:
            assert caught[0].check(StartError)
            assert caught[0].value.exit_code == 69
            assert "10.0.0.1:7009" in str(caught[0].value)
            lost.places[0].service.entered().addErrback(caught.append)
            assert len(caught) == 2


def test_links_that_are_up_before_gossip_starts_are_used() -> None:
    """The order in which a node's services start, and nodes' gossip, does not matter."""
    world = World(2)
    one, two = world.places
    for a, b in ((one, two), (two, one)):
        a.up[b.info.node_id] = FakeLink(b.info)
    two.service.startService()
    world.run(0.3)
    one.service.startService()
    world.run(1.0)
    assert one.service.wait_alive(["n1"], 1).called
    assert two.service.wait_alive(["n0"], 1).called


@pytest.mark.contract("GSP-9")
def test_stopping_says_goodbye_and_cleans_up() -> None:
    """Others show left at once; verbs, timers and waits are gone."""
    world = World(2).start()
    world.run(1)
    one, two = world.places
    caught: list[Any] = []
    one.service.wait_alive(["n7"], 60).addErrback(caught.append)
    stopped = one.service.stopService()
    world.run(0.1)
    assert stopped.called
    assert caught[0].check(Disconnected)
    assert one.verbs == {}
    assert two.membership.member(one.info.node_id).status is Status.LEFT  # type: ignore[union-attr]
    two.service.stopService()
    world.run(0.1)
    assert world.clock.getDelayedCalls() == []


def test_a_link_that_was_replaced_is_not_lost() -> None:
    """The end of one of two links to a node is no hint of anything."""
    world = World(2).start()
    world.run(1)
    one, two = world.places
    for observer in one.observers:
        observer.link_down(FakeLink(two.info), "duplicate", "")
    assert two.info.node_id in one.membership.linked
    data = FakeLink(two.info, LinkClass.DATA)
    for observer in one.observers:
        observer.link_up(data)
        observer.link_down(data, "lost", "")
    assert two.info.node_id in one.membership.linked


@pytest.mark.contract("GSP-7")
def test_a_lost_link_is_probed_through_the_other_node() -> None:
    """Three nodes, one link cut for good: the third vouches, nobody is suspected."""
    world = World(3).start()
    world.run(1)
    listener = Listener("l")
    world.places[0].service.subscribe(listener)
    world.cut(world.places[0], world.places[1])
    world.run(10)
    assert listener.events == []


def test_a_helper_answers_for_whom_it_echoed() -> None:
    """The generation that answered, NO without an answer, NO to rubbish."""
    world = World(2).start()
    world.run(1)
    one, two = world.places
    via = one.verbs["gossip.echo_via"]
    source = ShardAddress(two.info.node_id, 0)  # type: ignore[arg-type]
    answers: list[Any] = []
    for payload in (
        [two.info.node_id, 1.0],
        [node_id(9), 1.0],
        "x",
        [1, 1],
        [two.info.node_id, "x"],
    ):
        maybeDeferred(via, Call(source, payload)).addCallback(answers.append)
    world.run(0.1)
    assert sorted(answers) == [NO, NO, NO, NO, int(START)]
    world.frozen = True
    late = via(Call(source, [two.info.node_id, 1.0]))
    world.run(0.9)
    assert late.result == NO


@pytest.mark.contract("GSP-6")
def test_a_slow_a_raising_and_a_reentrant_subscriber_delay_only_themselves(
    logged_errors: Any,
) -> None:
    """The slow one gets a resync, the raising one all events, and so does the good one."""
    world = World(2).start()
    service = world.places[0].service
    release: Deferred[None] = Deferred()
    slow = Listener("slow", lambda event: release if len(slow.events) == 1 else None)
    bad = Listener("bad", lambda event: 1 / 0)
    good = Listener("good")

    def meddle(event: Event) -> None:
        if isinstance(event, Joined):
            service.set_values({"nosy": 1})
            assert len(service.members()) == 2

    nosy = Listener("nosy", meddle)
    for listener in (slow, bad, good, nosy):
        service.subscribe(listener)
    world.run(1)
    other = world.places[1].service
    for number in range(MAX_QUEUED + 50):
        other.set_values({"k": number})
        world.run(0.11)
    changes = [e for e in good.events if isinstance(e, Changed) and "k" in e.changed]
    assert [e.changed["k"] for e in changes] == list(range(MAX_QUEUED + 50))
    assert len(bad.events) == len(good.events)
    assert len(slow.events) == 1
    release.callback(None)
    assert isinstance(slow.events[1], Resync)
    assert len(slow.events[1].view) == 2
    assert len(slow.events) == 2
    other.set_values({"k": -1})
    world.run(0.2)
    assert slow.events[-1].changed == {"k": -1}
    counters = world.places[0].counters
    assert counters.total("gossip_subscriber_resyncs_total", subscriber="slow") == 1
    assert counters.total("gossip_subscriber_errors_total", subscriber="bad") == len(bad.events)
    assert len(logged_errors.flush(ZeroDivisionError)) == len(bad.events)
    assert world.places[0].membership.member(node_id(0)).values["nosy"] == 1  # type: ignore[union-attr]


@pytest.mark.contract("GSP-6")
def test_an_unsubscribed_listener_hears_nothing_more() -> None:
    """Neither what is queued nor what comes."""
    world = World(2).start()
    service = world.places[0].service
    release: Deferred[None] = Deferred()
    listener = Listener("l", lambda event: release)
    subscription = service.subscribe(listener)
    world.run(1)
    world.places[1].service.set_values({"k": 1})
    world.run(1)
    service.unsubscribe(subscription)
    release.callback(None)
    world.run(1)
    assert [e.name for e in listener.events] == ["joined"]


@pytest.mark.contract("GSP-14")
def test_watching_events_as_they_come() -> None:
    """An asynchronous loop over events, ended by close."""
    world = World(2).start()
    stream = world.places[0].service.watch()
    seen: list[str] = []

    async def read() -> None:
        async for event in stream:
            seen.append(event.name)

    done = ensureDeferred(read())
    world.run(1)
    world.places[1].service.set_values({"k": 1})
    world.run(1)
    assert seen == ["joined", "changed"]
    stream.close()
    stream.close()
    assert done.called
    assert world.places[0].service._listeners == []


def test_the_view_tells_what_changed_since_an_index() -> None:
    """Whole at first or when far behind, then the rows that changed, in order."""
    world = World(3).start()
    seen: list[int] = []
    membership = world.places[0].membership
    world.places[0].service.observe_view(seen.append)
    world.run(1)
    assert seen == sorted(seen)
    index, whole, rows = membership.view_since(0)
    assert (index, whole, len(rows)) == (seen[-1], True, 3)
    members = [Member.from_row(row) for row in rows]
    assert sorted(m.name for m in members) == ["n0", "n1", "n2"]
    assert members == list(membership.members())
    world.places[2].service.set_values({"k": 1})
    world.places[1].service.set_values({"k": 2})
    world.run(1)
    later, whole, rows = membership.view_since(index)
    assert not whole
    assert {row[1] for row in rows} == {"n1", "n2"}
    assert membership.view_since(later) == (later, False, [])
    assert membership.view_since(later + 5)[1]


def test_a_copy_kept_by_rows_equals_the_view() -> None:
    """Whatever the moments at which it is brought up to date."""
    world = World(3).start()
    membership = world.places[0].membership
    copy: dict[str, Any] = {}
    index = 0
    for number in range(40):
        world.places[number % 3].service.set_values({"k": number})
        world.run(0.02 * (number % 4))
        index, whole, rows = membership.view_since(index)
        if whole:
            copy.clear()
        copy.update({row[0]: row[:8] for row in rows})  # type: ignore[misc]
        assert copy == {m.node_id: m.row()[:8] for m in membership.members()}


def test_an_overrun_queue_offers_a_resync_first() -> None:
    """What was queued is dropped and counted; events go on after the resync."""
    queue = EventQueue(limit=2)
    member = world_member()
    for number in range(4):
        assert queue.put(Joined(member, float(number))) is (number != 2)
    assert len(queue) == 1
    assert queue.dropped == 4
    assert queue.take(lambda: (member,), 9.0) == Resync((member,), 9.0)
    assert queue.take(lambda: (), 9.0) is None
    queue.put(Joined(member, 5.0))
    assert queue.take(lambda: (), 9.0) == Joined(member, 5.0)


def world_member() -> Member:
    return Member(node_id(1), "n1", Status.ALIVE, 1, 1, address(1), 1, {"tags": {"a": 1}})


def test_a_view_far_behind_is_sent_whole() -> None:
    """Rows are kept for a bounded number of changes."""
    view = View(lambda node: None)
    for _ in range(2000):
        view.put(world_member())
    assert view.since(1)[1]
    assert not view.since(1990)[1]
    assert world_member().tags == {"a": 1}

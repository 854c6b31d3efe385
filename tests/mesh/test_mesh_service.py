"""The Twisted side of the mesh, with fakes for what it works with and a clock of our own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from mesh_net import FakeLink, nodes
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock

from meshsvc.counters import Counters
from meshsvc.errors import Disconnected, EpochSuperseded, Overloaded, TimedOut
from meshsvc.mesh import roster as rosters
from meshsvc.mesh.controller import EpochUsed, StaticController
from meshsvc.mesh.epoch import Adopted, Became, MeshState, Superseded
from meshsvc.mesh.service import FORM_S, MAX_WAITERS, DataLinks, MeshService
from meshsvc.model import NO_EPOCH, Epoch, LinkClass, Roster, Sent, ShardAddress, ShardId
from meshsvc.wire.messages import Mesh

MEMBERS = nodes(3)
N1, N2, N3 = MEMBERS
NAMES = ("n1", "n2", "n3")


def roster(term=1, attempt=1, members=MEMBERS):
    return Roster(Epoch(term, attempt), members)


class FakeLinks:
    """Records what is asked of it; ``observer`` is who listens."""

    def __init__(self):
        self.calls, self.observer = [], None

    def add_observer(self, observer):
        self.observer = observer

    def set_epoch(self, epoch, roster):
        self.calls.append(("epoch", str(epoch), len(roster.members)))

    def keep(self, target, link_class, expect):
        self.calls.append(("keep", target.port, link_class, expect))

    def forget(self, target, link_class):
        self.calls.append(("forget", target.port, link_class))


class FakeBus:
    """Records messages; ``answer`` is what becomes of the next ones."""

    def __init__(self):
        self.sent, self.observer, self.answer = [], None, Sent.ACCEPTED

    def add_observer(self, observer):
        self.observer = observer

    def send(self, shard, message):
        self.sent.append((shard, message))
        return self.answer


class FakeMessaging:
    """Asks stay open until the test ends them; verbs are called by the test."""

    def __init__(self):
        self.verbs, self.asks, self.cancelled = {}, [], []
        self.reply = Deferred

    def register(self, verb, handler):
        self.verbs[verb] = handler

    def unregister(self, verb):
        del self.verbs[verb]

    def ask(self, target, verb, payload, timeout_s, link_class):
        assert (verb, link_class) == ("mesh.create", LinkClass.CONTROL)
        answer = self.reply()
        if not answer.called:
            answer = Deferred(lambda _: self.cancelled.append(target))
        self.asks.append((target, payload, answer))
        return answer

    def take(self):
        asks, self.asks = self.asks, []
        return asks


class FakeMembers:
    """A view the test sets; remembers what was published."""

    def __init__(self, view=MEMBERS):
        self.view, self.shown, self.published = view, {}, []

    def alive(self):
        return self.view

    def epochs(self):
        return self.shown

    def publish_epoch(self, epoch):
        self.published.append(str(epoch))


class Rig:
    """Shard 0 of one node with everything around it faked."""

    def __init__(self, me=N1, names=NAMES, stored=NO_EPOCH):
        self.clock, self.links, self.bus = Clock(), FakeLinks(), FakeBus()
        self.messaging, self.members, self.saves = FakeMessaging(), FakeMembers(), []
        self.counters = Counters()
        self.data = DataLinks(self.clock, me, ShardId(0), self.links, self.bus, self.counters)
        self.events = []
        self.data.add_observer(self.events.append)
        self.control = StaticController(me, names, stored)
        self.mesh = MeshService(
            self.clock, self.data, self.control, self.messaging, self.members, self.persist
        )
        self.data.startService()
        self.mesh.startService()
        self.clock.advance(0)

    def persist(self, epoch):
        self.saves.append((epoch, Deferred()))
        return self.saves[-1][1]

    def saved(self):
        self.saves.pop()[1].callback(None)

    def stop(self):
        self.mesh.stopService()
        self.data.stopService()

    def create(self, offered):
        payload = [offered.epoch.term, offered.epoch.attempt, list(rosters.rows(offered.members))]
        return self.messaging.verbs["mesh.create"](SimpleNamespace(payload=payload))


@pytest.fixture
def rig():
    made = []

    def make(**options):
        made.append(Rig(**options))
        return made[-1]

    yield make
    for one in made:
        if one.mesh.running:
            one.stop()
        assert one.clock.getDelayedCalls() == []
        assert one.messaging.verbs == {}


@pytest.mark.contract("MESH-11")
def test_the_controller_saves_then_asks_every_member(rig):
    """Others by mesh.create on the control class to shard 0, itself without a message."""
    one = rig()
    assert [str(epoch) for epoch, _ in one.saves] == ["1.1"]
    one.clock.advance(1)
    assert one.messaging.asks == []
    one.saved()
    asks = one.messaging.take()
    assert [target for target, _, _ in asks] == [
        ShardAddress(N2.node_id, ShardId(0)),
        ShardAddress(N3.node_id, ShardId(0)),
    ]
    assert asks[0][1] == [1, 1, list(rosters.rows(MEMBERS))]
    assert one.data.core.roster == roster()
    assert one.members.published == ["0.0", "1.1"]
    for _, _, answer in asks:
        answer.callback([True, "1.1", ""])
    assert one.control.delivered


def test_asks_that_fail_or_answer_rubbish_are_repeated(rig):
    """Disconnected at once, a wrong answer, a refusal: asked again later, never in a loop."""
    one = rig()
    one.saved()
    (_, _, second), (_, _, third) = one.messaging.take()
    second.errback(Disconnected("no way"))
    third.callback("what?")
    assert one.messaging.asks == []
    one.messaging.reply = lambda: fail(Disconnected("no way"))
    one.clock.pump([0.05] * 60)
    assert 6 <= len(one.messaging.take()) <= 12


@pytest.mark.contract("MESH-5")
def test_nothing_of_a_superseded_attempt_is_left(rig):
    """The asks of the epoch before are cancelled when the next one is minted."""
    one = rig()
    one.saved()
    old = one.messaging.take()
    one.members.view = (N1, N2)
    one.mesh.members_changed()
    one.clock.advance(0.5)
    assert one.messaging.cancelled == [target for target, _, _ in old]
    one.saved()
    assert [payload[:2] for _, payload, _ in one.messaging.take()] == [[1, 2]]
    one.stop()
    assert one.clock.getDelayedCalls() == []
    assert len(one.messaging.cancelled) == 3


def test_a_save_that_fails_is_logged_and_tried_again(rig, logged_errors):
    """A bad disk delays the mesh; nothing is sent meanwhile."""
    one = rig()
    one.saves.pop()[1].errback(OSError("disk"))
    assert len(logged_errors.flush(OSError)) == 1
    one.clock.advance(1)
    assert [str(epoch) for epoch, _ in one.saves] == ["1.1"]
    one.saves.pop()[1].errback(OSError("disk"))
    assert logged_errors.flush(OSError) == []
    one.clock.advance(1)
    assert one.messaging.asks == []


@pytest.mark.contract("MESH-2", "MESH-4")
def test_mesh_create_answers(rig):
    """[accepted, the greatest epoch known, why]; each kind of offer."""
    one = rig(me=N2)
    assert one.create(roster(2, 1)) == [True, "2.1", ""]
    assert one.create(roster(2, 1)) == [True, "2.1", ""]
    accepted, epoch, reason = one.create(roster(1, 9))
    assert (accepted, epoch) == (False, "2.1")
    assert reason.startswith("epoch-low: ")
    accepted, epoch, reason = one.create(roster(2, 1, MEMBERS[:2]))
    assert (accepted, epoch) == (False, "2.1")
    assert reason.startswith("epoch-conflict: ")
    assert one.counters.total("mesh_epochs_total", outcome="adopted") == 1
    assert one.counters.total("mesh_epochs_total", outcome="refused") == 2


@pytest.mark.contract("MESH-6")
@pytest.mark.parametrize(
    "payload", [None, 1, [], [1, 1], [0, 0, []], [1, 1, [[]]], [1, 1, "x", 4], {}]
)
def test_rubbish_in_mesh_create_is_answered(rig, payload):
    """A refusal that says so; the node goes on."""
    one = rig(me=N2)
    accepted, epoch, reason = one.messaging.verbs["mesh.create"](SimpleNamespace(payload=payload))
    assert (accepted, epoch) == (False, "0.0")
    assert reason.startswith("malformed: ")
    assert one.create(roster())[0]


@pytest.mark.contract("MESH-9")
def test_adopting_moves_the_links_after_telling_observers(rig):
    """Observers hear of the epoch first, so that nothing is sent under it by the old rules."""
    one = rig(me=N2)
    seen = []
    one.data.add_observer(lambda event: seen.append((type(event), list(one.links.calls))))
    one.create(roster())
    assert seen[0] == (Adopted, [])
    assert one.links.calls == [
        ("epoch", "1.1", 3),
        ("keep", N1.address.port, LinkClass.DATA, N1.node_id),
    ]


def test_links_drive_the_state(rig):
    """Up, agreed, down: forming, formed, degraded; other notices are of no concern."""
    one = rig(me=N2)
    one.create(roster())
    ears = one.links.observer
    first, third = FakeLink(N1, Epoch(1, 1)), FakeLink(N3, Epoch(1, 1), agreed=False)
    ears.link_up(first)
    ears.link_up(third)
    assert one.data.core.state is MeshState.FORMING
    third.agreed = True
    ears.link_epoch(third)
    ears.received(third, object())
    ears.dropped(third, object(), "stale-epoch")
    ears.refused("peer", "version", "text")
    assert one.data.core.state is MeshState.FORMED
    ears.link_down(first, "lost", "text")
    assert [event.state for event in one.events if isinstance(event, Became)] == [
        MeshState.FORMING,
        MeshState.FORMED,
        MeshState.DEGRADED,
    ]
    assert one.mesh.status() == {
        "epoch": "1.1",
        "state": "degraded",
        "roster": ["n1", "n2", "n3"],
        "links": [
            {"peer": "n1", "state": "dialing", "epoch": None, "owner_shard": 0, "rtt_ms": None},
            {"peer": "n3", "state": "up", "epoch": "1.1", "owner_shard": 0, "rtt_ms": 1.5},
        ],
    }
    assert one.messaging.verbs["mesh.status"](None) == one.mesh.status()


@pytest.mark.contract("MESH-3")
def test_an_epoch_seen_in_a_handshake(rig):
    """Published as 0.0, dials end, and a controller mints above it."""
    one = rig()
    one.saved()
    one.links.observer.epoch_seen(Epoch(4, 2))
    assert Superseded(Epoch(1, 1), Epoch(4, 2)) in one.events
    assert one.members.published == ["0.0", "1.1", "0.0"]
    assert one.mesh.status()["state"] == "waiting"
    one.clock.advance(0.5)
    assert [str(epoch) for epoch, _ in one.saves] == ["5.1"]
    one.saved()
    assert one.data.core.epoch.epoch == Epoch(5, 1)


@pytest.mark.contract("MESH-3", "MESH-5")
def test_a_void_attempt_is_not_dialed_for(rig):
    """The dial that had not led to a link is forgotten at once."""
    one = rig(me=N2)
    one.create(roster())
    one.links.calls.clear()
    one.links.observer.epoch_seen(Epoch(2, 1))
    assert one.links.calls == [("forget", N1.address.port, LinkClass.DATA)]


def test_the_bus_carries_the_mesh_and_a_full_one_delays_it(rig):
    """Siblings get it; when an outbox is full they get everything a moment later."""
    one = rig(me=N1)
    one.bus.observer.shard_up(ShardId(1), 1)
    one.bus.answer = Sent.FULL
    one.saved()
    assert Mesh in {type(message) for _, message in one.bus.sent}
    one.bus.answer = Sent.ACCEPTED
    one.bus.sent.clear()
    one.clock.advance(0.1)
    assert [type(message) for _, message in one.bus.sent][:1] == [Mesh]
    one.bus.sent.clear()
    one.bus.observer.received(ShardId(1), 1, object())
    one.bus.observer.shard_down(ShardId(1), 1)
    one.clock.advance(1)
    assert one.bus.sent == []


def test_a_dispute_between_siblings_is_counted(rig):
    """A rubbish mesh of a sibling is logged and counted, nothing else."""
    one = rig(me=N2)
    one.bus.observer.received(ShardId(1), 1, Mesh(1, 1, ("x",)))
    assert one.counters.total("mesh_epochs_total", outcome="disputed") == 1


def test_a_broken_observer_stops_nothing(rig, logged_errors):
    """Its failure is logged; the mesh forms."""
    one = rig(me=N2)

    def broken(event):
        raise RuntimeError("observer")

    one.data.add_observer(broken)
    one.create(roster())
    assert len(logged_errors.flush(RuntimeError)) == 2
    assert one.links.calls[0] == ("epoch", "1.1", 3)


def test_a_member_behind_in_gossip_is_asked_again(rig):
    """What gossip shows of members' epochs reaches the controller."""
    one = rig()
    one.saved()
    for _, _, answer in one.messaging.take():
        answer.callback([True, "1.1", ""])
    one.members.shown = {N2.node_id: NO_EPOCH, N3.node_id: Epoch(1, 1)}
    one.mesh.members_changed()
    one.clock.advance(3)
    assert [target.node for target, _, _ in one.messaging.take()] == [N2.node_id]


@pytest.mark.contract("MESH-11")
def test_form_by_hand(rig):
    """Fires with the roster when every member accepted."""
    one = rig(me=N2, names=())
    assert one.saves == []
    waiter = one.mesh.form(Epoch(3, 1))
    results = []
    waiter.addBoth(results.append)
    one.saved()
    for _, _, answer in one.messaging.take():
        assert results == []
        answer.callback([True, "3.1", ""])
    assert results == [roster(3, 1)]
    again = []
    one.mesh.form(Epoch(3, 1)).addBoth(again.append)
    assert again == results


def test_form_by_hand_refuses_and_gives_up_by_name(rig):
    """An epoch in use fails at once; a silent member is named after 10 s, and asked on."""
    one = rig(me=N2, names=())
    failures = []
    waiter = one.mesh.form(Epoch(3, 1))
    waiter.addErrback(failures.append)
    one.mesh.form(Epoch(1, 1)).addErrback(failures.append)
    assert failures.pop().check(EpochUsed)
    one.saved()
    one.messaging.take()[0][2].callback([True, "3.1", ""])
    one.clock.advance(FORM_S)
    assert failures[0].check(TimedOut)
    assert "n3" in failures[0].getErrorMessage()
    assert "n1" not in failures.pop().getErrorMessage()


@pytest.mark.contract("MESH-5")
def test_form_by_hand_superseded(rig):
    """A greater epoch ends the wait with EpochSuperseded; stopping cancels it."""
    one = rig(me=N2, names=())
    failures = []
    one.mesh.form(Epoch(3, 1)).addErrback(failures.append)
    one.mesh.form(Epoch(3, 2)).addErrback(failures.append)
    assert failures.pop().check(EpochSuperseded)
    one.create(roster(9, 1))
    assert failures.pop().check(EpochSuperseded)
    one.mesh.form(Epoch(10, 1)).addErrback(failures.append)
    one.stop()
    assert failures.pop().check(CancelledError)


def test_waiters_are_bounded(rig):
    """Too many who wait for one mesh: Overloaded."""
    one = rig(me=N2, names=())
    failures = []
    for _ in range(MAX_WAITERS + 1):
        one.mesh.form(Epoch(3, 1)).addErrback(failures.append)
    assert [failure.check(Overloaded) for failure in failures] == [Overloaded]
    one.stop()
    assert len(failures) == MAX_WAITERS + 1


def test_answers_that_come_at_once_do_not_recurse(rig):
    """A persist and asks that fire synchronously form the mesh within one call."""
    one = rig(me=N2, names=())
    one.persist = None
    one.mesh._persist = lambda epoch: succeed(None)
    one.messaging.reply = lambda: succeed([True, "3.1", ""])
    results = []
    one.mesh.form(Epoch(3, 1)).addBoth(results.append)
    assert results == [roster(3, 1)]


def test_late_news_after_the_stop_changes_nothing(rig):
    """Links, bus, membership and a save that ends late are not heard any more."""
    one = rig()
    one.stop()
    one.links.observer.epoch_seen(Epoch(9, 9))
    one.bus.observer.shard_up(ShardId(1), 1)
    one.mesh.members_changed()
    one.saved()
    assert one.links.calls == []
    assert one.bus.sent == []
    assert one.messaging.asks == []
    assert one.clock.getDelayedCalls() == []

"""The epoch of a node, and the controller that mints epochs, against models of MESH-2 to 4."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from rules import bounded

from meshsvc.errors import LocalError
from meshsvc.mesh.controller import PersistEpoch, SendCreateMesh, StaticController
from meshsvc.mesh.epoch import Adopted, Answer, Became, NodeEpoch, Sighted, Superseded
from meshsvc.model import NO_EPOCH, Address, Epoch, Incarnation, NodeId, NodeInfo, Roster


def member(number, life=1):
    address = Address("10.0.0.1", 7000 + number)
    return NodeInfo(NodeId(f"{number:032x}"), f"n{number}", Incarnation(life), address, 1)


ME = member(2)
ROSTERS = [
    (member(1), ME, member(3)),
    (member(1), ME),
    (ME, member(1)),
    (ME,),
    (member(1), member(3)),
    (member(1), member(2, life=2)),
    (member(1, life=2), ME, member(3)),
]
EPOCHS = st.builds(Epoch, st.integers(0, 4), st.integers(0, 3))


class NodeRules(RuleBasedStateMachine):
    """One node is offered rosters, shown epochs, and told of its links, in any order."""

    def __init__(self):
        super().__init__()
        self.real = NodeEpoch(ME.node_id, ME.incarnation)
        self.epoch, self.members = NO_EPOCH, None
        self.seen = NO_EPOCH
        self.state = "waiting"

    def _events(self, *expected):
        events = self.real.take_events()
        assert [type(event) for event in events] == [*expected]
        return events

    def _answer(self, epoch, members):
        """(accepted, adopted) as the contract has it."""
        greatest = max(self.epoch, self.seen)
        if not epoch.minted or epoch < greatest or ME not in members:
            return False, False
        if epoch == self.epoch:
            return members == self.members, False
        return True, True

    @rule(epoch=EPOCHS, members=st.sampled_from(ROSTERS))
    def offer(self, epoch, members):
        accepted, adopted = self._answer(epoch, members)
        conflict = (
            epoch.minted and epoch == self.epoch >= self.seen and not accepted and ME in members
        )
        answer = self.real.offer(Roster(epoch, members))
        assert answer.accepted is accepted
        assert bool(answer.reason) is not accepted
        assert answer.conflict is conflict
        if not adopted:
            self._events()
        else:
            event = self._events(Adopted, Became)[0]
            assert event == Adopted(Roster(epoch, members), self.epoch)
            self.epoch, self.members, self.state = epoch, members, "forming"
        assert answer.epoch == max(self.epoch, self.seen), "the answer names the greatest known"

    @precondition(lambda self: self.members is not None)
    @rule()
    def repeat(self):
        self.offer(self.epoch, self.members)

    @rule(epoch=EPOCHS)
    def shown(self, epoch):
        news = epoch.minted and epoch > max(self.epoch, self.seen)
        voids = news and self.state != "waiting"
        assert self.real.sighted(epoch) is news
        events = self._events(*([Sighted] * news + [Superseded, Became] * voids))
        if voids:
            assert (events[1].mine, events[1].theirs) == (self.epoch, epoch)
            text = str(events[1].error())
            assert str(self.epoch) in text
            assert str(epoch) in text
        if news:
            self.seen, self.state = epoch, "waiting"

    @rule(complete=st.booleans())
    def links(self, complete):
        self.real.links(complete)
        after = self.state
        if self.state in ("forming", "degraded") and complete:
            after = "formed"
        elif self.state == "formed" and not complete:
            after = "degraded"
        self._events(*([Became] if after != self.state else []))
        self.state = after

    @invariant()
    def agrees(self):
        assert self.real.epoch == self.epoch
        assert self.real.greatest == max(self.epoch, self.seen)
        assert self.real.in_force == (NO_EPOCH if self.seen > self.epoch else self.epoch)
        assert self.real.state.value == self.state


NAMES = ("n1", "n2", "n3")
OTHERS = [member(2), member(2, life=2), member(3), member(4)]


class ControllerRules(RuleBasedStateMachine):
    """A controller whose saves fail, whose process dies, and whom members answer as they like.

    ``disk`` is what is durable; ``sent`` is every epoch that ever left, of whatever life.
    """

    @initialize(
        automatic=st.booleans(),
        trouble=st.sampled_from(["answers", "answers", "others", "crashes", "all"]),
    )
    def make(self, automatic, trouble):
        self.trouble = trouble
        self.names = NAMES if automatic else ()
        self.now, self.life, self.disk = 10.0, 1, NO_EPOCH
        self.sent: dict[Epoch, tuple[NodeInfo, ...]] = {}
        self.last = NO_EPOCH
        self.held: dict[NodeId, Epoch] = {}
        self.view: tuple[NodeInfo, ...] = ()
        self._boot()

    def _boot(self):
        self.real = StaticController(member(1, self.life), self.names, self.disk)
        self.saving: Epoch | None = None
        self.flying: list[tuple[NodeId, Roster]] = []
        self.real.members_changed(self.view, self.now)
        self.real.start(self.now)
        self._carry_out()

    def _carry_out(self):
        for event in self.real.take_events():
            if isinstance(event, PersistEpoch):
                assert self.saving is None, "one save at a time"
                self.saving = event.epoch
            elif isinstance(event, SendCreateMesh):
                self._sent(event.roster)
                self.flying.append((event.node_id, event.roster))

    def _sent(self, roster):
        assert roster.epoch.minted
        assert roster.epoch <= self.disk, "an epoch left before it was durable"
        if roster.epoch in self.sent:
            assert self.sent[roster.epoch] == roster.members, "one epoch, two rosters"
            assert roster.epoch == self.last, "an older epoch was sent again"
        else:
            assert roster.epoch > self.last, "epochs only rise"
        self.sent[roster.epoch] = roster.members
        self.last = roster.epoch

    @rule(chosen=st.sets(st.sampled_from(OTHERS), max_size=3))
    def members_change(self, chosen):
        self.view = tuple(node for node in OTHERS if node in chosen)
        self.real.members_changed(self.view, self.now)
        self._carry_out()

    @rule(seconds=st.sampled_from([0.0, 0.125, 0.5, 1.0, 6.0]))
    def time_passes(self, seconds):
        self.now += seconds
        self.real.tick(self.now)
        self._carry_out()

    @precondition(lambda self: self.saving is not None)
    @rule(well=st.booleans())
    def save_ends(self, well):
        epoch, self.saving = self.saving, None
        if well:
            assert epoch >= self.disk, "a lower epoch was saved over a higher one"
            self.disk = epoch
            self.real.persisted(epoch, self.now)
        else:
            self.real.persist_failed(epoch, self.now)
        self._carry_out()

    @rule(how=st.sampled_from(["honest", "nothing"]))
    def all_answer(self, how):
        if self.saving is not None:
            self.save_ends(True)
        while self.flying:
            self._answer(*self.flying.pop(), how)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), how=st.sampled_from(["honest", "nothing", "above"]))
    def answer_comes(self, data, how):
        index = data.draw(st.integers(0, len(self.flying) - 1))
        self._answer(*self.flying.pop(index), how)

    def _answer(self, node, roster, how):
        epoch, now = roster.epoch, self.now
        if how == "nothing":
            self.real.unanswered(node, epoch, now)
        else:
            held = self.held.get(node, NO_EPOCH)
            if how == "above":
                held = self.held[node] = Epoch(max(held, self.last).term + 1, 1)
            well = epoch >= held
            self.held[node] = max(held, epoch)
            answer = Answer(well, self.held[node], "" if well else "epoch-low: it is")
            self.real.answered(node, epoch, answer, now)
        self._carry_out()

    @precondition(lambda self: self.trouble in ("others", "all"))
    @rule(term=st.integers(1, 6), attempt=st.integers(1, 3))
    def epoch_seen(self, term, attempt):
        """Of another controller, in a handshake or in gossip."""
        epoch = Epoch(term, attempt)
        if epoch not in self.sent:
            self.real.epoch_seen(epoch, self.now)
            self._carry_out()

    @precondition(lambda self: self.trouble in ("others", "all"))
    @rule()
    def another_mints(self):
        """This node is listed, by a controller elsewhere, in a roster like its own would be."""
        known = [self.last, self.disk, *self.held.values(), NO_EPOCH]
        epoch = Epoch(max(known).term + 10, 1)
        members = (member(1, self.life), *self.view)
        self.real.adopted(Roster(epoch, members), self.now)
        self._carry_out()

    @rule(term=st.integers(0, 80))
    def form_by_hand(self, term):
        epoch = Epoch(term, 7)
        known = self.real.mesh
        try:
            roster = self.real.form(epoch, self.now)
        except LocalError:
            assert self.real.mesh == known, "what was refused changed something"
        else:
            assert roster.epoch == epoch
        self._carry_out()

    @precondition(lambda self: self.trouble in ("crashes", "all"))
    @rule(saved=st.booleans())
    def crash(self, saved):
        """The save under way may have reached the disk, or not."""
        if self.saving is not None and saved:
            self.disk = max(self.disk, self.saving)
        self.life += 1
        self._boot()

    def teardown(self):
        """Nothing fails any more: what is wanted is delivered."""
        if not hasattr(self, "real"):
            return
        self.time_passes(6.0)
        self._rest()
        if not self.names:
            self.form_by_hand(max(max(self.held.values(), default=NO_EPOCH).term, 90) + 1000)
            self._rest()
        alive = {member(1, self.life), *_latest(self.view)}
        mesh = self.real.mesh
        assert mesh is not None, "nothing was formed"
        assert set(mesh.members) == alive, "the roster is not of those alive"
        assert self.real.delivered, "not everybody was told"

    def _rest(self):
        for _ in range(400):
            if self.saving is not None:
                self.save_ends(True)
            elif self.flying:
                self._answer(*self.flying.pop(), "honest")
            else:
                at = self.real.deadline()
                if at is None:
                    return
                self.now = max(self.now, at)
                self.time_passes(0.0)
        raise AssertionError("the controller does not come to rest")


def _latest(view):
    lives = {}
    for node in sorted(view, key=lambda node: node.incarnation):
        lives[node.node_id] = node
    return lives.values()


@pytest.mark.contract("MESH-3", "MESH-4")
def test_a_node_moves_up_only():
    """Offers, sightings and links change the epoch of a node as the model says."""
    run_state_machine_as_test(NodeRules, settings=bounded(100))


@pytest.mark.contract("MESH-2")
def test_epochs_that_leave_only_rise_across_crashes():
    """Whatever fails or dies: no epoch twice with two rosters, none unsaved, none lower."""
    run_state_machine_as_test(ControllerRules, settings=bounded(250))

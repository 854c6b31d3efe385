"""The static controller: when it mints, what it saves first, and to whom it sends."""

from __future__ import annotations

import random

import pytest
from mesh_net import node_info, nodes
from zope.interface.verify import verifyObject

from meshsvc.errors import EpochConflict
from meshsvc.interfaces import IMeshController
from meshsvc.mesh.controller import (
    Abandoned,
    Delivered,
    EpochUsed,
    MemberRefused,
    PersistEpoch,
    SendCreateMesh,
    StaticController,
)
from meshsvc.mesh.epoch import Answer
from meshsvc.model import NO_EPOCH, Epoch, Roster

NAMES = ("n1", "n2", "n3")
VIEW = nodes(3)
ME = VIEW[0]


def controller(names=NAMES, stored=NO_EPOCH, me=ME):
    return StaticController(me, names, stored)


def drive(core, now, until=None):
    """Tick at each deadline up to ``until``, answering every save; returns the events."""
    events = []
    while True:
        fresh = core.take_events()
        events += fresh
        for event in fresh:
            if isinstance(event, PersistEpoch):
                core.persisted(event.epoch, now)
        at = core.deadline()
        if fresh or (at is not None and at <= now):
            core.tick(now)
        elif at is not None and until is not None and at <= until:
            now = at
        else:
            return events


def formed(core=None, now=0.0, view=VIEW):
    """A controller whose first mesh every member accepted."""
    core = core or controller()
    core.start(now)
    core.members_changed(view, now)
    drive(core, now)
    accept(core, now)
    return core


def accept(core, now):
    epoch = core.mesh.epoch
    for member in core.mesh.members:
        core.answered(member.node_id, epoch, Answer(True, epoch, ""), now)
    return core.take_events()


def saves(events):
    return [event.epoch for event in events if isinstance(event, PersistEpoch)]


def sent(events):
    return [event for event in events if isinstance(event, SendCreateMesh)]


def test_it_provides_the_interface():
    """IMeshController, as zope checks it."""
    assert verifyObject(IMeshController, controller())


@pytest.mark.contract("MESH-11")
def test_the_epoch_is_durable_before_it_is_sent():
    """No CreateMesh leaves until the save is answered; then one goes to each member."""
    core = controller(stored=Epoch(4, 9))
    core.start(0.0)
    core.members_changed(VIEW, 0.0)
    core.tick(0.0)
    assert core.take_events() == [PersistEpoch(Epoch(5, 1))]
    core.tick(60.0)
    assert core.take_events() == []
    core.persisted(Epoch(5, 1), 60.0)
    roster = Roster(Epoch(5, 1), VIEW)
    assert core.take_events() == [SendCreateMesh(node.node_id, roster) for node in VIEW]


def test_a_save_that_fails_is_tried_again():
    """After a second, with nothing sent meanwhile; a stale answer does not count."""
    core = controller()
    core.start(0.0)
    core.members_changed(VIEW, 0.0)
    core.tick(0.0)
    core.take_events()
    core.persist_failed(Epoch(1, 1), 0.5)
    core.persisted(Epoch(9, 9), 0.6)
    assert core.deadline() == 1.5
    core.tick(1.5)
    assert core.take_events() == [PersistEpoch(Epoch(1, 1))]


@pytest.mark.contract("MESH-11")
def test_a_failed_save_that_was_superseded_does_not_block_the_next():
    """A mesh formed by hand, its save failed and a greater epoch seen: the next is saved."""
    core = controller(names=())
    core.start(0.0)
    core.form(Epoch(5, 1), 0.0)
    core.persist_failed(Epoch(5, 1), 0.0)
    core.epoch_seen(Epoch(6, 1), 0.5)
    core.tick(1.0)
    core.take_events()
    core.form(Epoch(7, 1), 2.0)
    assert saves(core.take_events()) == [Epoch(7, 1)]


@pytest.mark.contract("MESH-11")
def test_only_the_first_configured_node_acts_by_itself():
    """Second in the list, or with an empty list: nothing happens without a hand."""
    for core in (controller(("n2", "n1")), controller(())):
        core.start(0.0)
        core.members_changed(VIEW, 0.0)
        assert core.deadline() is None
        assert core.take_events() == []


def test_the_first_mesh_waits_for_configured_nodes_but_not_for_ever():
    """At once when all are alive, else 5 s after the start with those that are."""
    core = controller()
    core.start(100.0)
    core.members_changed(VIEW[:2], 101.0)
    assert core.deadline() == 105.0
    core.members_changed(VIEW, 102.0)
    assert core.deadline() == 102.0
    core.members_changed(VIEW[:2], 102.0)
    other = controller()
    other.start(100.0)
    other.members_changed(VIEW[:2], 101.0)
    (first, *_) = sent(drive(other, 101.0, 105.0))
    assert first.roster.members == VIEW[:2]


def test_the_roster_is_in_configured_order_and_holds_me():
    """Names of the config first; this node is a member even if its view forgot it."""
    core = controller(("n1", "n3"))
    stranger = node_info(2)
    formed(core, view=(stranger, node_info(3)))
    assert [node.name for node in core.mesh.members] == ["n1", "n3", "n2"]


@pytest.mark.contract("MESH-8")
@pytest.mark.parametrize("view", [(*VIEW[:2], node_info(3, 2)), VIEW[:2], (*VIEW, node_info(4))])
def test_restart_death_and_arrival_cause_a_new_epoch(view):
    """Within the form delay the next attempt goes to exactly the nodes now alive."""
    core = formed()
    core.members_changed(view, 50.0)
    events = drive(core, 50.0, 50.5)
    assert saves(events) == [Epoch(1, 2)]
    assert {event.node_id for event in sent(events)} == {node.node_id for node in view}
    assert sent(events)[0].roster.members == view


@pytest.mark.contract("MESH-8")
def test_a_lost_link_is_no_reason_for_an_epoch():
    """The same view again, in any order, mints nothing."""
    core = formed()
    core.members_changed(VIEW[::-1], 50.0)
    assert core.deadline() is None
    assert drive(core, 50.0, 99.0) == []


def test_a_flap_within_the_delay_costs_nothing_and_a_longer_one_is_bounded():
    """A node that restarts all the time costs at most one epoch each half second."""
    core = formed()
    core.members_changed(VIEW[:2], 50.0)
    core.members_changed(VIEW, 50.4)
    assert drive(core, 50.4, 60.0) == []
    events, now = [], 60.0
    while now < 70.0:
        core.members_changed((*VIEW[:2], node_info(3, int(now * 100))), now)
        events += drive(core, now, now + 0.06)
        now += 0.07
    assert 10 <= len(saves(events)) <= 21


def test_a_window_that_runs_is_not_made_longer():
    """Ever new changes do not postpone the next epoch."""
    core = formed()
    for step in range(6):
        view = (*VIEW[:2], *(node_info(4 + n) for n in range(step)))
        core.members_changed(view, 50.0 + step * 0.1)
    assert core.deadline() == 50.5


@pytest.mark.contract("MESH-2")
def test_an_unanswered_member_is_asked_again_until_superseded():
    """Repeats are verbatim; the next epoch abandons them."""
    core = formed()
    core.members_changed(VIEW[:2], 50.0)
    events = drive(core, 50.0, 50.5)
    roster = core.mesh
    assert Abandoned(Epoch(1, 1), Epoch(1, 2)) in events
    core.unanswered(VIEW[1].node_id, roster.epoch, 52.5)
    assert drive(core, 52.5, 52.7) == [SendCreateMesh(VIEW[1].node_id, roster)]
    core.members_changed(VIEW, 53.0)
    assert Abandoned(Epoch(1, 2), Epoch(1, 3)) in drive(core, 53.0, 53.5)
    core.unanswered(VIEW[1].node_id, roster.epoch, 54.5)
    assert core.deadline() is None


def test_delivered_when_all_have_accepted():
    """One event, when the last member accepted; until then it is known who has not."""
    core = controller()
    core.start(0.0)
    core.members_changed(VIEW, 0.0)
    core.tick(0.0)
    assert not core.delivered
    assert core.unacknowledged == VIEW
    core.take_events()
    core.persisted(Epoch(1, 1), 0.0)
    core.answered(ME.node_id, Epoch(1, 1), Answer(True, Epoch(1, 1), ""), 0.0)
    assert core.unacknowledged == VIEW[1:]
    core.take_events()
    assert accept(core, 0.1) == [Delivered(core.mesh)]
    assert core.delivered


@pytest.mark.contract("MESH-2", "MESH-3")
def test_a_refusal_that_shows_a_greater_epoch_makes_it_mint_above():
    """The counter jumps to the term above the one seen."""
    core = controller()
    core.start(0.0)
    core.members_changed(VIEW, 0.0)
    drive(core, 0.0)
    answer = Answer(False, Epoch(7, 3), "epoch-low: ...")
    core.answered(VIEW[1].node_id, Epoch(1, 1), answer, 1.0)
    events = drive(core, 1.0, 1.5)
    assert events[0] == MemberRefused(VIEW[1].node_id, Epoch(1, 1), answer)
    assert saves(events) == [Epoch(8, 1)]


@pytest.mark.parametrize("how", ["seen", "shown", "late answer", "adopted"])
def test_any_sign_of_a_greater_epoch_counts(how):
    """Handshakes, gossip, answers to former epochs, and what this node itself adopted."""
    core = formed()
    core.members_changed((*VIEW[:2], node_info(3, 2)), 5.0)
    drive(core, 5.0, 5.5)
    higher = Epoch(3, 3)
    match how:
        case "seen":
            core.epoch_seen(higher, 6.0)
        case "shown":
            core.epoch_shown(VIEW[2].node_id, higher, 6.0)
        case "late answer":
            core.answered(VIEW[1].node_id, Epoch(1, 1), Answer(False, higher, ""), 6.0)
        case "adopted":
            core.adopted(Roster(higher, VIEW[:2]), 6.0)
    assert saves(drive(core, 6.0, 6.5)) == [Epoch(4, 1)]


def test_absurd_epochs_do_not_move_the_counter():
    """An epoch no controller can have minted is ignored."""
    core = formed()
    core.epoch_seen(Epoch(2**63, 1), 5.0)
    core.epoch_seen(Epoch(9, 0), 5.0)
    assert core.deadline() is None


@pytest.mark.contract("MESH-4")
def test_a_conflict_makes_it_mint_anew_and_other_refusals_do_not():
    """A member with another roster at that epoch: next attempt. Else: asked again."""
    core = controller()
    core.start(0.0)
    core.members_changed(VIEW, 0.0)
    drive(core, 0.0)
    stale = Answer(False, Epoch(1, 1), "stale-incarnation: ...")
    core.answered(VIEW[1].node_id, Epoch(1, 1), stale, 1.0)
    assert saves(drive(core, 1.0, 3.0)) == []
    clash = Answer(False, Epoch(1, 1), "epoch-conflict: ...")
    core.answered(VIEW[1].node_id, Epoch(1, 1), clash, 3.0)
    assert saves(drive(core, 3.0, 3.5)) == [Epoch(1, 2)]


def test_a_member_that_is_behind_is_sent_the_mesh_again():
    """Gossip shows 0.0 for a node whose shard 0 was restarted."""
    core = formed()
    core.epoch_shown(VIEW[2].node_id, NO_EPOCH, 10.0)
    assert drive(core, 10.0, 13.0) == [SendCreateMesh(VIEW[2].node_id, core.mesh)]
    core.answered(VIEW[2].node_id, Epoch(1, 1), Answer(True, Epoch(1, 1), ""), 13.0)
    core.epoch_shown(VIEW[2].node_id, Epoch(1, 1), 13.5)
    assert drive(core, 13.5, 60.0) == []


def test_a_mesh_of_the_right_nodes_serves_whoever_minted_it():
    """It is saved and delivered like one of its own instead of being outbid."""
    core = formed()
    core.members_changed(VIEW[:2], 50.0)
    other = Roster(Epoch(6, 1), VIEW[:2])
    core.adopted(other, 50.1)
    events = drive(core, 50.1, 60.0)
    assert saves(events) == [Epoch(6, 1)]
    assert {event.roster for event in sent(events)} == {other}
    core.members_changed(VIEW, 70.0)
    assert saves(drive(core, 70.0, 70.5)) == [Epoch(7, 1)]


@pytest.mark.contract("MESH-11")
def test_forming_by_hand():
    """The nodes alive under the given epoch; what is used already is refused by name."""
    core = controller(())
    core.start(0.0)
    core.members_changed(VIEW, 0.0)
    roster = core.form(Epoch(3, 1), 1.0)
    assert roster == Roster(Epoch(3, 1), VIEW)
    assert [type(event) for event in drive(core, 1.0)] == [PersistEpoch, *[SendCreateMesh] * 3]
    assert core.form(Epoch(3, 1), 2.0) == roster
    with pytest.raises(EpochUsed, match=r"2\.9 is not above 3\.1: form with 3\.2"):
        core.form(Epoch(2, 9), 2.0)
    with pytest.raises(EpochUsed, match="term and attempt are 1 to"):
        core.form(NO_EPOCH, 2.0)
    core.members_changed(VIEW[:2], 3.0)
    with pytest.raises(EpochConflict):
        core.form(Epoch(3, 1), 3.0)
    assert core.deadline() is None


def test_a_hand_does_not_outbid():
    """A greater epoch ends what a hand began; nothing is minted in its place."""
    core = controller(())
    core.start(0.0)
    core.members_changed(VIEW, 0.0)
    core.form(Epoch(3, 1), 1.0)
    drive(core, 1.0)
    core.epoch_seen(Epoch(4, 1), 2.0)
    assert core.take_events() == [Abandoned(Epoch(3, 1), Epoch(4, 1))]
    assert core.deadline() is None
    assert core.mesh is None


def test_saves_never_overtake_each_other():
    """A mesh formed by hand while a save is in flight is saved after it, and only it is sent."""
    core = controller()
    core.start(0.0)
    core.members_changed(VIEW, 0.0)
    core.tick(0.0)
    assert saves(core.take_events()) == [Epoch(1, 1)]
    core.form(Epoch(5, 1), 0.1)
    assert saves(core.take_events()) == []
    core.persisted(Epoch(1, 1), 0.2)
    assert core.take_events() == [PersistEpoch(Epoch(5, 1))]
    core.persisted(Epoch(5, 1), 0.3)
    assert {event.roster.epoch for event in sent(core.take_events())} == {Epoch(5, 1)}


@pytest.mark.contract("MESH-2", "MESH-11")
@pytest.mark.parametrize("seed", range(30))
def test_epochs_rise_over_crashes_at_any_moment(seed):
    """Random inputs and crashes, saves that may be lost with it: no epoch has two rosters."""
    rng = random.Random(seed)
    disk, core, now, rosters, top = NO_EPOCH, controller(), 0.0, {}, NO_EPOCH
    core.start(now)
    for _ in range(300):
        now += rng.uniform(0.0, 0.4)
        act = rng.random()
        if act < 0.05:
            core = controller(stored=disk)
            core.start(now)
        elif act < 0.5:
            lives = [node_info(n, rng.randint(1, 3)) for n in (2, 3)]
            core.members_changed((ME, *rng.sample(lives, rng.randint(0, 2))), now)
        elif act < 0.6:
            core.epoch_seen(Epoch(rng.randint(1, 9), rng.randint(1, 3)), now)
        else:
            core.tick(now)
        for event in core.take_events():
            if isinstance(event, PersistEpoch) and rng.random() < 0.8:
                assert event.epoch >= disk
                disk = event.epoch
                core.persisted(event.epoch, now)
            elif isinstance(event, PersistEpoch):
                core.persist_failed(event.epoch, now)
        for event in sent(core.take_events()):
            assert event.roster.epoch <= disk
            assert rosters.setdefault(event.roster.epoch, event.roster) == event.roster
            assert event.roster.epoch >= top
            top = event.roster.epoch
    assert rosters

"""Bugs in epochs and in the controller that mints them."""

from __future__ import annotations

from planting import bug, swap

from meshsvc.mesh.controller import StaticController
from meshsvc.mesh.delivery import Delivery
from meshsvc.mesh.epoch import Answer, NodeEpoch
from meshsvc.model import NO_EPOCH
from meshsvc.storage.counter import EpochStore


@bug(scenario="two-controllers", section="MESH", rules="epoch")
def a_lower_epoch_is_accepted():
    """A roster of any epoch is adopted, whichever came last (MESH-2)."""

    def offer(self, roster):
        me = roster.get(self._me)
        if me is None or me.incarnation != self._incarnation:
            return Answer(False, self.greatest, "not-in-roster: no")
        if roster != self.roster:
            self._machine.adopt(roster)
        return Answer(True, self.epoch, "")

    with swap(NodeEpoch, "offer", offer):
        yield


@bug(scenario="two-controllers", section="MESH", rules="epoch")
def another_roster_of_the_same_epoch_is_accepted():
    """Of two that mint by mistake the last one is believed (MESH-4)."""

    def offer(self, roster):
        if roster.epoch != self.epoch:
            return right(self, roster)
        if roster != self.roster:
            self._machine.adopt(roster)
        return Answer(True, self.epoch, "")

    with swap(NodeEpoch, "offer", offer) as right:
        yield


@bug(scenario="mass-restart", section="MESH")
def the_controller_forgets_its_epoch_at_a_restart():
    """What was minted is not on the disk, so it is minted again (MESH-2)."""
    with swap(EpochStore, "load", lambda self: NO_EPOCH):
        yield


@bug(scenario="mass-restart", section="MESH")
def an_epoch_is_not_saved():
    """Nothing that is minted gets to the disk (MESH-2)."""
    with swap(EpochStore, "save", lambda self, epoch: None):
        yield


@bug(scenario="power-cuts", section="MESH", rules="controller")
def an_epoch_is_sent_before_it_is_durable():
    """The CreateMesh does not wait for the disk (MESH-2)."""

    def save(self):
        right(self)
        if self._saving is not None:
            self._saving = None
            self._delivery.start(self._mesh, self._minted_at)

    with swap(StaticController, "_save", save) as right:
        yield


@bug(scenario="quick-restart")
def a_restart_is_no_reason_for_a_new_epoch():
    """The controller compares ids and not lives (MESH-8)."""

    def same(self, roster):
        return {n.node_id for n in roster.members} == {n.node_id for n in self._wanted}

    with swap(StaticController, "_same", same):
        yield


# Of three nodes the third would carry it: a direct link that breaks is not enough.
@bug(scenario="torn-links", section="LIVENESS", rules="controller")
def a_create_mesh_that_failed_is_not_sent_again():
    """A lost wake-up: the failed send is never due again (MESH-8)."""

    def failed(self, node, now):
        right(self, node, now)
        if node in self._sends:
            self._sends[node].at = None

    with (
        swap(Delivery, "failed", failed) as right,
        swap(Delivery, "shown", lambda self, node, behind, now: None),
    ):
        yield

"""The static controller: one configured node mints the epochs, from a counter on its disk.

Rules kept here (pure; ``service.py`` does the asking and the saving):

* an epoch is durable (``PersistEpoch`` answered by ``persisted``) before any
  ``CreateMesh`` carries it, and each has one roster, so no two that differ share an epoch;
* a life of the controller starts at the stored term plus one, attempts count from one;
* an epoch seen anywhere that is greater than what was minted lifts the counter above it;
* nothing is minted without need: the nodes alive are compared with the roster in force
  after ``form_delay_s``, so that a node which flaps within it costs no epoch.

Why it is hard: what is wanted (the view), what is being saved, and what is being delivered
move independently. One save is in flight at a time, and what it answers is compared with
what is wanted by then; deliveries of anything older are abandoned by an explicit event.

The lease of an epoch, once there is one, is granted with each delivery and renewed from
here; leaving a node out then waits in ``_when`` until that node's lease has run out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zope.interface import implementer

from meshsvc.errors import EpochConflict, LocalError
from meshsvc.interfaces import IMeshController
from meshsvc.mesh.delivery import Delivery, resend_after
from meshsvc.mesh.epoch import Answer
from meshsvc.mesh.roster import MAX_TERM, Members, order, plausible
from meshsvc.model import Epoch, NodeId, NodeInfo, Roster

PERSIST_AGAIN_S = 1.0
"""Seconds until a save that failed is tried again: a disk error seldom heals sooner."""


class EpochUsed(LocalError):
    """An epoch given by hand is not above every epoch known."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the controller holds back, in seconds.

    ``form_delay_s`` coalesces changes of membership; ``patience_s`` bounds the wait for
    configured nodes before the first mesh of a life; ``resend`` maps the number of the
    failed attempt to the wait before the next.
    """

    form_delay_s: float = 0.5
    patience_s: float = 5.0
    resend: Callable[[int], float] = resend_after


@dataclass(frozen=True, slots=True)
class PersistEpoch:
    """Save this epoch durably, then call ``persisted`` (or ``persist_failed``)."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class SendCreateMesh:
    """Ask a member to adopt a roster, then call ``answered`` or ``unanswered``."""

    node_id: NodeId
    roster: Roster


@dataclass(frozen=True, slots=True)
class Delivered:
    """Every member of the roster accepted it."""

    roster: Roster


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Cancel every send of ``epoch``: ``by`` is greater."""

    epoch: Epoch
    by: Epoch


@dataclass(frozen=True, slots=True)
class MemberRefused:
    """A member refused a roster, for the log; what follows from it is decided already."""

    node_id: NodeId
    epoch: Epoch
    answer: Answer


ControllerEvent = PersistEpoch | SendCreateMesh | Delivered | Abandoned | MemberRefused


@implementer(IMeshController)
class StaticController:
    """Mints epochs by itself on the node whose name is first in ``names``.

    Elsewhere, and everywhere when ``names`` is empty, it only does what ``form`` asks.
    """

    name = "static"

    def __init__(
        self, me: NodeInfo, names: tuple[str, ...], stored: Epoch, timing: Timing | None = None
    ) -> None:
        """Build the controller of node ``me``.

        Args:
            me: this node as rosters are to list it.
            names: ``[mesh] roster``, in its order.
            stored: the last epoch saved on this node's disk, ``NO_EPOCH`` when none.
            timing: how long to hold back.
        """
        self.automatic = names[:1] == (me.name,)
        self._me = me
        self._names = names
        self._timing = timing or Timing()
        self._floor = stored
        self._last = Epoch(stored.term + 1, 0)
        self._mesh: Roster | None = None
        self._held: Roster | None = None
        self._spoiled = False
        self._saving: Epoch | None = None
        self._save_at: float | None = None
        self._due: float | None = None
        self._started_at: float | None = None
        self._minted_at = float("-inf")
        self._wanted: Members = (me,)
        self._delivery = Delivery(self._timing.resend)
        self._events: list[ControllerEvent] = []

    @property
    def mesh(self) -> Roster | None:
        """The roster this controller stands for, saved or about to be; None before."""
        return self._mesh

    @property
    def delivered(self) -> bool:
        """Whether every member accepted ``mesh``."""
        return self._mesh is not None and self._saving is None and not self._delivery.missing

    @property
    def unacknowledged(self) -> tuple[NodeInfo, ...]:
        """The members that have not accepted ``mesh`` yet."""
        if self._mesh is None:
            return ()
        missing = self._delivery.missing
        return tuple(node for node in self._mesh.members if self._saving or node.node_id in missing)

    # --- what happens to it --------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin: the first mesh forms when all configured nodes are alive, or after a while."""
        self._started_at = now
        self._reconsider(now)

    def members_changed(self, view: Members, now: float) -> None:
        """The nodes seen alive changed; this node counts as alive whatever the view says."""
        others = [node for node in view if node.node_id != self._me.node_id]
        self._wanted = order([self._me, *others], self._names)
        self._reconsider(now)

    def epoch_shown(self, node: NodeId, epoch: Epoch, now: float) -> None:
        """Gossip shows the epoch in force at a node (0.0 for none)."""
        if epoch > self._floor:
            self.epoch_seen(epoch, now)
        elif self._mesh and self._saving is None:
            self._delivery.shown(node, epoch < self._mesh.epoch, now)

    def epoch_seen(self, epoch: Epoch, now: float) -> None:
        """An epoch was seen somewhere: one above all known makes the counter jump over it."""
        if epoch <= self._floor or not plausible(epoch):
            return
        self._floor = epoch
        if not self.automatic:
            self._drop(epoch)
        self._reconsider(now)

    def adopted(self, roster: Roster, now: float) -> None:
        """This node adopted a roster, whoever minted it."""
        if self._mesh is None or roster.epoch > self._mesh.epoch:
            self._held = roster
            self.epoch_seen(roster.epoch, now)
            self._reconsider(now)

    def persisted(self, epoch: Epoch, now: float) -> None:
        """The epoch of the last ``PersistEpoch`` is durable."""
        if self._saving != epoch:
            return
        self._saving = None
        if self._mesh is None:
            return
        if self._mesh.epoch != epoch:
            self._save()
            return
        self._delivery.start(self._mesh, now)
        self._send(now)

    def persist_failed(self, epoch: Epoch, now: float) -> None:
        """The epoch of the last ``PersistEpoch`` could not be saved."""
        if self._saving == epoch:
            self._save_at = now + PERSIST_AGAIN_S

    def answered(self, node: NodeId, epoch: Epoch, answer: Answer, now: float) -> None:
        """A member answered the ``CreateMesh`` of ``epoch``."""
        if self._mesh is None or self._mesh.epoch != epoch:
            self.epoch_seen(answer.epoch, now)
            return
        if answer.accepted:
            if self._delivery.acked(node, now):
                self._events.append(Delivered(self._mesh))
            return
        self._delivery.failed(node, now)
        self._events.append(MemberRefused(node, epoch, answer))
        self._spoiled = self._spoiled or answer.conflict
        self.epoch_seen(answer.epoch, now)
        self._reconsider(now)

    def unanswered(self, node: NodeId, epoch: Epoch, now: float) -> None:
        """No answer to the ``CreateMesh`` of ``epoch`` came from a member in time."""
        if self._mesh and self._mesh.epoch == epoch:
            self._delivery.failed(node, now)

    def form(self, epoch: Epoch, now: float) -> Roster:
        """Form a mesh of the nodes now alive under an epoch given by hand.

        Raises:
            EpochUsed: when the epoch is not above every epoch known here.
            EpochConflict: when it is in force with another roster.
        """
        if not plausible(epoch):
            raise EpochUsed(f"{epoch} is not an epoch: term and attempt are 1 to {MAX_TERM}")
        if self._mesh and self._mesh.epoch == epoch:
            if self._mesh.members != self._wanted:
                raise EpochConflict(f"epoch {epoch} is in force with another roster, which stays")
            return self._mesh
        if epoch <= self._floor:
            above = Epoch(self._floor.term, self._floor.attempt + 1)
            raise EpochUsed(f"epoch {epoch} is not above {self._floor}: form with {above} or later")
        return self._establish(epoch, now)

    # --- time ----------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self._save_at is not None and self._save_at <= now:
            self._save()
        if self._due is not None and self._due <= now and self._saving is None:
            self._due = None
            if self._needed():
                self._establish(self._next(), now)
        self._send(now)

    def deadline(self) -> float | None:
        """When ``tick`` is next wanted."""
        due = self._due if self._saving is None else None
        times = (due, self._save_at, self._delivery.deadline())
        return min((at for at in times if at is not None), default=None)

    def take_events(self) -> list[ControllerEvent]:
        """The decisions since the last call, oldest first."""
        events, self._events = self._events, []
        return events

    # --- decisions -----------------------------------------------------------------------

    def _reconsider(self, now: float) -> None:
        """Plan, keep or drop the next epoch; a window that runs is never made longer."""
        self._accept_held()
        if self._started_at is None or not self.automatic or not self._needed():
            self._due = None
            return
        when = self._when(now)
        self._due = when if self._due is None else min(self._due, when)

    def _accept_held(self) -> None:
        """A mesh of just the wanted nodes serves as well when somebody else minted it.

        So a shard 0 that restarts does not disturb the mesh, and of two controllers that
        were configured by mistake none has a reason to outbid the other. Its epoch is saved
        and its roster delivered like one of ours: whoever minted it may be gone.
        """
        held = self._held
        if held is None or not self.automatic or held.epoch != self._floor or self._spoiled:
            return
        if self._mesh and held.epoch <= self._mesh.epoch:
            return
        if self._same(held):
            self._drop(held.epoch)
            self._mesh = held
            if self._saving is None:
                self._save()

    def _same(self, roster: Roster) -> bool:
        return frozenset(roster.members) == frozenset(self._wanted)

    def _needed(self) -> bool:
        mesh = self._mesh
        return mesh is None or self._spoiled or mesh.epoch < self._floor or not self._same(mesh)

    def _when(self, now: float) -> float:
        alive = {node.name for node in self._wanted}
        complete = all(name in alive for name in self._names)
        if self._mesh is None and self._started_at is not None:
            return now if complete else max(now, self._started_at + self._timing.patience_s)
        if complete and self._mesh and not self._same(self._mesh):
            # Nobody is left to wait for; the spacing bounds what a flapping node can cost.
            return max(now, self._minted_at + self._timing.form_delay_s)
        return now + self._timing.form_delay_s

    def _next(self) -> Epoch:
        if self._floor > self._last:
            return Epoch(self._floor.term + 1, 1)
        return Epoch(self._last.term, self._last.attempt + 1)

    def _establish(self, epoch: Epoch, now: float) -> Roster:
        self._drop(epoch)
        roster = self._mesh = Roster(epoch, self._wanted)
        self._floor = self._last = epoch
        self._minted_at = now
        self._spoiled = False
        self._due = None
        if self._saving is None:
            self._save()
        return roster

    def _save(self) -> None:
        self._save_at = None
        # None when what could not be saved was superseded meanwhile: nothing is being saved.
        self._saving = self._mesh.epoch if self._mesh else None
        if self._saving is not None:
            self._events.append(PersistEpoch(self._saving))

    def _drop(self, by: Epoch) -> None:
        """Whatever is under way is superseded."""
        if self._mesh:
            self._events.append(Abandoned(self._mesh.epoch, by))
        self._mesh = None
        self._delivery.clear()

    def _send(self, now: float) -> None:
        if self._mesh and self._saving is None:
            for node in self._delivery.due(now):
                self._events.append(SendCreateMesh(node, self._mesh))

"""The epoch one node holds: what becomes of each ``CreateMesh``, and of greater epochs seen.

Epochs are totally ordered, and a node only ever moves up:

* a greater epoch that lists this life of this node is adopted;
* a verbatim repeat is accepted and changes nothing;
* the same epoch with another roster is refused (``EpochConflict``), the mesh in place stays;
* an epoch below the greatest one known is refused with an answer that names that one, so
  that a controller which lost its counter can mint above it.

Why it is hard: a node may learn of a greater epoch from a peer's handshake before its own
``CreateMesh`` arrives. Its attempt is then void (``Superseded``): it must stop dialing for
it, must not go back to anything lower, and must not move on either, because only the
``CreateMesh`` carries the roster.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from automat import TypeMachineBuilder

from meshsvc.errors import EpochConflict, EpochSuperseded
from meshsvc.mesh.roster import plausible
from meshsvc.model import NO_EPOCH, Epoch, Incarnation, NodeId, Roster

CONFLICT = "epoch-conflict"


class MeshState(StrEnum):
    """How far the mesh of this node is.

    ``WAITING`` for a ``CreateMesh``; ``FORMING`` while links were never complete under the
    epoch; ``FORMED`` with every link up; ``DEGRADED`` when one of them was lost since.
    """

    WAITING = "waiting"
    FORMING = "forming"
    FORMED = "formed"
    DEGRADED = "degraded"


@dataclass(frozen=True, slots=True)
class Adopted:
    """This node now holds the epoch of ``roster``; it held ``previous`` before."""

    roster: Roster
    previous: Epoch


@dataclass(frozen=True, slots=True)
class Sighted:
    """A peer showed an epoch greater than every one known here."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Superseded:
    """The attempt at ``mine`` is void: ``theirs`` was seen and is greater."""

    mine: Epoch
    theirs: Epoch

    def error(self) -> EpochSuperseded:
        """The error that everything waiting for the attempt ends with."""
        return EpochSuperseded(self.mine, self.theirs)


@dataclass(frozen=True, slots=True)
class Became:
    """The state of the mesh changed."""

    state: MeshState


EpochEvent = Adopted | Sighted | Superseded | Became


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node says to a ``CreateMesh``.

    ``epoch`` is the greatest it knows (0.0 for none); ``reason`` is empty when accepted,
    else a token, a colon and a sentence.
    """

    accepted: bool
    epoch: Epoch
    reason: str

    @property
    def conflict(self) -> bool:
        """Whether the epoch was refused because it has another roster there."""
        return self.reason.startswith(CONFLICT)

    def to_wire(self) -> list[object]:
        """The answer as ``[accepted, epoch as text, reason]``."""
        return [self.accepted, str(self.epoch), self.reason]

    @classmethod
    def from_wire(cls, reply: object) -> Answer:
        """Read what ``to_wire`` made.

        Raises:
            ValueError: when it is something else.
        """
        match reply:
            case [bool() as accepted, str() as text, str() as reason]:
                epoch = NO_EPOCH if text == str(NO_EPOCH) else Epoch.parse(text)
                return cls(accepted, epoch, reason)
        raise ValueError(f"{reply!r} is no answer to a CreateMesh")


class _EpochInputs(Protocol):
    def adopt(self, roster: Roster) -> None:
        """A greater epoch that lists this node was offered."""

    def supersede(self, epoch: Epoch) -> None:
        """A peer showed an epoch greater than the adopted one."""

    def complete(self) -> None:
        """Every link of the roster is up at the adopted epoch."""

    def missing(self) -> None:
        """At least one link of the roster is not up at the adopted epoch."""

    def state(self) -> MeshState:
        """Asks for the state as people are shown it."""


@dataclass
class _Core:
    roster: Roster | None = None
    events: list[EpochEvent] = field(default_factory=list)


def _build() -> TypeMachineBuilder[_EpochInputs, _Core]:
    machine = TypeMachineBuilder(_EpochInputs, _Core)

    waiting = machine.state("waiting")
    forming = machine.state("forming")
    formed = machine.state("formed")
    degraded = machine.state("degraded")
    superseded = machine.state("superseded")

    # Without an epoch there is no attempt to void and no roster to have links of.
    waiting.upon(_EpochInputs.supersede).loop().returns(None)
    waiting.upon(_EpochInputs.complete).loop().returns(None)
    waiting.upon(_EpochInputs.missing).loop().returns(None)
    # Links are counted again after every event: the same count twice is no news.
    forming.upon(_EpochInputs.missing).loop().returns(None)
    formed.upon(_EpochInputs.complete).loop().returns(None)
    degraded.upon(_EpochInputs.missing).loop().returns(None)
    # Links of a void attempt do not matter, and it cannot be voided twice.
    superseded.upon(_EpochInputs.supersede).loop().returns(None)
    superseded.upon(_EpochInputs.complete).loop().returns(None)
    superseded.upon(_EpochInputs.missing).loop().returns(None)

    waiting.upon(_EpochInputs.state).loop().returns(MeshState.WAITING)
    forming.upon(_EpochInputs.state).loop().returns(MeshState.FORMING)
    formed.upon(_EpochInputs.state).loop().returns(MeshState.FORMED)
    degraded.upon(_EpochInputs.state).loop().returns(MeshState.DEGRADED)
    superseded.upon(_EpochInputs.state).loop().returns(MeshState.WAITING)

    def take_up(inputs: _EpochInputs, core: _Core, roster: Roster) -> None:
        previous = core.roster.epoch if core.roster else NO_EPOCH
        core.roster = roster
        core.events += [Adopted(roster, previous), Became(MeshState.FORMING)]

    def give_up(inputs: _EpochInputs, core: _Core, epoch: Epoch) -> None:
        mine = core.roster.epoch if core.roster else NO_EPOCH
        core.events += [Superseded(mine, epoch), Became(MeshState.WAITING)]

    def stand(inputs: _EpochInputs, core: _Core) -> None:
        core.events.append(Became(MeshState.FORMED))

    def falter(inputs: _EpochInputs, core: _Core) -> None:
        core.events.append(Became(MeshState.DEGRADED))

    for state in (waiting, forming, formed, degraded, superseded):
        state.upon(_EpochInputs.adopt).to(forming)(take_up)
    for state in (forming, formed, degraded):
        state.upon(_EpochInputs.supersede).to(superseded)(give_up)
    for state in (forming, degraded):
        state.upon(_EpochInputs.complete).to(formed)(stand)
    formed.upon(_EpochInputs.missing).to(degraded)(falter)
    return machine


EpochMachine = _build().build()


class NodeEpoch:
    """One node's epoch: judges offers, notes sightings, tells what changed.

    Every shard of a node keeps one; that of shard 0 hears from the controller first.
    """

    def __init__(self, me: NodeId, incarnation: Incarnation) -> None:
        self._me = me
        self._incarnation = incarnation
        self._core = _Core()
        self._machine = EpochMachine(self._core)
        self._seen = NO_EPOCH

    @property
    def state(self) -> MeshState:
        """How far the mesh is."""
        return self._machine.state()

    @property
    def roster(self) -> Roster | None:
        """The adopted roster, also when it is superseded by now; None before the first."""
        return self._core.roster

    @property
    def epoch(self) -> Epoch:
        """The adopted epoch, 0.0 before the first."""
        return self._core.roster.epoch if self._core.roster else NO_EPOCH

    @property
    def in_force(self) -> Epoch:
        """The adopted epoch while nothing greater is known, else 0.0."""
        return self.epoch if self._seen <= self.epoch else NO_EPOCH

    @property
    def greatest(self) -> Epoch:
        """The greatest epoch adopted or seen."""
        return max(self.epoch, self._seen)

    def offer(self, roster: Roster) -> Answer:
        """Judge a ``CreateMesh``; the answer goes back to who sent it."""
        refusal = self._refusal(roster)
        if refusal:
            return Answer(False, self.greatest, refusal)
        if roster.epoch > self.epoch:
            self._machine.adopt(roster)
        return Answer(True, self.epoch, "")

    def sighted(self, epoch: Epoch) -> bool:
        """Note an epoch that a peer showed; tell whether it is the greatest so far."""
        if epoch <= self.greatest or not plausible(epoch):
            return False
        self._seen = epoch
        self._core.events.append(Sighted(epoch))
        self._machine.supersede(epoch)
        return True

    def links(self, complete: bool) -> None:
        """Say whether every link of the roster is up at the adopted epoch."""
        if complete:
            self._machine.complete()
        else:
            self._machine.missing()

    def take_events(self) -> list[EpochEvent]:
        """What happened since the last call, oldest first."""
        events, self._core.events = self._core.events, []
        return events

    def _refusal(self, roster: Roster) -> str:
        epoch, me = roster.epoch, roster.get(self._me)
        if not plausible(epoch):
            return f"malformed: {epoch} is not an epoch a controller mints"
        if epoch < self.greatest:
            return f"epoch-low: {EpochSuperseded(epoch, self.greatest)}"
        if me is None:
            return f"not-in-roster: the roster of {epoch} does not list this node"
        if me.incarnation != self._incarnation:
            return (
                f"stale-incarnation: the roster of {epoch} lists life {me.incarnation} of this"
                f" node, which is in life {self._incarnation}"
            )
        if self.roster and epoch == self.epoch and roster != self.roster:
            return f"{CONFLICT}: {EpochConflict(f'{epoch} has another roster here, which stays')}"
        return ""

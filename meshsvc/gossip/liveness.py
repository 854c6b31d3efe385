"""The life of one endpoint, as one other node sees it.

Rules it keeps: alive only after an echo of our own (what others say can clear a suspect but
never prove a newcomer); dead only out of a suspicion, or out of a long wait for a first
echo; left and removed are final for that life; a later life begins anew, whatever was.

Outputs only append to ``Life.said``; the membership turns what is said into events and work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from automat import TypeMachineBuilder

from meshsvc.gossip.members import Status


class Said(Enum):
    """What a transition asks for."""

    PROBE = "probe"
    JOINED = "joined"
    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    RESTARTED = "restarted"
    LEFT = "left"
    REMOVED = "removed"


class Liveness(Protocol):
    """What happens to an endpoint."""

    def learned(self) -> None:
        """Something new of this life was heard, from the node or about it."""

    def echoed(self) -> None:
        """It answered an echo of our own."""

    def vouched(self) -> None:
        """It answered the echo of another node that we asked."""

    def probe_failed(self) -> None:
        """Neither our own echo nor those of the nodes we asked were answered."""

    def refuted(self) -> None:
        """It said, later than it was suspected, that it lives."""

    def expired(self) -> None:
        """The suspicion, or the wait for a first echo, ran out."""

    def restarted(self) -> None:
        """A later life of it is known."""

    def shut_down(self) -> None:
        """It said that it stops."""

    def removed(self) -> None:
        """It was taken out of the cluster."""


@dataclass(slots=True)
class Life:
    """``announced``: some life was told to subscribers; ``joined``: this one was."""

    status: Status = Status.JOINING
    announced: bool = False
    joined: bool = False
    said: list[Said] = field(default_factory=list)

    def become(self, status: Status, *said: Said) -> None:
        """Take a status on, and say what follows from it."""
        self.status = status
        self.said.extend(said)


def _build() -> Callable[[Life], Liveness]:
    builder = TypeMachineBuilder(Liveness, Life)
    unknown = builder.state("unknown")
    echoing = builder.state("echoing")
    alive = builder.state("alive")
    suspect = builder.state("suspect")
    dead = builder.state("dead")
    left = builder.state("left")
    removed = builder.state("removed")
    learned, echoed, vouched = Liveness.learned, Liveness.echoed, Liveness.vouched
    failed, refuted, expired = Liveness.probe_failed, Liveness.refuted, Liveness.expired

    # Nothing is probed or suspected before it is known.
    for early in (echoed, vouched, failed, refuted, expired):
        unknown.upon(early).loop().returns(None)
    # The first life that is known replaces none.
    unknown.upon(Liveness.restarted).loop().returns(None)
    # What others can reach still needs an echo of our own, which is tried again anyway.
    for other in (vouched, failed, refuted):
        echoing.upon(other).loop().returns(None)
        dead.upon(other).loop().returns(None)
    # As expected; a timer of a suspicion that was cleared meanwhile comes too late.
    for usual in (learned, echoed, vouched, refuted, expired):
        alive.upon(usual).loop().returns(None)
    # The suspicion runs; what ends it is an echo, a refutation or its time.
    suspect.upon(learned).loop().returns(None)
    suspect.upon(failed).loop().returns(None)
    dead.upon(expired).loop().returns(None)
    # A process that stops may answer a while longer: that does not bring it back.
    for late in (learned, echoed, vouched, failed, refuted, expired, Liveness.shut_down):
        left.upon(late).loop().returns(None)
    # Removal is for good, and for every life of the node.
    for ignored in (learned, echoed, vouched, failed, refuted, expired):
        removed.upon(ignored).loop().returns(None)
    for ignored in (Liveness.restarted, Liveness.shut_down, Liveness.removed):
        removed.upon(ignored).loop().returns(None)

    @unknown.upon(learned).to(echoing)
    @echoing.upon(learned).loop()
    def probe(machine: Liveness, life: Life) -> None:
        life.become(Status.JOINING, Said.PROBE)

    @dead.upon(learned).loop()
    def probe_again(machine: Liveness, life: Life) -> None:
        life.become(Status.DEAD, Said.PROBE)

    @echoing.upon(echoed).to(alive)
    @suspect.upon(echoed).to(alive)
    @suspect.upon(vouched).to(alive)
    @suspect.upon(refuted).to(alive)
    @dead.upon(echoed).to(alive)
    def welcome(machine: Liveness, life: Life) -> None:
        life.become(Status.ALIVE, Said.ALIVE if life.joined else Said.JOINED)
        life.joined = life.announced = True

    @alive.upon(failed).to(suspect)
    def doubt(machine: Liveness, life: Life) -> None:
        life.become(Status.SUSPECT, Said.SUSPECT)

    @suspect.upon(expired).to(dead)
    @echoing.upon(expired).to(dead)
    def convict(machine: Liveness, life: Life) -> None:
        life.become(Status.DEAD, Said.DEAD)

    @echoing.upon(Liveness.restarted).loop()
    @alive.upon(Liveness.restarted).to(echoing)
    @suspect.upon(Liveness.restarted).to(echoing)
    @dead.upon(Liveness.restarted).to(echoing)
    @left.upon(Liveness.restarted).to(echoing)
    def begin_anew(machine: Liveness, life: Life) -> None:
        life.joined = False
        life.become(Status.JOINING, Said.RESTARTED, Said.PROBE)

    @unknown.upon(Liveness.shut_down).to(left)
    @echoing.upon(Liveness.shut_down).to(left)
    @alive.upon(Liveness.shut_down).to(left)
    @suspect.upon(Liveness.shut_down).to(left)
    @dead.upon(Liveness.shut_down).to(left)
    def see_off(machine: Liveness, life: Life) -> None:
        life.become(Status.LEFT, Said.LEFT)

    @unknown.upon(Liveness.removed).to(removed)
    @echoing.upon(Liveness.removed).to(removed)
    @alive.upon(Liveness.removed).to(removed)
    @suspect.upon(Liveness.removed).to(removed)
    @dead.upon(Liveness.removed).to(removed)
    @left.upon(Liveness.removed).to(removed)
    def remove(machine: Liveness, life: Life) -> None:
        life.become(Status.REMOVED, Said.REMOVED)

    return builder.build()


LivenessMachine = _build()

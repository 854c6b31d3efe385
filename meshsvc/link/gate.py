"""Which envelopes a data link lets through: those of the one epoch both ends are at (MESH-9).

Each end announces every epoch it adopts, in its Hello or later in band. Envelopes flow while
the two last announcements are equal, and only those that carry that epoch. So a frame sent
under an older epoch is dropped from the moment either end's announcement of a newer one is
processed, however long it waited on the way. A control link has no epoch: both ends stay at
0.0, and so do the envelopes.
"""

from __future__ import annotations

from meshsvc.errors import WireError
from meshsvc.model import NO_EPOCH, Epoch
from meshsvc.wire.messages import Envelope


class EpochGate:
    """The two epochs of one link; ``agreed`` while they are equal.

    ``news`` tells whether the peer has yet to be told of this side's epoch. Both are kept, not
    worked out, because they are asked for with every frame.
    """

    __slots__ = ("_announced", "agreed", "mine", "news", "theirs")

    def __init__(self) -> None:
        self.mine = self.theirs = self._announced = NO_EPOCH
        self.agreed = True
        self.news = False

    def announce(self) -> Epoch:
        """This side's epoch, which the caller now tells the peer."""
        self._announced = self.mine
        self.news = False
        return self.mine

    @property
    def announced(self) -> Epoch:
        """The epoch the peer was told last."""
        return self._announced

    def adopt(self, epoch: Epoch) -> None:
        """This side is at this epoch from here on."""
        self.mine = epoch
        self.agreed = epoch == self.theirs
        self.news = epoch != self._announced

    def peer_is_at(self, epoch: Epoch) -> None:
        """The peer announced its epoch in band.

        Raises:
            WireError: when it is no minted epoch, or less than the one before.
        """
        if not epoch.minted or epoch < self.theirs:
            raise WireError(f"epoch {epoch} was announced after {self.theirs}")
        self.greeted(epoch)

    def greeted(self, epoch: Epoch) -> None:
        """The peer's Hello told its epoch."""
        self.theirs = epoch
        self.agreed = epoch == self.mine

    def objection(self, envelope: Envelope) -> str | None:
        """Why an envelope must not be delivered, or None."""
        mine = self.mine
        if self.agreed and envelope.term == mine.term and envelope.attempt == mine.attempt:
            return None
        ahead = (envelope.term, envelope.attempt) > (mine.term, mine.attempt)
        return "ahead" if ahead else "stale-epoch"

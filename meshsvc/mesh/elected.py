"""The elected controller: whoever leads the ``system`` Raft group mints the epochs.

What differs from the static one: it acts only between ``lead`` and ``follow``; "saved" means
that the group committed the epoch; and an epoch is (term of the group, attempt).

Why two leaders never mint one epoch for two rosters: an epoch is sent to members only after
``MintedMesh`` of the group accepted it, which takes one roster for each epoch, in rising order.
A leader that was deposed without knowing gets nothing committed, so it sends nothing.
"""

from __future__ import annotations

from zope.interface import implementer

from meshsvc.interfaces import IMeshController
from meshsvc.mesh.controller import StaticController, Timing
from meshsvc.model import NO_EPOCH, Epoch, NodeInfo, Roster

NO_ROSTER = Roster(NO_EPOCH, ())


@implementer(IMeshController)
class ElectedController(StaticController):
    """Mints epochs while this node leads the system group."""

    name = "raft"

    def __init__(self, me: NodeInfo, names: tuple[str, ...], timing: Timing | None = None) -> None:
        """Build the controller of node ``me``.

        Args:
            me: this node as rosters are to list it.
            names: ``[mesh] roster``: who is expected, and the order of rosters.
            timing: how long to hold back.
        """
        super().__init__(me, names, NO_EPOCH, timing)
        self.automatic = False
        self._term = 0

    def lead(self, term: int, minted: Epoch, now: float) -> None:
        """This node leads the group from now on.

        Args:
            term: of the group; no other node ever leads it in this term.
            minted: the greatest epoch that the group accepted, ``NO_EPOCH`` when none.
            now: seconds.
        """
        self.automatic, self._term = True, term
        self._floor = max(self._floor, minted)
        self._started_at = now
        self._reconsider(now)

    def follow(self, now: float) -> None:
        """This node leads no longer: what is under way is the next leader's affair."""
        if self.automatic:
            self.automatic = False
            self._drop(self._floor)
            self._reconsider(now)

    def _when(self, now: float) -> float:
        if self._mesh is None and self._held is not None:
            # A mesh is in force: what there is to wait for is the change, not the start.
            return now + self._timing.form_delay_s
        return super()._when(now)

    def _next(self) -> Epoch:
        top = max(self._floor, self._last)
        if top.term > self._term:  # from a time before this group, or set by hand
            return Epoch(top.term, top.attempt + 1)
        return Epoch(self._term, top.attempt + 1 if top.term == self._term else 1)


class MintedMesh:
    """What the system group replicates of the mesh: the last roster that it accepted.

    Every member applies the same commands in the same order, so all of them agree on
    whether a roster was accepted.
    """

    def __init__(self, last: Roster = NO_ROSTER) -> None:
        self.last = last

    def mint(self, roster: Roster) -> bool:
        """Take a roster under a new epoch; False when its epoch is not above the last one.

        The last one itself is taken again: by a leader that does not know whether the first
        time succeeded, or by the next one, which keeps the mesh as it is.
        """
        if roster.epoch > self.last.epoch:
            self.last = roster
        return roster == self.last

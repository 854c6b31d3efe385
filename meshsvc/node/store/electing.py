"""The mesh's controller as an office of the ``system`` group: its leader mints the epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, fail

from meshsvc.errors import LocalError
from meshsvc.mesh.elected import ElectedController
from meshsvc.model import Epoch
from meshsvc.node.store import system

if TYPE_CHECKING:
    from meshsvc.mesh.service import MeshService
    from meshsvc.node.store.service import StoreService

SAVE_S = 5.0
"""How long the group may take to commit an epoch: two elections; then it is tried again."""


class NotMinted(LocalError):
    """The group did not accept an epoch: another leader minted a later one."""


class Electing:
    """Tells the controller of one node when it leads, and saves what it mints.

    Args:
        controller: of this node; it is the one that ``mesh`` runs.
    """

    def __init__(self, controller: ElectedController, store: StoreService) -> None:
        self._controller, self._store = controller, store
        self._mesh: MeshService | None = None
        store.system.add_leader_observer(self._leader_is)

    def attach(self, mesh: MeshService) -> None:
        """The mesh that the controller decides for."""
        self._mesh = mesh

    def _leader_is(self, leader: int, term: int) -> None:
        if self._mesh is None:
            return
        now = self._store.now()
        if leader and leader == self._store.machine.member_id:
            self._controller.lead(term, self._store.state.mesh.last.epoch, now)
        else:
            self._controller.follow(now)
        self._mesh.members_changed()

    def save(self, epoch: Epoch) -> Deferred[None]:
        """Have the group accept the roster under an epoch; fails when it does not."""
        roster = self._controller.mesh
        if roster is None or roster.epoch != epoch:
            return fail(NotMinted(f"epoch {epoch} is not wanted any more"))

        def minted(accepted: bool) -> None:
            if not accepted:
                raise NotMinted(f"epoch {epoch} is not above every epoch that was minted")

        return self._store.system.propose(system.mint(roster), SAVE_S).addCallback(minted)

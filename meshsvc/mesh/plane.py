"""One shard's part in the mesh: its epoch, its data links, and what it tells its siblings.

Shard 0 hears from the controller and spreads what it adopts as ``Mesh``. A sibling that
connects is told everything; one whose outbox was full is told everything again a moment
later, so a full bus delays a mesh but never splits a node. A shard 0 that was restarted
gets the mesh back from its siblings in the same way.

A ``Mesh`` without members is a sighting: "somebody holds this epoch, what you have is void".
It travels to shard 0 and from there to all, because the shard that owns a link is the one
that meets the peer.

Pure: ``service.py`` turns the effects into calls on the links and the bus.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshsvc.errors import WireError
from meshsvc.mesh import roster as rosters
from meshsvc.mesh.epoch import Answer, EpochEvent, MeshState, NodeEpoch
from meshsvc.mesh.formation import REPORT_S, Formation, Link, LinkEffect, ended
from meshsvc.mesh.roster import LinkOwner
from meshsvc.model import Epoch, LinkClass, NodeId, NodeInfo, Roster, ShardId
from meshsvc.wire.messages import LinkState, Mesh

OWED_S = 0.1
"""Seconds until a sibling whose outbox was full is told everything again."""

FIRST = ShardId(0)


@dataclass(frozen=True, slots=True)
class ToShard:
    """Send a message to a sibling; call ``undelivered`` when its outbox did not take it."""

    shard: ShardId
    message: Mesh | LinkState


@dataclass(frozen=True, slots=True)
class Disputed:
    """A sibling sent a mesh that was refused, for the log."""

    shard: ShardId
    reason: str


PlaneEffect = EpochEvent | LinkEffect | ToShard | Disputed


class ShardPlane:
    """The mesh as one shard of a node sees it."""

    def __init__(self, me: NodeInfo, shard: ShardId, owner: LinkOwner) -> None:
        """Build it.

        Args:
            me: this node in this life.
            shard: which of its shards this is.
            owner: tells which shard of this node owns the link to a peer.
        """
        self.me = me
        self.shard = shard
        self.epoch = NodeEpoch(me.node_id, me.incarnation)
        self._formation = Formation(me.node_id, shard, me.shards, owner)
        self._siblings: set[ShardId] = set()
        self._owed: set[ShardId] = set()
        self._missed: dict[ShardId, dict[tuple[str, int], LinkState]] = {}
        self._owed_at: float | None = None
        self._report_at: float | None = None
        self._control: dict[NodeId, Link] = {}
        self._control_heard: set[NodeId] = set()
        self._effects: list[PlaneEffect] = []

    # --- what people and other parts read -------------------------------------------------

    @property
    def state(self) -> MeshState:
        """How far the mesh is."""
        return self.epoch.state

    @property
    def roster(self) -> Roster | None:
        """The adopted roster."""
        return self.epoch.roster

    def rows(self) -> list[dict[str, object]]:
        """One row a data link of this node, whichever shard owns it."""
        return self._formation.rows()

    def reachable(self, link_class: LinkClass) -> frozenset[NodeId]:
        """The nodes that some shard of this node has a link of that class to."""
        if link_class is LinkClass.DATA:
            return self._formation.reachable
        return frozenset(self._control) | frozenset(self._control_heard)

    # --- epochs --------------------------------------------------------------------------

    def offer(self, roster: Roster) -> Answer:
        """Judge a ``CreateMesh`` and act on it."""
        before = self.epoch.epoch
        answer = self.epoch.offer(roster)
        if self.epoch.epoch != before:
            self._formation.adopt(roster)
            if self.shard == FIRST:
                self._tell_all(_mesh(roster))
        self._settle()
        return answer

    def sighted(self, epoch: Epoch) -> None:
        """A peer showed an epoch in a handshake, or a sibling says so."""
        if not self.epoch.sighted(epoch):
            return
        self._formation.stop_dialing()
        sighting = Mesh(epoch.term, epoch.attempt, ())
        if self.shard == FIRST:
            self._tell_all(sighting)
        elif FIRST in self._siblings:
            self._effects.append(ToShard(FIRST, sighting))
        self._settle()

    # --- links ---------------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        """A link of this shard came up."""
        if link.link_class is LinkClass.DATA:
            self._formation.link_up(link)
        elif self._control.get(link.peer.node_id) is not link:
            self._control[link.peer.node_id] = link
            self._tell_all(_control_state(link, True))
        self._settle()

    def link_moved(self) -> None:
        """The ends of a link agreed on another epoch, or no longer do: links tell which."""
        self._settle()

    def link_down(self, link: Link) -> None:
        """A link of this shard ended."""
        node = link.peer.node_id
        if link.link_class is LinkClass.DATA:
            self._formation.link_down(link)
            if self.epoch.greatest > self.epoch.epoch:
                self._formation.stop_dialing()
        elif self._control.get(node) is link:
            del self._control[node]
            self._tell_all(_control_state(link, False))
        self._settle()

    # --- siblings ------------------------------------------------------------------------

    def sibling_up(self, shard: ShardId) -> None:
        """A sibling connected: it is told everything that concerns it."""
        self._siblings.add(shard)
        self._tell_everything(shard)

    def sibling_down(self, shard: ShardId) -> None:
        """A sibling is gone, and the links it owned with it."""
        self._siblings.discard(shard)
        self._owed.discard(shard)
        self._missed.pop(shard, None)
        self._formation.sibling_down(shard)
        if shard == FIRST:
            self._control_heard.clear()
        self._settle()

    def received(self, shard: ShardId, message: object) -> None:
        """A message of a sibling; those of other parts of the node are passed over."""
        if isinstance(message, LinkState):
            self._take_state(shard, message)
        elif isinstance(message, Mesh):
            self._take_mesh(shard, message)

    def undelivered(self, shard: ShardId, message: object, now: float) -> None:
        """A sibling's outbox did not take a message: it will be told everything again.

        That a link ended as well, even if there is another by then: what was on it is lost.
        """
        if shard in self._siblings:
            if isinstance(message, LinkState) and ended(message):
                missed = self._missed.setdefault(shard, {})
                missed[message.node_id, message.link_class] = message
            self._owed.add(shard)
            if self._owed_at is None:
                self._owed_at = now + OWED_S

    # --- time ----------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin to report round-trip times."""
        self._report_at = now + REPORT_S

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self._owed_at is not None and self._owed_at <= now:
            owed, self._owed, self._owed_at = self._owed, set(), None
            for shard in sorted(owed):
                self._tell_everything(shard)
        if self._report_at is not None and self._report_at <= now:
            self._report_at = now + REPORT_S
            self._report(rtt_too=True)

    def deadline(self) -> float | None:
        """When ``tick`` is next wanted."""
        times = (self._owed_at, self._report_at)
        return min((at for at in times if at is not None), default=None)

    def take_effects(self) -> list[PlaneEffect]:
        """What is to be done and what happened, oldest first."""
        effects, self._effects = self._effects, []
        return effects

    # --- within --------------------------------------------------------------------------

    def _settle(self) -> None:
        """Count links again, and pass on what follows from it."""
        self.epoch.links(self._formation.complete)
        for event in self.epoch.take_events():
            self._effects.append(event)
        self._effects += self._formation.take_effects()
        self._report(rtt_too=False)

    def _report(self, rtt_too: bool) -> None:
        for state in self._formation.take_reports(rtt_too):
            self._tell_all(state)

    def _tell_all(self, message: Mesh | LinkState) -> None:
        self._effects += [ToShard(shard, message) for shard in sorted(self._siblings)]

    def _tell_everything(self, shard: ShardId) -> None:
        told: list[Mesh | LinkState] = []
        if FIRST in (shard, self.shard):
            if self.roster:
                told.append(_mesh(self.roster))
            if self.epoch.greatest > self.epoch.epoch:
                greatest = self.epoch.greatest
                told.append(Mesh(greatest.term, greatest.attempt, ()))
        told += self._missed.pop(shard, {}).values()
        told += self._formation.all_reports()
        told += [_control_state(link, True) for link in self._control.values()]
        self._effects += [ToShard(shard, message) for message in told]

    def _take_state(self, shard: ShardId, state: LinkState) -> None:
        if state.link_class == LinkClass.DATA:
            self._formation.heard(shard, state)
        elif shard == FIRST:
            known = self._control_heard
            (known.add if state.up else known.discard)(NodeId(state.node_id))
        self._settle()

    def _take_mesh(self, shard: ShardId, mesh: Mesh) -> None:
        try:
            if not mesh.members:
                self.sighted(rosters.epoch_from_wire(mesh.term, mesh.attempt))
                return
            offered = rosters.from_wire(mesh.term, mesh.attempt, mesh.members)
        except WireError as error:
            self._effects.append(Disputed(shard, f"malformed: {error}"))
            return
        answer = self.offer(offered)
        if answer.accepted:
            return
        self._effects.append(Disputed(shard, answer.reason))
        if offered.epoch < self.epoch.epoch and self.roster and shard in self._siblings:
            self._effects.append(ToShard(shard, _mesh(self.roster)))


def _mesh(roster: Roster) -> Mesh:
    return Mesh(roster.epoch.term, roster.epoch.attempt, rosters.rows(roster.members))


def _control_state(link: Link, up: bool) -> LinkState:
    rtt_us = round((link.rtt_ms or 0) * 1000)
    peer, state = link.peer, "up" if up else "down"
    return LinkState(
        peer.node_id, peer.incarnation, LinkClass.CONTROL.value, up, 0, 0, rtt_us, state
    )

"""The data links of one shard: which the roster asks for, which are there, what to do.

Rules kept here:

* a link to a peer whose incarnation the new roster repeats is left alone: its two ends
  agree on the new epoch in band;
* every dial that has not led to a link is given up and begun anew with each epoch, so
  nothing of a superseded attempt is left waiting;
* of what sibling shards report, only the reports of the shard that owns a link count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from meshsvc.mesh.roster import MAX_MEMBERS, Duty, LinkOwner, duties
from meshsvc.model import (
    Address,
    Epoch,
    LinkClass,
    NodeId,
    NodeInfo,
    Roster,
    ShardId,
)
from meshsvc.wire.messages import LinkState

REPORT_S = 5.0
"""Seconds between reports of round-trip times that changed: people read them, nobody else."""

MAX_HEARD = 2 * MAX_MEMBERS
"""Nodes whose last report is kept: the roster in force, and one not heard of yet."""


class Link(Protocol):
    """What is read of a live link."""

    @property
    def peer(self) -> NodeInfo:
        """Who is on the other end, in which life."""

    @property
    def link_class(self) -> LinkClass:
        """Which plane it belongs to."""

    @property
    def agreed(self) -> bool:
        """Whether both ends hold the same epoch."""

    @property
    def epoch(self) -> Epoch:
        """The epoch of this end."""

    @property
    def rtt_ms(self) -> float | None:
        """The last round trip in milliseconds, None before the first."""


class PeerState(StrEnum):
    """How the data link to one member is."""

    UP = "up"
    AGREEING = "agreeing"
    DIALING = "dialing"
    AWAITING = "awaiting"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class SetEpoch:
    """Data links are to be at this epoch, between the members of this roster only."""

    epoch: Epoch
    roster: Roster


@dataclass(frozen=True, slots=True)
class Keep:
    """Have a data link to this address dialed, and dialed again, until it is forgotten."""

    address: Address
    node_id: NodeId


@dataclass(frozen=True, slots=True)
class Forget:
    """Dial this address no more; a live link to it stays."""

    address: Address


LinkEffect = SetEpoch | Keep | Forget


class Formation:
    """The data links of one shard, and what it heard of those of its siblings."""

    def __init__(self, me: NodeId, shard: ShardId, shards: int, owner: LinkOwner) -> None:
        self._me = me
        self._shard = shard
        self._shards = shards
        self._owner = owner
        self._roster: Roster | None = None
        self._duties: tuple[Duty, ...] = ()
        self._links: dict[NodeId, Link] = {}
        self._kept: dict[NodeId, NodeInfo] = {}
        self._told: dict[NodeId, LinkState] = {}
        self._heard: dict[NodeId, LinkState] = {}
        self._effects: list[LinkEffect] = []

    # --- what happens to it --------------------------------------------------------------

    def adopt(self, roster: Roster) -> None:
        """Go for the links of a greater epoch."""
        self._roster = roster
        self._duties = duties(roster, self._me, self._shards, self._owner)
        self._effects.append(SetEpoch(roster.epoch, roster))
        wanted = {duty.peer.node_id: duty.peer for duty in self._mine() if duty.dial}
        self._forget(kept for kept in self._kept.values() if wanted.get(kept.node_id) != kept)
        self.stop_dialing()
        for node_id, peer in wanted.items():
            if node_id not in self._kept:
                self._kept[node_id] = peer
                self._effects.append(Keep(peer.address, node_id))
        members = {duty.peer.node_id for duty in self._duties}
        self._told = {node: state for node, state in self._told.items() if node in members}

    def stop_dialing(self) -> None:
        """Give up every dial that has not led to a link; live links stay."""
        self._forget(kept for kept in self._kept.values() if self._link(kept) is None)

    def link_up(self, link: Link) -> None:
        """A data link came up; from here on its epoch is read from itself."""
        self._links[link.peer.node_id] = link

    def link_down(self, link: Link) -> None:
        """A data link ended; one that has taken its place already stays."""
        if self._links.get(link.peer.node_id) is link:
            del self._links[link.peer.node_id]

    def heard(self, shard: ShardId, state: LinkState) -> None:
        """A sibling reports the state of a link; only the owner of that link is believed.

        It may have adopted a roster that this shard has yet to be told of, so what it says
        of nodes that are no members here is kept as well.
        """
        node = NodeId(state.node_id)
        if self._owner(node, self._shards) == shard:
            self._heard.pop(node, None)
            self._heard[node] = state
            if len(self._heard) > MAX_HEARD:
                del self._heard[next(iter(self._heard))]

    def sibling_down(self, shard: ShardId) -> None:
        """A sibling is gone, and its links with it."""
        for node in [node for node in self._heard if self._owner(node, self._shards) == shard]:
            del self._heard[node]

    # --- what comes out ------------------------------------------------------------------

    def take_effects(self) -> list[LinkEffect]:
        """What is to be done about links, oldest first."""
        effects, self._effects = self._effects, []
        return effects

    def take_reports(self, rtt_too: bool = False) -> list[LinkState]:
        """The states of this shard's links that its siblings have not been told.

        A round-trip time alone is only news when ``rtt_too`` is set.
        """
        fresh = []
        for duty in self._mine():
            state, told = self._report(duty), self._told.get(duty.peer.node_id)
            if told is None or _facts(told) != _facts(state) or (rtt_too and told != state):
                self._told[duty.peer.node_id] = state
                fresh.append(state)
        return fresh

    def all_reports(self) -> list[LinkState]:
        """The states of all of this shard's links, for a sibling that just connected."""
        return [self._report(duty) for duty in self._mine()]

    @property
    def complete(self) -> bool:
        """Whether every link of this node is up at the roster's epoch, as far as heard."""
        return self._roster is not None and len(self.reachable) == len(self._duties)

    @property
    def reachable(self) -> frozenset[NodeId]:
        """The members that a shard of this node has a data link to at the roster's epoch."""
        return frozenset(duty.peer.node_id for duty in self._duties if self._state(duty).up)

    def rows(self) -> list[dict[str, object]]:
        """One row a peer, in roster order: peer, state, epoch, owner_shard, rtt_ms."""
        return [_row(duty, self._state(duty)) for duty in self._duties]

    # --- within --------------------------------------------------------------------------

    def _mine(self) -> list[Duty]:
        return [duty for duty in self._duties if duty.owner == self._shard]

    def _link(self, peer: NodeInfo) -> Link | None:
        link = self._links.get(peer.node_id)
        return link if link and link.peer.incarnation == peer.incarnation else None

    def _forget(self, targets: Iterable[NodeInfo]) -> None:
        for target in list(targets):
            del self._kept[target.node_id]
            self._effects.append(Forget(target.address))

    def _state(self, duty: Duty) -> LinkState:
        if duty.owner == self._shard:
            return self._report(duty)
        heard = self._heard.get(duty.peer.node_id)
        if heard is None or heard.incarnation != duty.peer.incarnation:
            return _blank(duty.peer, PeerState.DOWN)
        if heard.up and self._roster and Epoch(heard.term, heard.attempt) != self._roster.epoch:
            return replace(heard, up=False, state=PeerState.AGREEING.value)
        return heard

    def _report(self, duty: Duty) -> LinkState:
        peer, link = duty.peer, self._link(duty.peer)
        if link is None:
            if not duty.dial:
                return _blank(peer, PeerState.AWAITING)
            dialing = peer.node_id in self._kept
            return _blank(peer, PeerState.DIALING if dialing else PeerState.DOWN)
        up = link.agreed and self._roster is not None and link.epoch == self._roster.epoch
        return LinkState(
            node_id=peer.node_id,
            incarnation=peer.incarnation,
            link_class=LinkClass.DATA.value,
            up=up,
            term=link.epoch.term,
            attempt=link.epoch.attempt,
            rtt_us=round((link.rtt_ms or 0) * 1000),
            state=(PeerState.UP if up else PeerState.AGREEING).value,
        )


def ended(state: LinkState) -> bool:
    """Whether what was on a link is lost; while its ends agree on an epoch, frames wait."""
    return not state.up and state.state != PeerState.AGREEING.value


def _facts(state: LinkState) -> LinkState:
    return replace(state, rtt_us=0)


def _blank(peer: NodeInfo, state: PeerState) -> LinkState:
    return LinkState(
        peer.node_id, peer.incarnation, LinkClass.DATA.value, False, 0, 0, 0, state.value
    )


def _row(duty: Duty, state: LinkState) -> dict[str, object]:
    linked = state.state in (PeerState.UP, PeerState.AGREEING)
    return {
        "peer": duty.peer.name,
        "state": state.state,
        "epoch": str(Epoch(state.term, state.attempt)) if linked else None,
        "owner_shard": int(duty.owner),
        "rtt_ms": state.rtt_us / 1000 if state.rtt_us else None,
    }

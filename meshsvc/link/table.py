"""The links that are up, by node and class, and the face each shows to the rest of a node.

A ``Link`` stands for "this life of that node can be talked to". When two connections of one
pair raced and one gives way to the other, the ``Link`` stays and changes its carrier, so
those above see neither an end nor a beginning. What was sent before the change arrives
before what is sent after it: the end that says goodbye over the old carrier neither writes
to nor reads from the new one until the old one has run dry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from meshsvc.link.admission import Live
from meshsvc.link.events import Ended, Peer
from meshsvc.link.pairing import Adopt, Candidate, Decision, Gone, Pairing, Retire, Switch
from meshsvc.link.session import Session
from meshsvc.model import Epoch, LinkClass, NodeId, Sent

GoneFor = tuple[str, str, bool]
"""Reason, text, and whether it heals."""


class Carrier(Protocol):
    """One connection whose session is up, as ``LinkProtocol`` is."""

    session: Session
    link: Link | None

    def send(self, message: object) -> Sent:
        """Queue a message."""

    def send_body(self, body: bytes) -> Sent:
        """Queue an encoded envelope."""

    def flush_now(self) -> None:
        """Write what waits."""

    def close(self, reason: str, text: str, *, delivering: bool = False) -> None:
        """Say goodbye."""

    def hold(self, held: bool) -> None:
        """Neither write nor read, or do so again."""


class Link:
    """A live link to one life of one node.

    Attributes:
        peer: who is on the other end.
        link_class: control or data.
        since: when it came up, in seconds.
        dialed_by_us: whether this side dialed the connection in use.
    """

    __slots__ = ("_carrier", "_close", "dialed_by_us", "link_class", "peer", "since")

    def __init__(
        self,
        carrier: Carrier,
        peer: Peer,
        since: float,
        close: Callable[[Link, str, str], None],
    ) -> None:
        self.peer = peer.info
        self.link_class = peer.link_class
        self.since = since
        self.dialed_by_us = peer.dialed_by_us
        self._carrier = carrier
        self._close = close

    def __repr__(self) -> str:
        return f"<Link {self.link_class.name.lower()} {self.peer.name} {self.peer.incarnation}>"

    @property
    def agreed(self) -> bool:
        """Whether envelopes can be sent: up, and both ends at the same epoch."""
        return self._carrier.session.agreed

    @property
    def epoch(self) -> Epoch:
        """This side's epoch on the link; 0.0 on a control link."""
        return self._carrier.session.epoch

    @property
    def rtt_ms(self) -> float | None:
        """The last round trip in milliseconds, or None before the first."""
        rtt_s = self._carrier.session.rtt_s
        return None if rtt_s is None else rtt_s * 1000

    def send(self, message: object) -> Sent:
        """Queue a message; it leaves with all others of this reactor turn."""
        return self._carrier.send(message)

    def send_body(self, body: bytes) -> Sent:
        """Queue an encoded ``Envelope`` of at most ``wire.frames.MAX_FRAME`` bytes, for
        ``flush_now`` to write.
        """
        return self._carrier.send_body(body)

    def flush_now(self) -> None:
        """Write what was queued in this turn, without waiting for its end."""
        self._carrier.flush_now()

    def close(self, reason: str, text: str) -> None:
        """Say goodbye behind what is queued; both sides see the reason."""
        self._close(self, reason, text)


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A life of a node can be talked to."""

    link: Link


@dataclass(frozen=True, slots=True)
class LinkDown:
    """It cannot be talked to any more."""

    link: Link
    reason: str
    text: str
    heals: bool


@dataclass(frozen=True, slots=True)
class LinkEpoch:
    """Whether, or under which epoch, envelopes flow has changed."""

    link: Link


Notice = LinkUp | LinkDown | LinkEpoch


@dataclass(slots=True)
class _Place:
    pairing: Pairing[Carrier]
    link: Link


class Table:
    """All links of one shard; what those above should know comes out of ``take_notices``."""

    def __init__(self) -> None:
        self._places: dict[tuple[NodeId, LinkClass], _Place] = {}
        self._waiting: dict[Carrier, Carrier] = {}
        self._notices: list[Notice] = []

    def links(self) -> Iterable[Link]:
        """Every link that is up."""
        return [place.link for place in self._places.values()]

    def get(self, node: NodeId, link_class: LinkClass) -> Link | None:
        """The link of a class to a node."""
        place = self._places.get((node, link_class))
        return place.link if place is not None else None

    def live(self, node: NodeId, link_class: LinkClass) -> Live | None:
        """The same, as admission wants to know it."""
        place = self._places.get((node, link_class))
        if place is None or place.pairing.current is None:
            return None
        current = place.pairing.current
        return Live(place.link.peer, current.key, current.proven)

    def take_notices(self) -> list[Notice]:
        """What happened since the last call, oldest first."""
        notices, self._notices = self._notices, []
        return notices

    def up(self, carrier: Carrier, peer: Peer, now: float) -> None:
        """A carrier's session is up."""
        link = Link(carrier, peer, now, self.close)
        place = self._places.setdefault(_where(peer), _Place(Pairing(), link))
        same_life = place.link.peer.incarnation == peer.info.incarnation
        carrier.link = place.link if same_life else link
        candidate = Candidate(peer.key, peer.info.incarnation, carrier, proven=False)
        self._carry_out(place, place.pairing.up(candidate), _RESTARTED)

    def proven(self, carrier: Carrier) -> None:
        """A carrier's peer is up too."""
        place = self._place_of(carrier)
        if place is not None:
            self._carry_out(place, place.pairing.proven(carrier), _RESTARTED)

    def ended(self, carrier: Carrier, end: Ended) -> None:
        """A carrier's session ended; it may go on delivering."""
        place = self._place_of(carrier)
        if place is not None:
            why = (end.reason, end.text, end.heals)
            self._carry_out(place, place.pairing.ended(carrier), why)

    def gone(self, carrier: Carrier) -> None:
        """A carrier's connection is gone: who waited for it to run dry goes on."""
        winner = self._waiting.pop(carrier, None)
        if winner is not None and winner not in self._waiting.values():
            winner.hold(False)

    def epoch_moved(self, carrier: Carrier) -> None:
        """Either end of a carrier announced an epoch."""
        if carrier.link is not None and carrier.link._carrier is carrier:
            self._notices.append(LinkEpoch(carrier.link))

    def close(self, link: Link, reason: str, text: str) -> None:
        """Say goodbye over every connection that this link has."""
        place = self._places.get((link.peer.node_id, link.link_class))
        if place is None or place.link is not link:
            return
        # The one in use goes last, so that no other takes its place.
        for candidate in reversed(place.pairing.all()):
            candidate.handle.close(reason, text)

    def _place_of(self, carrier: Carrier) -> _Place | None:
        peer = carrier.session.peer
        return self._places.get(_where(peer)) if peer is not None else None

    def _carry_out(self, place: _Place, decisions: list[Decision[Carrier]], why: GoneFor) -> None:
        for decision in decisions:
            match decision:
                case Adopt(carrier):
                    self._adopt(place, carrier)
                case Switch(_, carrier):
                    self._switch(place.link, carrier)
                case Gone(restarted):
                    self._gone(place, _RESTARTED if restarted else why)
                case Retire(carrier, reason, crossed):
                    self._retire(place.link, carrier, reason, crossed)

    def _adopt(self, place: _Place, carrier: Carrier) -> None:
        assert carrier.link is not None
        place.link = carrier.link
        self._notices.append(LinkUp(place.link))

    def _switch(self, link: Link, carrier: Carrier) -> None:
        before = (link.agreed, link.epoch)
        peer = carrier.session.peer
        link._carrier = carrier
        link.dialed_by_us = peer is not None and peer.dialed_by_us
        if before != (link.agreed, link.epoch):
            self._notices.append(LinkEpoch(link))

    def _gone(self, place: _Place, why: GoneFor) -> None:
        self._notices.append(LinkDown(place.link, *why))
        if place.pairing.current is None:
            del self._places[(place.link.peer.node_id, place.link.link_class)]

    def _retire(self, link: Link, carrier: Carrier, reason: str, crossed: bool) -> None:
        if crossed:
            self._waiting[carrier] = link._carrier
            link._carrier.hold(True)
        if reason == "stale-incarnation":
            carrier.link = None
        carrier.close(reason, _TEXTS[reason], delivering=crossed)


_RESTARTED: GoneFor = ("restarted", "a later life of the node took its place", True)

_TEXTS = {
    "duplicate": "another link between the two nodes stays",
    "restarted": "a later life of the node took its place",
    "stale-incarnation": "a later life of the node has a link: two processes share its identity",
}


def _where(peer: Peer) -> tuple[NodeId, LinkClass]:
    return peer.info.node_id, peer.link_class

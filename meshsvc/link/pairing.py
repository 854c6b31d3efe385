"""Two nodes that dial each other at once: exactly one link per class stays (LINK-6).

Why it is hard: each end sees the links come up in its own order, and "up" itself is not one
moment. The dialer is up when it has the acceptor's Hello, the acceptor only when the
dialer's Confirm arrives; in between an end that closed "the other" link could be left with
none. Three rules make it safe:

- one total order over links, a function of what both ends know of them (``survivor``);
- a better link takes over, and the worse is said goodbye to, only when the better one is
  *proven*: something came over it that the peer sends only once it is up itself;
- the worse link goes on delivering until the peer's farewell, so nothing sent is lost.

Links of different lives of a peer are no duplicates: the later life wins at once (MESH-7).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from meshsvc.model import Incarnation, NodeId

H = TypeVar("H")


@dataclass(frozen=True, slots=True)
class LinkKey:
    """What both ends know of a link: who dialed whom, and the dialer's count of dials."""

    dialer: NodeId
    acceptor: NodeId
    dial: int


def survivor(a: LinkKey, b: LinkKey) -> LinkKey:
    """The one of two links of a pair that stays; the same on both ends, in either order.

    Of links with different dialers the one dialed by the smaller node id; of one dialer's
    links the later, because a node dials only when it knows of no link.
    """
    return min(a, b, key=lambda key: (key.dialer, -key.dial))


@dataclass(slots=True)
class Candidate(Generic[H]):
    """One link that is up at this end; ``handle`` is whatever the caller knows it by."""

    key: LinkKey
    incarnation: Incarnation
    handle: H
    proven: bool


@dataclass(frozen=True, slots=True)
class Adopt(Generic[H]):
    """There was no link to this life of the peer, now there is."""

    handle: H


@dataclass(frozen=True, slots=True)
class Switch(Generic[H]):
    """Same peer, same life: ``new`` carries the traffic from here on."""

    old: H
    new: H


@dataclass(frozen=True, slots=True)
class Retire(Generic[H]):
    """Say goodbye over this link; ``crossed`` when it may still hold what was sent to us."""

    handle: H
    reason: str
    crossed: bool = False


@dataclass(frozen=True, slots=True)
class Gone:
    """No link to this life of the peer is left; ``restarted`` when a later life took over."""

    restarted: bool = False


Decision = Adopt[H] | Switch[H] | Retire[H] | Gone


class Pairing(Generic[H]):
    """The links of one class to one node, of which one carries the traffic."""

    def __init__(self) -> None:
        self._current: Candidate[H] | None = None
        self._others: list[Candidate[H]] = []

    @property
    def current(self) -> Candidate[H] | None:
        """The link that carries the traffic."""
        return self._current

    def up(self, link: Candidate[H]) -> list[Decision[H]]:
        """A link came up at this end."""
        current = self._current
        if current is None:
            self._current = link
            return [Adopt(link.handle)]
        if link.incarnation > current.incarnation:
            return self._restarted(link)
        if link.incarnation < current.incarnation:
            return [Retire(link.handle, "stale-incarnation")]
        self._others.append(link)
        return self._settle()

    def proven(self, handle: H) -> list[Decision[H]]:
        """The peer spoke over a link as one does only when it is up there too."""
        for link in self.all():
            if link.handle == handle and not link.proven:
                link.proven = True
                return self._settle()
        return []

    def ended(self, handle: H) -> list[Decision[H]]:
        """A link is gone, or the peer said goodbye over it; unknown ones are ignored."""
        self._others = [link for link in self._others if link.handle != handle]
        current = self._current
        if current is None or current.handle != handle:
            return []
        if not self._others:
            self._current = None
            return [Gone()]
        best = self._best(self._others)
        self._others.remove(best)
        self._current = best
        return [Switch(handle, best.handle)]

    def all(self) -> list[Candidate[H]]:
        """Every link that is up, the one that carries the traffic first."""
        return [self._current, *self._others] if self._current is not None else []

    def _best(self, links: list[Candidate[H]]) -> Candidate[H]:
        best = links[0]
        for link in links[1:]:
            if survivor(best.key, link.key) == link.key:
                best = link
        return best

    def _restarted(self, link: Candidate[H]) -> list[Decision[H]]:
        old = self.all()
        self._current, self._others = link, []
        retired: list[Decision[H]] = [Retire(each.handle, "restarted") for each in old]
        return [Gone(restarted=True), *retired, Adopt(link.handle)]

    def _settle(self) -> list[Decision[H]]:
        old = self._current
        assert old is not None
        best = self._best([old, *self._others])
        if not best.proven:
            return []
        losers = [link for link in (old, *self._others) if link is not best]
        self._current, self._others = best, []
        decisions: list[Decision[H]] = []
        if best is not old:
            decisions.append(Switch(old.handle, best.handle))
        for loser in losers:
            crossed = loser.key.dialer != best.key.dialer
            decisions.append(Retire(loser.handle, "duplicate", crossed))
        return decisions

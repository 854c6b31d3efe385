"""The watch this node keeps over the others: lives, probes, suspicions and accusations.

Why it is safe: only this node's own failed probes lead to a conviction, and only after a
suspicion in which the suspect is probed again and again. What others say makes it look at
once, and makes a suspicion it shares shorter; so news of a death spreads fast, while one bad
node cannot talk the others into anything.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshsvc.gossip.detector import Detector, Outcome, Result
from meshsvc.gossip.effects import Echo, EchoVia, Tell
from meshsvc.gossip.health import DOUBT_S, LocalHealth
from meshsvc.gossip.liveness import Life, Liveness, LivenessMachine, Said
from meshsvc.gossip.members import Status
from meshsvc.gossip.rotation import Rotation
from meshsvc.gossip.rumors import FANOUT
from meshsvc.gossip.settings import Settings
from meshsvc.gossip.suspicion import Suspicions
from meshsvc.model import NodeId

if TYPE_CHECKING:
    from random import Random

ACCUSE = "gossip.accuse"
"""[accuser, suspect, generation]: the accuser's own probes of that life failed."""

RELAYS = 3
"""Peers that an accusation is passed on to, once, by each who had not heard of it."""

ROUNDS_TO_ALL = 10
"""Every live peer is contacted within this many rounds (contract GSP-3)..."""

MAX_PEERS_A_ROUND = 10
"""...up to a hundred nodes. Beyond that it takes longer, so that a round costs the same in
any cluster: ten contacts reach a thousand nodes in three rounds."""

PROBE_ROUNDS = 5
"""Every node that looks well is echoed within this many rounds, so that of ten nodes one
finds a silent death within about a second."""

MAX_PROBES_A_ROUND = 10
"""So that the cost of a round does not grow with the cluster."""

PATIENCE_S = 10.0
"""A node that others know but that never answered an echo counts as dead after this long, if
the last of them failed while this node itself was on time."""

_LIVE = (Status.ALIVE, Status.SUSPECT)
_UNPROVEN = (Status.JOINING, Status.DEAD)
_ECHOED_WHEN_HEARD = (*_UNPROVEN, Status.SUSPECT)


@dataclass(slots=True)
class _Watched:
    """``unanswered``: an echo of ours to this life failed while we ourselves were on time."""

    machine: Liveness
    life: Life
    generation: int
    since: float
    unanswered: bool = False
    listed: Status | None = None


@dataclass(slots=True)
class Report:
    """What came of one input: things to send, things said of nodes, nodes to catch up with.

    An item of ``said`` is (node, what, whether subscribers should hear of it).
    """

    out: list[Echo | EchoVia | Tell] = field(default_factory=list)
    said: list[tuple[NodeId, Said, bool]] = field(default_factory=list)
    outdated: list[NodeId] = field(default_factory=list)


class Watch:
    """Knows of every other endpoint whether it is alive."""

    def __init__(
        self, me: NodeId, settings: Settings, rng: Random, linked: Collection[NodeId]
    ) -> None:
        """``linked`` is the caller's own collection of nodes with a link, kept up to date."""
        self._me = me
        self._rng = rng
        self._linked = linked
        self.health = LocalHealth()
        self._detector = Detector(settings.probe_timeout_s, self.health, self.some_alive)
        self._suspicions = Suspicions(settings.suspicion_s, self.health)
        self._watched: dict[NodeId, _Watched] = {}
        self._live = Rotation(rng, ROUNDS_TO_ALL, MAX_PEERS_A_ROUND)
        self._well = Rotation(rng, PROBE_ROUNDS, MAX_PROBES_A_ROUND)
        self._unproven = Rotation(rng, PROBE_ROUNDS, MAX_PROBES_A_ROUND)
        self._report = Report()

    # --- what is known -------------------------------------------------------------------

    def status(self, node: NodeId) -> Status | None:
        """What a node is; None when it is not watched."""
        watched = self._watched.get(node)
        return None if watched is None else watched.life.status

    def joined(self, node: NodeId) -> bool:
        """Whether subscribers were told that this life of the node joined."""
        watched = self._watched.get(node)
        return watched is not None and watched.life.joined

    def partners(self) -> list[NodeId]:
        """The nodes that get a SYN in this round, now and then one that does not answer."""
        partners = self._live.next()
        if self._rng.random() < len(self._unproven) / (len(self._live) + 1):
            partners.append(self._rng.choice(list(self._unproven)))
        return partners

    def some_alive(self, but: NodeId, count: int) -> list[NodeId]:
        """Up to ``count`` nodes that are alive and linked, at random, without ``but``."""
        able = [node for node in self._well if node in self._linked and node != but]
        return self._rng.sample(able, min(count, len(able)))

    def rtt_ms(self, node: NodeId) -> float | None:
        """This node's own measured round trip to another."""
        return self._detector.rtt_ms(node)

    # --- facts ---------------------------------------------------------------------------

    def learned(self, node: NodeId, generation: int, now: float) -> None:
        """The state of a life of a node is known, or there is news in it."""
        watched = self._watched.get(node)
        if watched is None:
            life = Life()
            watched = _Watched(LivenessMachine(life), life, generation, now)
            self._watched[node] = watched
        if generation > watched.generation:
            watched.generation, watched.since, watched.unanswered = generation, now, False
            self._detector.forget(node)
            self._suspicions.clear(node)
            watched.machine.restarted()
        elif watched.life.status is Status.ALIVE:
            return  # by far the most frequent case, and it changes nothing
        else:
            watched.machine.learned()
        self._settle(node, watched, now)

    def heard(self, node: NodeId, now: float) -> None:
        """Something came from the node itself, which calls for an echo if it looks bad."""
        watched = self._watched.get(node)
        if watched is not None and watched.life.status in _ECHOED_WHEN_HEARD:
            self._probe(node, watched, now)
            self._conclude(now)

    def link_lost(self, node: NodeId, now: float) -> None:
        """The link to a node ended: a hint, no more, which calls for a probe at once."""
        self._suspicions.link_lost(node)
        watched = self._watched.get(node)
        if watched is not None and watched.life.status in _LIVE:
            self._probe(node, watched, now)
            self._conclude(now)

    def accused(self, accuser: NodeId, node: NodeId, generation: int, now: float) -> None:
        """``accuser`` suspects a life of a node."""
        watched = self._watched.get(node)
        if watched is None or watched.generation != generation or accuser == self._me:
            return
        if watched.life.status not in _LIVE:
            return
        news = self._suspicions.accuse(node, generation, accuser, now)
        if watched.life.status is Status.ALIVE:
            self._probe(node, watched, now)
        if news:
            relays = [n for n in self.some_alive(node, RELAYS + 1) if n != accuser][:RELAYS]
            self._accuse(relays, accuser, node, generation)
        self._conclude(now)

    def refuted(self, node: NodeId, now: float) -> None:
        """A node said, later than it was suspected, that it lives."""
        watched = self._watched.get(node)
        if watched is not None:
            watched.machine.refuted()
            self._settle(node, watched, now)

    def shut_down(self, node: NodeId, now: float) -> None:
        """The known life of a node said that it stops."""
        watched = self._watched.get(node)
        if watched is not None:
            watched.machine.shut_down()
            self._settle(node, watched, now)

    def removed(self, node: NodeId, now: float) -> None:
        """A node was taken out of the cluster."""
        watched = self._watched.get(node)
        if watched is not None:
            watched.machine.removed()
            self._settle(node, watched, now)

    def echo_done(self, token: int, answered: int | None, now: float) -> None:
        """As ``Detector.echo_done``."""
        self._detector.echo_done(token, answered, now)
        self._conclude(now)

    # --- time ----------------------------------------------------------------------------

    def round(self, now: float) -> None:
        """Echo those whose turn it is, and those that have yet to prove themselves."""
        unproven = list(self._unproven)
        near = [node for node in unproven if node in self._linked][:MAX_PROBES_A_ROUND]
        turns = [*self._well.next(), *self._unproven.next(), *near]
        for node in dict.fromkeys(turns):
            self._probe(node, self._watched[node], now)
        for node in unproven:
            watched = self._watched[node]
            waited = watched.life.status is Status.JOINING and now - watched.since >= PATIENCE_S
            # Time alone is no evidence: it passes also while our own echo waits to be sent.
            if waited and watched.unanswered:
                self._expire(node, now)
        self._conclude(now)

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._detector.tick(now)
        self._conclude(now)
        expired, again = self._suspicions.take_due(now)
        for node in expired:
            self._suspicions.clear(node)
            self._expire(node, now)
        for node in again:
            self._probe(node, self._watched[node], now)
        self._conclude(now)

    def deadline(self) -> float | None:
        """When ``tick`` is next wanted."""
        due = (self._detector.deadline(), self._suspicions.deadline())
        return min((at for at in due if at is not None), default=None)

    def stalled(self, lag_s: float, now: float) -> None:
        """This node did something ``lag_s`` late: it doubts itself before others."""
        self.health.lagged(lag_s, now)
        self._detector.stalled(lag_s, now)
        self._suspicions.stalled(lag_s, now)
        # The wait for a first echo is no shorter for it either, and goes on for a moment.
        latest = now + DOUBT_S - PATIENCE_S
        for watched in self._watched.values():
            watched.since = max(watched.since + lag_s, latest)
            watched.unanswered = False

    def clock_set_back(self, by_s: float, now: float) -> None:
        """The clock jumped back: what runs has as much time left as before."""
        self.health.doubt_until = now
        self._detector.stalled(-by_s, now)
        self._suspicions.stalled(-by_s, now)
        for watched in self._watched.values():
            watched.since = min(watched.since, now)

    def take(self) -> Report:
        """What came of everything since the last call."""
        report = self._report
        if report.out or report.said or report.outdated:
            self._report = Report()
        return report

    # --- steps ---------------------------------------------------------------------------

    def _expire(self, node: NodeId, now: float) -> None:
        watched = self._watched[node]
        watched.machine.expired()
        self._said(node, watched, now)

    def _probe(self, node: NodeId, watched: _Watched, now: float) -> None:
        unproven = watched.life.status in _UNPROVEN
        self._detector.probe(node, watched.generation, now, direct_only=unproven)

    def _conclude(self, now: float) -> None:
        """Carry out what probes came to, which may start others; each ends at most once."""
        while True:
            out, outcomes = self._detector.take()
            self._report.out.extend(out)
            if not outcomes:
                return
            for outcome in outcomes:
                self._outcome(outcome, now)

    def _outcome(self, outcome: Outcome, now: float) -> None:
        node, generation, result = outcome
        watched = self._watched.get(node)
        if watched is None or watched.generation != generation:
            return
        if result in (Result.ECHOED, Result.VOUCHED) and watched.life.status is Status.ALIVE:
            return  # by far the most frequent outcome, and it changes nothing
        if result is Result.NEWER:
            self._report.outdated.append(node)
        elif result is Result.ECHOED:
            watched.machine.echoed()
        elif result is Result.VOUCHED:
            watched.machine.vouched()
        else:
            watched.unanswered = True
            watched.machine.probe_failed()
        self._said(node, watched, now)

    def _settle(self, node: NodeId, watched: _Watched, now: float) -> None:
        self._said(node, watched, now)
        self._conclude(now)

    def _said(self, node: NodeId, watched: _Watched, now: float) -> None:
        self._list(node, watched)
        said = watched.life.said
        if not said:
            return
        watched.life.said = []
        for what in said:
            if what is Said.PROBE:
                self._probe(node, watched, now)
                continue
            if what is Said.SUSPECT:
                self._suspect(node, watched, now)
            else:
                self._suspicions.clear(node)
            if what in (Said.RESTARTED, Said.LEFT, Said.REMOVED):
                self._detector.forget(node)
            self._report.said.append((node, what, watched.life.announced))

    def _list(self, node: NodeId, watched: _Watched) -> None:
        """Enter a node into the rotations it takes part in."""
        status = watched.life.status
        if status is watched.listed:
            return
        watched.listed = status
        for rotation, able in (
            (self._live, _LIVE),
            (self._well, (Status.ALIVE,)),
            (self._unproven, _UNPROVEN),
        ):
            if status in able:
                rotation.add(node)
            else:
                rotation.discard(node)

    def _suspect(self, node: NodeId, watched: _Watched, now: float) -> None:
        generation = watched.generation
        silent = node in self._linked
        self._suspicions.start(node, generation, len(self._live) + 1, now, silent=silent)
        self._accuse([node, *self.some_alive(node, FANOUT)], self._me, node, generation)

    def _accuse(
        self, hearers: list[NodeId], accuser: NodeId, suspect: NodeId, generation: int
    ) -> None:
        told = [accuser, suspect, generation]
        self._report.out.extend(Tell(hearer, ACCUSE, told) for hearer in hearers)

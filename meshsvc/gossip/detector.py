"""Probes: does that life of that node answer, to me or at least to others?

A probe echoes the node itself, with a time-out from measured round trips; if that fails it
asks up to three others to do so, all at once. It ends in one ``Outcome``. It decides nothing
about membership, and knows nothing of links: where there is no way to a node, the echo fails
at once, which is all that matters here.

A failure while this node may be at fault itself (it was stopped, or blocked) is not counted:
the probe starts over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from meshsvc.gossip.effects import Echo, EchoVia
from meshsvc.gossip.health import LocalHealth, RoundTrip
from meshsvc.model import NodeId

HELPERS = 3
"""Nodes asked for an indirect echo, as in SWIM: one bad helper must not decide."""

VIA_STRETCH = 2.5
"""An indirect echo takes two round trips, the second of which nobody here has measured."""

HELPER_SHARE = 0.8
"""Share of the time-out a helper may use, so that its "no" is back before we stop waiting."""

NO = -1
"""A helper's answer when the node did not answer it."""

RETRY_S = 0.25
"""Pause before a probe that failed in doubt starts over."""

MAX_PROBES = 8192
"""At once: one for each endpoint there may be. A node that learns of a whole cluster echoes
all of it, and who is left out would count as dead without having been asked."""


class Result(Enum):
    """How a probe ended."""

    ECHOED = "echoed"
    VOUCHED = "vouched"
    FAILED = "failed"
    NEWER = "newer"


class Outcome(NamedTuple):
    """The result for one life of a node; ``generation`` is the life that was probed."""

    node: NodeId
    generation: int
    result: Result


class _Stage(Enum):
    DIRECT = "direct"
    INDIRECT = "indirect"
    PAUSED = "paused"


@dataclass(slots=True)
class _Probe:
    node: NodeId
    generation: int
    direct_only: bool
    timeout_s: float = 0.0
    sent: float = 0.0
    deadline: float = 0.0
    stage: _Stage = _Stage.DIRECT
    tokens: set[int] = field(default_factory=set)
    answers: int = 0


class Detector:
    """All probes that run, at most one a node."""

    def __init__(
        self,
        timeout_cap_s: float,
        health: LocalHealth,
        helpers: Callable[[NodeId, int], list[NodeId]],
    ) -> None:
        """``helpers(node, n)`` answers up to n live nodes other than ``node``, any choice."""
        self._cap_s = timeout_cap_s
        self._health = health
        self._helpers = helpers
        self._probes: dict[NodeId, _Probe] = {}
        self._by_token: dict[int, _Probe] = {}
        self._next_token = 1
        # An entry counts while its probe runs and still has that deadline.
        self._due: list[tuple[float, int, _Probe]] = []
        self._entries = 0
        self._round_trips: dict[NodeId, RoundTrip] = {}
        self._out: list[Echo | EchoVia] = []
        self._outcomes: list[Outcome] = []

    def probe(self, node: NodeId, generation: int, now: float, *, direct_only: bool) -> None:
        """Start a probe, unless one of this life of the node runs.

        ``direct_only`` asks no helpers: for nodes that must prove themselves anyway.
        """
        running = self._probes.get(node)
        if running is not None and running.generation == generation:
            return
        self.forget(node)
        if len(self._probes) < MAX_PROBES:
            probe = self._probes[node] = _Probe(node, generation, direct_only)
            self._echo(probe, now)

    def forget(self, node: NodeId) -> None:
        """End the probe of a node without an outcome."""
        probe = self._probes.pop(node, None)
        if probe is not None:
            self._drop_tokens(probe)

    def rtt_ms(self, node: NodeId) -> float | None:
        """The smoothed round trip to a node in milliseconds."""
        known = self._round_trips.get(node)
        if known is None or known.mean_s is None:
            return None
        return round(known.mean_s * 1000, 3)

    # --- what comes back -----------------------------------------------------------------

    def echo_done(self, token: int, answered: int | None, now: float) -> None:
        """An echo ended.

        Args:
            token: that of the ``Echo`` or ``EchoVia``.
            answered: the generation that answered (0: it is not ready), ``NO`` when a helper
                got no answer from the node, None when nobody answered.
            now: seconds.
        """
        probe = self._by_token.pop(token, None)
        if probe is None:
            return
        probe.tokens.discard(token)
        probe.answers += answered is not None
        direct = probe.stage is _Stage.DIRECT
        if answered == probe.generation:
            if direct:
                self._round_trip(probe.node).sample(now - probe.sent)
            self._health.well()
            self._end(probe, Result.ECHOED if direct else Result.VOUCHED)
        elif answered is not None and answered > probe.generation:
            self._end(probe, Result.NEWER)
        else:
            self._failed(probe, now)

    def tick(self, now: float) -> None:
        """End what waited long enough."""
        while (probe := self._first()) is not None and probe.deadline <= now:
            heappop(self._due)
            if probe.stage is _Stage.PAUSED:
                self._echo(probe, now)
            else:
                self._drop_tokens(probe)
                self._failed(probe, now)

    def deadline(self) -> float | None:
        """When ``tick`` is next wanted."""
        probe = self._first()
        return None if probe is None else probe.deadline

    def stalled(self, lag_s: float, now: float) -> None:
        """This node stood still: every echo gets its whole time again.

        A pause before the next echo does not: of a node that is late several times a second
        it would never end, and who is not echoed cannot answer.
        """
        for probe in self._probes.values():
            if probe.stage is _Stage.PAUSED:
                probe.deadline = min(probe.deadline, now + RETRY_S)
            else:
                probe.deadline = max(probe.deadline + lag_s, now + probe.timeout_s)
            probe.sent += lag_s
        self._due = [(p.deadline, number, p) for number, p in enumerate(self._probes.values())]
        self._entries = len(self._due)
        heapify(self._due)

    def take(self) -> tuple[list[Echo | EchoVia], list[Outcome]]:
        """What to send, and what came of probes, since the last call."""
        if not self._out and not self._outcomes:
            return [], []
        out, self._out = self._out, []
        outcomes, self._outcomes = self._outcomes, []
        return out, outcomes

    # --- steps ---------------------------------------------------------------------------

    def _echo(self, probe: _Probe, now: float) -> None:
        trip = self._round_trip(probe.node)
        probe.stage, probe.answers = _Stage.DIRECT, 0
        probe.timeout_s = trip.timeout_s(self._cap_s, self._health.factor)
        probe.sent = now
        self._wait(probe, now + probe.timeout_s)
        self._out.append(Echo(probe.node, self._token(probe), probe.timeout_s))

    def _failed(self, probe: _Probe, now: float) -> None:
        if probe.tokens:
            return
        if self._health.in_doubt(now):
            probe.stage = _Stage.PAUSED
            self._wait(probe, now + RETRY_S)
        elif probe.stage is _Stage.DIRECT and not probe.direct_only:
            self._ask_helpers(probe, now)
        else:
            if probe.stage is _Stage.INDIRECT and not probe.answers:
                self._health.missed()  # the helpers are deaf as well: maybe this node is
            self._end(probe, Result.FAILED)

    def _ask_helpers(self, probe: _Probe, now: float) -> None:
        helpers = self._helpers(probe.node, HELPERS)
        if not helpers:
            self._end(probe, Result.FAILED)
            return
        probe.stage, probe.answers = _Stage.INDIRECT, 0
        probe.timeout_s = min(probe.timeout_s * VIA_STRETCH, self._cap_s * self._health.factor)
        self._wait(probe, now + probe.timeout_s)
        for helper in helpers:
            token = self._token(probe)
            self._out.append(EchoVia(helper, probe.node, token, probe.timeout_s))

    def _end(self, probe: _Probe, result: Result) -> None:
        self.forget(probe.node)
        self._outcomes.append(Outcome(probe.node, probe.generation, result))

    def _wait(self, probe: _Probe, until: float) -> None:
        probe.deadline = until
        self._entries += 1
        heappush(self._due, (until, self._entries, probe))

    def _first(self) -> _Probe | None:
        """The probe that runs out of time first."""
        due = self._due
        while due:
            at, _, probe = due[0]
            if self._probes.get(probe.node) is probe and probe.deadline == at:
                return probe
            heappop(due)
        return None

    def _token(self, probe: _Probe) -> int:
        token = self._next_token
        self._next_token += 1
        self._by_token[token] = probe
        probe.tokens.add(token)
        return token

    def _drop_tokens(self, probe: _Probe) -> None:
        for token in probe.tokens:
            self._by_token.pop(token, None)
        probe.tokens.clear()

    def _round_trip(self, node: NodeId) -> RoundTrip:
        trip = self._round_trips.get(node)
        if trip is None:
            trip = self._round_trips[node] = RoundTrip()
        return trip

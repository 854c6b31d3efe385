"""The state of the network between hosts: how long packets take, and which do not arrive.

A path is one direction between two hosts. Whatever is not said of a path is as ``Weather``
says for all. A process of one host talks to another of the same host over a perfect path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

LOCAL_S = 30e-6
"""Between two processes of one host: a Unix socket and a wake-up."""

RTO_S = 0.2
"""The first retransmission of TCP; it doubles from there."""

RTO_CAP_S = 6.4
"""TCP goes to 120 s; every protocol of ours has given a link up long before."""

MAX_LOSSES = 8
"""In a row of one segment: at 50% loss, one in 256 is cut short here."""


FAIR_LOSS = 0.03
"""With less of its segments lost, no network is an excuse."""


@dataclass(frozen=True, slots=True)
class Weather:
    """How packets fare.

    ``delay_s`` one way, of which up to ``jitter_s`` more at random; ``loss`` is the
    probability that one segment has to be sent again; ``duplicate`` and ``reorder`` are of
    datagrams alone, as a stream hides them.
    """

    delay_s: float = 0.0005
    jitter_s: float = 0.0002
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0


Path = tuple[str, str]


class Sky:
    """All paths between hosts; ``now`` gives virtual seconds."""

    def __init__(self, rng: Random, everywhere: Weather, now: Callable[[], float]) -> None:
        self.everywhere = everywhere
        self.healed = 0
        self._now = now
        self._hurt: dict[Path, float] = {}
        self._rng = rng
        self._own: dict[Path, Weather] = {}
        self._blocked: dict[Path, int] = {}
        self._clogged: dict[Path, float] = {}

    def weather(self, source: str, target: str) -> Weather:
        """What holds on a path."""
        return self._own.get((source, target), self.everywhere)

    def set_weather(self, source: str, target: str, weather: Weather | None) -> None:
        """Give a path a weather of its own; None ends that."""
        if weather is None:
            self._own.pop((source, target), None)
        else:
            self._own[source, target] = weather

    def block(self, source: str, target: str) -> None:
        """Nothing arrives on a path until it is unblocked as often as it was blocked."""
        self._blocked[source, target] = self._blocked.get((source, target), 0) + 1

    def unblock(self, source: str, target: str) -> None:
        """Undo one ``block``."""
        left = self._blocked.get((source, target), 0) - 1
        if left > 0:
            self._blocked[source, target] = left
        else:
            self._blocked.pop((source, target), None)
        self.hurt(source, target)
        self.healed += 1

    def hurt(self, source: str, target: str) -> None:
        """Remember that something is, or was until now, wrong on a path."""
        self._hurt[source, target] = max(self._now(), self._hurt.get((source, target), 0.0))

    def well_for(self, source: str, target: str) -> float:
        """For how many seconds nothing was wrong on a path, except for what is so everywhere."""
        path = (source, target)
        if path in self._blocked or path in self._own:
            return 0.0
        return self._now() - self._hurt.get(path, 0.0)

    def clog(self, source: str, target: str, until: float) -> None:
        """What is sent on a path arrives at ``until`` (virtual seconds) at the earliest."""
        self._clogged[source, target] = until
        self._hurt[source, target] = until

    @property
    def calm(self) -> bool:
        """Whether every path is open and as all others."""
        return not (self._blocked or self._clogged or self._own)

    def clear(self) -> None:
        """End every block, clog and weather of a path's own."""
        for source, target in (*self._blocked, *self._own):
            self.hurt(source, target)
        self._blocked.clear()
        self._clogged.clear()
        self._own.clear()
        self.healed += 1

    def open(self, source: str, target: str) -> bool:
        """Whether a packet arrives at all."""
        return (source, target) not in self._blocked

    def arrival(self, source: str, target: str, now: float) -> float:
        """When a segment that leaves now arrives, with its retransmissions."""
        if source == target:
            return now + LOCAL_S
        weather = self.weather(source, target)
        rng = self._rng
        at = now + weather.delay_s + weather.jitter_s * rng.random()
        if weather.loss:
            losses = 0
            while losses < MAX_LOSSES and rng.random() < weather.loss:
                at += min(RTO_CAP_S, RTO_S * 2**losses)
                losses += 1
        return max(at, self._clogged.get((source, target), 0.0))

"""The control messages of a link that is up: what is owed to the peer, latest first.

Each kind is queued only when the connection has room, and only in its latest form: of ten
Pings that came while the peer did not read, one is answered. So a peer that sends but never
reads costs three frames.
"""

from __future__ import annotations

from meshsvc.link.gate import EpochGate
from meshsvc.link.keepalive import Dead, Keepalive
from meshsvc.wire.messages import EpochIs, Ping, Pong


class Controls:
    """Pings, Pongs and epochs that wait to be said, from the moment the link is up."""

    __slots__ = ("_gate", "_ping_due", "_pong_due", "alive")

    def __init__(self, gate: EpochGate, now: float) -> None:
        self.alive = Keepalive(now)
        self._gate = gate
        self._ping_due = False
        self._pong_due: int | None = None

    @property
    def due(self) -> bool:
        """Whether ``take`` would give something."""
        return self._ping_due or self._pong_due is not None or self._gate.news

    def tick(self, now: float) -> Dead | None:
        """Look whether the peer lives; a Ping becomes due, or the link is dead."""
        for effect in self.alive.tick(now):
            if isinstance(effect, Dead):
                return effect
            self._ping_due = True
        return None

    def ping(self, number: int) -> None:
        """A Ping came: it is owed a Pong."""
        self._pong_due = number

    def take(self, now: float) -> list[object]:
        """The messages that are due, to be sent at ``now``; the epoch first."""
        messages: list[object] = []
        if self._gate.news:
            epoch = self._gate.announce()
            messages.append(EpochIs(epoch.term, epoch.attempt))
        if self._pong_due is not None:
            messages.append(Pong(self._pong_due))
            self._pong_due = None
        if self._ping_due:
            messages.append(Ping(self.alive.ping_number(now)))
            self._ping_due = False
        return messages

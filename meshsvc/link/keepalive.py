"""Whether the peer of a link that is up still lives, and how far away it is (LINK-4).

A Ping goes out when nothing came for a second; a link over which nothing came for five is
dead ("silent"), and so is one whose output made no progress for five ("stalled"). A busy
link is pinged now and then for the round trip alone.

Bytes that come or go are recorded as plain times, which costs a store; the machine sees
phases only, once a second at most. A tick that comes late is this side's own pause (a
stopped process, a busy reactor), and is not counted against the peer: what it sent meanwhile
still waits in the socket.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from automat import TypeMachineBuilder

PING_AFTER_S = 1.0
DEAD_AFTER_S = 5.0
SAMPLE_EVERY_S = 5.0
"""How old a round trip may get while other traffic keeps the link busy."""

LATE_S = 1.0
"""A tick later than this is a pause of our own; reactors under load stay well below."""


@dataclass(frozen=True, slots=True)
class SendPing:
    """Send a Ping now."""


@dataclass(frozen=True, slots=True)
class Dead:
    """The link is dead: reset it."""

    reason: str
    text: str


Effect = SendPing | Dead


class _Keepalive(Protocol):
    """What a tick finds."""

    def quiet(self) -> None:
        """Nothing came for a while."""

    def heard(self) -> None:
        """Something came since the last tick."""

    def sample_due(self) -> None:
        """The last round trip is old."""

    def silent(self, seconds: float) -> None:
        """Nothing came for too long."""

    def stalled(self, seconds: float) -> None:
        """Nothing left for too long."""


@dataclass
class _Core:
    effects: list[Effect] = field(default_factory=list)


def _build_keepalive() -> Callable[[_Core], _Keepalive]:
    builder = TypeMachineBuilder(_Keepalive, _Core)
    watching = builder.state("watching")
    probing = builder.state("probing")
    dead = builder.state("dead")

    probing.upon(_Keepalive.heard).to(watching).returns(None)
    watching.upon(_Keepalive.heard).loop().returns(None)
    # One unanswered Ping is enough: the stream repeats it, not we.
    probing.upon(_Keepalive.quiet).loop().returns(None)
    probing.upon(_Keepalive.sample_due).loop().returns(None)
    # The driver is about to reset the link; there is nothing to find any more.
    dead.upon(_Keepalive.heard).loop().returns(None)
    dead.upon(_Keepalive.quiet).loop().returns(None)
    dead.upon(_Keepalive.sample_due).loop().returns(None)
    dead.upon(_Keepalive.silent).loop().returns(None)
    dead.upon(_Keepalive.stalled).loop().returns(None)

    @watching.upon(_Keepalive.quiet).to(probing)
    @watching.upon(_Keepalive.sample_due).to(watching)
    def ping(machine: _Keepalive, core: _Core) -> None:
        core.effects.append(SendPing())

    @watching.upon(_Keepalive.silent).to(dead)
    @probing.upon(_Keepalive.silent).to(dead)
    def lose(machine: _Keepalive, core: _Core, seconds: float) -> None:
        core.effects.append(Dead("silent", f"nothing was received for {seconds:.1f} s"))

    @watching.upon(_Keepalive.stalled).to(dead)
    @probing.upon(_Keepalive.stalled).to(dead)
    def give_up(machine: _Keepalive, core: _Core, seconds: float) -> None:
        core.effects.append(Dead("stalled", f"the peer took nothing for {seconds:.1f} s"))

    return builder.build()


KeepaliveMachine = _build_keepalive()


class Keepalive:
    """The face of ``KeepaliveMachine``, with the times it is fed from.

    ``received_at`` is stored by the owner whenever bytes came; ``blocked_since`` while
    output waits and the transport takes none of it.
    """

    def __init__(self, now: float) -> None:
        self._core = _Core()
        self._machine = KeepaliveMachine(self._core)
        self.received_at = now
        self.blocked_since: float | None = None
        self.rtt_s: float | None = None
        self._probed_for: float | None = None  # the ``received_at`` that a Ping went out for
        self._sampled_at = now - SAMPLE_EVERY_S
        self._number = 0
        self._sent_at: float | None = None

    def deadline(self) -> float:
        """When the next tick is wanted."""
        probing = self._probed_for == self.received_at
        at = self.received_at + (DEAD_AFTER_S if probing else PING_AFTER_S)
        if self.blocked_since is not None:
            at = min(at, self.blocked_since + DEAD_AFTER_S)
        return at

    def tick(self, now: float) -> list[Effect]:
        """Look at the times; what is to be done."""
        self._forgive(now)
        if self._probed_for != self.received_at:
            self._machine.heard()
        self._judge(now)
        effects, self._core.effects = self._core.effects, []
        return effects

    def _judge(self, now: float) -> None:
        silence = now - self.received_at
        blocked = 0.0 if self.blocked_since is None else now - self.blocked_since
        if silence >= DEAD_AFTER_S:
            self._machine.silent(silence)
        elif blocked >= DEAD_AFTER_S:
            self._machine.stalled(blocked)
        elif silence >= PING_AFTER_S:
            self._probed_for = self.received_at
            self._machine.quiet()
        elif now - self._sampled_at >= SAMPLE_EVERY_S:
            self._machine.sample_due()

    def ping_number(self, now: float) -> int:
        """The number for a Ping that leaves at ``now``."""
        self._number += 1
        self._sent_at = self._sampled_at = now
        return self._number

    def pong(self, number: int, now: float) -> None:
        """A Pong came; one that is not for the last Ping measures nothing."""
        if number == self._number and self._sent_at is not None:
            self.rtt_s = now - self._sent_at
            self._sent_at = None

    def _forgive(self, now: float) -> None:
        if now - self.deadline() > LATE_S:
            self.received_at = max(self.received_at, now - PING_AFTER_S)
            if self.blocked_since is not None:
                self.blocked_since = now

"""The phases of a link until it is up: Hello, Hello, Confirm, or a Refusal from either side.

The dialer is up when it accepts the acceptor's Hello, because data came both ways; the
acceptor is up at the dialer's Confirm (LINK-4). Who is acceptable is not decided here: the
session judges a Hello and tells the machine the verdict. A handshake that takes longer than
``DEADLINE_S`` is refused (LINK-1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from automat import TypeMachineBuilder

from meshsvc.wire.messages import Refusal

DEADLINE_S = 5.0
"""From the first byte to up; a round trip around the planet takes a tenth of it."""


@dataclass(frozen=True, slots=True)
class SayHello:
    """Send this side's Hello."""


@dataclass(frozen=True, slots=True)
class SayConfirm:
    """Send Confirm."""


@dataclass(frozen=True, slots=True)
class SayRefusal:
    """Send this refusal; the link ends here."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class BecomeUp:
    """The link is up at this end."""


@dataclass(frozen=True, slots=True)
class End:
    """The link ended; ``remote`` when the other side ended it."""

    reason: str
    text: str
    heals: bool
    remote: bool


Effect = SayHello | SayConfirm | SayRefusal | BecomeUp | End


class _Handshake(Protocol):
    """What happens on one connection, up to and including its end."""

    def dial(self) -> None:
        """This side made the connection."""

    def accept(self) -> None:
        """The other side made it."""

    def hello_accepted(self) -> None:
        """The peer's Hello came, and it may have the link."""

    def confirmed(self) -> None:
        """The peer's Confirm came, and it still may."""

    def declined(self, refusal: Refusal) -> None:
        """This side will not have the peer: its Hello, its bytes, or its time was wrong."""

    def refusal_received(self, refusal: Refusal) -> None:
        """The peer will not have this side."""

    def ended(self, end: End) -> None:
        """The connection is gone, or either side said goodbye."""


@dataclass
class _Core:
    effects: list[Effect] = field(default_factory=list)


def _greet(machine: _Handshake, core: _Core) -> None:
    core.effects.append(SayHello())


def _confirm(machine: _Handshake, core: _Core) -> None:
    core.effects += [SayConfirm(), BecomeUp()]


def _begin(machine: _Handshake, core: _Core) -> None:
    core.effects.append(BecomeUp())


def _refuse(machine: _Handshake, core: _Core, refusal: Refusal) -> None:
    core.effects.append(SayRefusal(refusal))
    core.effects.append(End(refusal.reason, refusal.text, refusal.heals, remote=False))


def _drop(machine: _Handshake, core: _Core, refusal: Refusal) -> None:
    core.effects.append(End(refusal.reason, refusal.text, refusal.heals, remote=False))


def _accept_refusal(machine: _Handshake, core: _Core, refusal: Refusal) -> None:
    core.effects.append(End(refusal.reason, refusal.text, refusal.heals, remote=True))


def _finish(machine: _Handshake, core: _Core, end: End) -> None:
    core.effects.append(end)


def _build_handshake() -> Callable[[_Core], _Handshake]:
    builder = TypeMachineBuilder(_Handshake, _Core)
    idle = builder.state("idle")
    dialing = builder.state("dialing")
    accepting = builder.state("accepting")
    confirming = builder.state("confirming")
    up = builder.state("up")
    closed = builder.state("closed")

    idle.upon(_Handshake.accept).to(accepting).returns(None)

    # A role is taken once.
    for state in (dialing, accepting, confirming, up, closed):
        state.upon(_Handshake.dial).loop().returns(None)
        state.upon(_Handshake.accept).loop().returns(None)
    # The session lets each message through in its own phase only; elsewhere it declines.
    for state in (idle, confirming, up, closed):
        state.upon(_Handshake.hello_accepted).loop().returns(None)
    for state in (idle, dialing, accepting, up, closed):
        state.upon(_Handshake.confirmed).loop().returns(None)
    # What is over stays over, and ends once.
    closed.upon(_Handshake.declined).loop().returns(None)
    closed.upon(_Handshake.refusal_received).loop().returns(None)
    closed.upon(_Handshake.ended).loop().returns(None)

    idle.upon(_Handshake.dial).to(dialing)(_greet)
    accepting.upon(_Handshake.hello_accepted).to(confirming)(_greet)
    dialing.upon(_Handshake.hello_accepted).to(up)(_confirm)
    confirming.upon(_Handshake.confirmed).to(up)(_begin)
    for state in (idle, dialing, accepting, confirming):
        state.upon(_Handshake.declined).to(closed)(_refuse)
    # A link that is up is not refused any more: it ends with a Bye, which is not ours to say.
    up.upon(_Handshake.declined).to(closed)(_drop)
    # Up is included: the dialer may be up while the acceptor still thinks about it.
    for state in (idle, dialing, accepting, confirming, up):
        state.upon(_Handshake.refusal_received).to(closed)(_accept_refusal)
        state.upon(_Handshake.ended).to(closed)(_finish)
    return builder.build()


HandshakeMachine = _build_handshake()


class Handshake:
    """The face of ``HandshakeMachine``; effects are drained with ``take_effects``."""

    def __init__(self, *, dialing: bool) -> None:
        self._core = _Core()
        self._machine = HandshakeMachine(self._core)
        if dialing:
            self._machine.dial()
        else:
            self._machine.accept()

    def take_effects(self) -> list[Effect]:
        """What is to be done, in order."""
        effects, self._core.effects = self._core.effects, []
        return effects

    def hello_accepted(self) -> None:
        """The peer may have the link."""
        self._machine.hello_accepted()

    def confirmed(self) -> None:
        """The dialer accepted this side too."""
        self._machine.confirmed()

    def declined(self, refusal: Refusal) -> None:
        """This side will not have the peer."""
        self._machine.declined(refusal)

    def refusal_received(self, refusal: Refusal) -> None:
        """The peer will not have this side."""
        self._machine.refusal_received(refusal)

    def ended(self, reason: str, text: str, *, heals: bool, remote: bool) -> None:
        """The connection is gone, or either side said goodbye."""
        self._machine.ended(End(reason, text, heals, remote))

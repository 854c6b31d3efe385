"""One connection of the bus: greets, then carries the frames of one lane.

Both sides say ``BusHello`` first, the dialer unasked, the acceptor once the dialer's is
accepted; a refusal is a ``Bye`` in its place. Frames that come before both lanes are open are
held, and no more is read until then, so that nobody hears from a sibling that is not up yet.
"""

from __future__ import annotations

from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from meshsvc.counters import Counters
from meshsvc.errors import WireError
from meshsvc.link.protocol import FramedProtocol
from meshsvc.model import Incarnation, ShardId
from meshsvc.shards.bus import (
    MAX_BUS_FRAME,
    MAX_LANE_BYTES,
    MAX_LANE_FRAMES,
    VARIANTS,
    BusRefused,
    Lane,
    Seat,
    Stream,
)
from meshsvc.wire.messages import BusHello, Bye
from meshsvc.wire.registry import Role, decode_message

GREETING_S: Final = 5.0
"""Seconds for both hellos: a sibling that is started but this slow will be restarted anyway."""


class BusOwner(Protocol):
    """What a connection needs of the service it belongs to."""

    seat: Seat
    counters: Counters

    def connected(self, connection: BusConnection) -> None:
        """A connection was made, in either direction."""

    def greeted(self, connection: BusConnection, hello: BusHello) -> Stream:
        """The other side said who it is; raises BusRefused."""

    def opened(self, connection: BusConnection) -> None:
        """Both sides have said who they are."""

    def took(self, shard: ShardId, incarnation: Incarnation, message: object) -> None:
        """A message came from a sibling that is up."""

    def ended(self, connection: BusConnection, unsent: int, text: str) -> None:
        """A connection ended with this many frames still queued; called once."""


class BusConnection(FramedProtocol):
    """One end of one lane.

    Args:
        clock: the reactor's timers.
        owner: the service.
        dialed: which sibling and lane this side dialed, or None when it accepted.
    """

    def __init__(
        self, clock: IReactorTime, owner: BusOwner, dialed: tuple[ShardId, Lane] | None
    ) -> None:
        super().__init__(clock, MAX_LANE_FRAMES, MAX_LANE_BYTES, MAX_BUS_FRAME)
        self.dialed = dialed
        self.shard = ShardId(-1)
        self.incarnation = Incarnation(0)
        self._owner = owner
        self._variant = VARIANTS[Lane.MAIN]
        self._stream: Stream | None = None
        self._held: list[bytes] | None = []
        self._greeting_call: IDelayedCall | None = None
        self._unsent = 0

    @property
    def stranger(self) -> bool:
        """Whether the other side has not said who it is."""
        return self._stream is None

    def connected_to_peer(self) -> None:
        """Say hello if this side dialed, and wait for the other's."""
        self._greeting_call = self.clock.callLater(GREETING_S, self._silent)
        self._owner.connected(self)
        if self.dialed is not None:
            self.send(self._owner.seat.hello(self.dialed[1]))

    def cut(self) -> int:
        """End at once; returns how many frames were queued, which are gone."""
        unsent = self._discard()
        self.break_off("cut", "the other lane ended, or another life took this one's place")
        return unsent

    def release(self) -> None:
        """The sibling is up: deliver what was held, and read on."""
        held, self._held = self._held, None
        if not held:
            return
        try:
            for body in held:
                # An observer may have ended this connection.
                if not self._finishing:
                    self._pass_on(body)
        except WireError as error:
            self.break_off(error.reason, str(error))
        if not self._finishing and self.transport is not None:
            self.transport.resumeProducing()  # type: ignore[attr-defined]

    def body_received(self, body: bytes) -> None:
        """One frame: the greeting, or a message, which may have to wait."""
        if self._stream is None:
            self._greet(body)
        elif self._held is None:
            self._pass_on(body)
        else:
            # At most one read's worth, as no more is read until the other lane is open.
            self._held.append(body)
            assert self.transport is not None
            self.transport.pauseProducing()  # type: ignore[attr-defined]

    def disconnected(self, reason: Failure) -> None:
        """Note what never left before it is thrown away."""
        self._unsent = self._discard()
        self._stop_waiting()
        super().disconnected(reason)

    def ended(self, reason: str, text: str) -> None:
        """Tell the owner."""
        self._owner.ended(self, self._unsent, text)

    def _greet(self, body: bytes) -> None:
        message = decode_message(body, Role.SHARD)
        if isinstance(message, Bye):
            self.break_off(message.reason, f"refused by the sibling: {message.text}")
            return
        if not isinstance(message, BusHello):
            raise WireError(f"a {type(message).__name__} came before BusHello")
        try:
            self._check_dialed(message)
            self._stream = self._owner.greeted(self, message)
        except BusRefused as refused:
            self.close(refused.reason, str(refused), Bye(refused.reason, str(refused)))
            return
        self.shard = ShardId(message.shard)
        self.incarnation = Incarnation(message.incarnation)
        self._variant = VARIANTS[message.lane]
        self._stop_waiting()
        if self.dialed is None:
            self.send(self._owner.seat.hello(Lane(message.lane)))
        self._owner.opened(self)

    def _check_dialed(self, hello: BusHello) -> None:
        if self.dialed is not None and self.dialed != (hello.shard, hello.lane):
            shard, lane = self.dialed
            raise BusRefused(
                "wrong-sibling",
                f"shard {hello.shard} lane {hello.lane} answered at the socket of shard {shard}"
                f" lane {int(lane)}",
            )

    def _pass_on(self, body: bytes) -> None:
        assert self._stream is not None
        try:
            inner = self._stream.accept(body)
            message = None if inner is None else decode_message(inner, Role.SHARD)
        except WireError as error:
            self._owner.counters.drop(self._variant, error.reason)
            raise
        if message is not None:
            self._owner.took(self.shard, self.incarnation, message)

    def _discard(self) -> int:
        unsent = self.outbox.frames
        self.outbox.seal()
        self.outbox.clear()
        return unsent

    def _stop_waiting(self) -> None:
        if self._greeting_call is not None and self._greeting_call.active():
            self._greeting_call.cancel()
        self._greeting_call = None

    def _silent(self) -> None:
        self.break_off("silent", f"no hello within {GREETING_S:g} s")

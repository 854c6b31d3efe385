"""From sans-IO to sockets: one write per reactor turn, one timer, bounded buffers.

``TurnProtocol`` holds what every stream of ours shares. Whatever is said within one reactor
turn leaves in one write (WIRE-5); the transport holds at most one such write above its own
64 KiB, the rest waits where it is bounded (LINK-5). ``FramedProtocol`` adds frames and an
outbox for streams within one node, ``LinkProtocol`` drives a ``Session`` between nodes.

No exception that a peer's bytes cause leaves ``dataReceived``.
"""

from __future__ import annotations

from typing import Protocol as TypingProtocol

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IDelayedCall,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshsvc.errors import WireError
from meshsvc.link.events import Disposal, Event
from meshsvc.link.outbox import Outbox, write_now
from meshsvc.link.session import Session
from meshsvc.link.table import Link
from meshsvc.model import Epoch, Sent
from meshsvc.wire.frames import MAX_FRAME, FrameBuffer, pack
from meshsvc.wire.registry import encode_message

WRITE_BYTES = 256 * 1024
"""One write: large enough that a system call is cheap, small enough to hold twice."""

CLOSE_S = 1.0
"""How long a closed stream may take to send its farewell before it is reset."""


@implementer(IPushProducer)
class TurnProtocol(Protocol):
    """Writes once a turn what ``take_output`` gives; subclasses say what that is.

    A subclass calls ``wake`` when it has output, and overrides ``take_output``. It may
    override ``connected_to_peer``, ``output_taken`` and ``disconnected``.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self.clock = clock
        self._flush_call: IDelayedCall | None = None
        self._abort_call: IDelayedCall | None = None
        self._ready = False
        self._paused = False
        self._direct = False
        self._finishing = False
        self._closing = False

    # what a subclass overrides

    def take_output(self, max_bytes: int) -> bytes:
        """What to write next, about ``max_bytes`` at most; empty when there is nothing."""
        raise NotImplementedError

    def connected_to_peer(self) -> None:
        """The transport is there."""

    def output_taken(self) -> None:
        """The transport has room again: what was written so far has left."""

    def disconnected(self, reason: Failure) -> None:
        """The transport is gone; called once."""

    # what a subclass calls

    @property
    def blocked(self) -> bool:
        """Whether the transport refuses more until the peer reads."""
        return self._paused

    def wake(self) -> None:
        """There is output: it leaves at the end of this turn."""
        if self._flush_call is None and self._ready and not self._paused:
            self._flush_call = self.clock.callLater(0, self._flush)

    def flush_now(self) -> None:
        """The turn is over as far as the caller knows: write what waits, if anything does.

        For one who batches a turn of its own; what is said after it leaves in the next turn.
        """
        if self._ready and not self._paused and not self._finishing:
            self._flush()

    def finish(self, within_s: float = CLOSE_S) -> None:
        """Write what there is, then close; reset when that takes over ``within_s`` seconds."""
        if self._finishing or not self._ready:
            return
        self._finishing = True
        self._abort_call = self.clock.callLater(within_s, self.abort)
        self._flush()

    def abort(self) -> None:
        """Reset the connection; what was not sent is lost."""
        if self.transport is not None and self._ready:
            self._finishing = self._closing = True
            self.transport.abortConnection()  # type: ignore[attr-defined]

    # what the reactor calls

    def connectionMade(self) -> None:
        """Twisted: there is a transport."""
        assert self.transport is not None
        self._ready = True
        self._direct = isinstance(self.transport, FileDescriptor)
        # Unix sockets say they are TCP transports, and fail when asked to behave like one.
        tcp = isinstance(self.transport.getHost(), IPv4Address | IPv6Address)
        if tcp and ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)  # type: ignore[attr-defined]
        self.connected_to_peer()
        self.wake()

    def pauseProducing(self) -> None:
        """Twisted: the transport's buffer is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Twisted: the transport's buffer is empty."""
        self._paused = False
        self.output_taken()
        if self._ready:
            self._flush()

    def stopProducing(self) -> None:
        """Twisted: the transport goes away, ``connectionLost`` follows."""
        self._paused = True

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted: the transport is gone."""
        self._ready = False
        for call in (self._flush_call, self._abort_call):
            if call is not None and call.active():
                call.cancel()
        self._flush_call = self._abort_call = None
        self.disconnected(reason)

    def _flush(self) -> None:
        if self._flush_call is not None:
            if self._flush_call.active():
                self._flush_call.cancel()
            self._flush_call = None
        transport = self.transport
        if self._closing or transport is None:
            return
        # A real transport pauses us after one such write; the outbox bounds the loop as well.
        while not self._paused:
            data = self.take_output(WRITE_BYTES)
            if not data:
                if self._finishing:
                    self._closing = True
                    transport.unregisterProducer()  # type: ignore[attr-defined]
                    transport.loseConnection()
                return
            if self._direct:
                write_now(transport, data)
            else:
                transport.write(data)


class FramedProtocol(TurnProtocol):
    """Frames both ways over a stream within one node; subclass and override.

    Args:
        clock: for the per-turn flush.
        max_frames, max_bytes: the bounds of the outbox.
        max_frame: bytes of the largest body that is accepted.
    """

    def __init__(
        self,
        clock: IReactorTime,
        max_frames: int = 4096,
        max_bytes: int = 16 * 1024 * 1024,
        max_frame: int = MAX_FRAME,
    ) -> None:
        super().__init__(clock)
        self.outbox = Outbox(max_frames, max_bytes)
        self._frames = FrameBuffer(max_frame)
        self._ending = ("lost", "the connection was lost")
        self._ended = False

    # what a subclass overrides

    def body_received(self, body: bytes) -> None:
        """The body of one frame; a WireError raised here closes the stream."""
        raise NotImplementedError

    def ended(self, reason: str, text: str) -> None:
        """The stream is gone; called once, after ``connected_to_peer`` only."""

    # what a subclass or its owner calls

    def send(self, message: object) -> Sent:
        """Queue a message of the registry."""
        return self.send_body(encode_message(message))

    def send_body(self, body: bytes) -> Sent:
        """Queue an encoded message, at most ``MAX_FRAME`` bytes."""
        if not self._ready or self._finishing:
            return Sent.DISCONNECTED
        sent = self.outbox.put(pack(body))
        self.wake()
        return sent

    def send_urgent(self, message: object) -> Sent:
        """Queue a control message before all that is not one."""
        if not self._ready or self._finishing:
            return Sent.DISCONNECTED
        sent = self.outbox.put_urgent(pack(encode_message(message)))
        self.wake()
        return sent

    def close(self, reason: str, text: str, last: object = None) -> None:
        """Send what is queued, then ``last`` if given, and close; ``ended`` gets the reason."""
        if not self._finishing:
            self._ending = (reason, text)
            if last is not None:
                self.outbox.put_last(pack(encode_message(last)))
            self.outbox.seal()
            self.finish()

    def break_off(self, reason: str, text: str) -> None:
        """Reset the stream; ``ended`` gets the reason."""
        if not self._finishing:
            self._ending = (reason, text)
            self.abort()

    # what the base class calls

    def take_output(self, max_bytes: int) -> bytes:
        """From the outbox."""
        return self.outbox.take(max_bytes)

    def dataReceived(self, data: bytes) -> None:
        """Twisted: bytes came."""
        if self._finishing:
            return
        try:
            for body in self._frames.feed(data):
                self._take(body)
        except WireError as error:
            self.break_off(error.reason, str(error))
        except Exception:
            self._log.failure("a message could not be taken; its stream is closed")
            self.break_off("internal", "this side failed on a message, see its log")

    def _take(self, body: bytes) -> None:
        if not self._finishing:
            self.body_received(body)

    def disconnected(self, reason: Failure) -> None:
        """Once, the end."""
        self.outbox.seal()
        self.outbox.clear()
        if not self._ended:
            self._ended = True
            self.ended(*self._ending)


class LinkOwner(TypingProtocol):
    """Whoever the events of a link go to."""

    def link_event(self, carrier: LinkProtocol, event: Event) -> None:
        """One event of its session."""

    def link_gone(self, carrier: LinkProtocol) -> None:
        """Its connection is gone; nothing comes after this."""


class LinkProtocol(TurnProtocol):
    """Drives one ``Session`` over one connection: a carrier of a ``Link``."""

    def __init__(self, clock: IReactorTime, session: Session, owner: LinkOwner) -> None:
        super().__init__(clock)
        self.session = session
        self.link: Link | None = None
        self._owner = owner
        self._timer: IDelayedCall | None = None
        self._timer_at = 0.0
        self._draining = False

    @property
    def remote_host(self) -> str:
        """The host of the peer, for people; its port says nothing about who it is."""
        peer = self.transport.getPeer() if self.transport is not None else None
        return str(getattr(peer, "host", peer))

    def send(self, message: object) -> Sent:
        """Queue a message; it leaves at the end of this turn."""
        sent = self.session.send(message)
        self.wake()
        return sent

    def send_body(self, body: bytes) -> Sent:
        """Queue an encoded envelope; it leaves with ``flush_now``, which its sender owes."""
        return self.session.send_body(body)

    def close(self, reason: str, text: str, *, delivering: bool = False) -> None:
        """Say goodbye (or refuse, before the link is up), then close."""
        self.session.close(reason, text, self.clock.seconds(), delivering=delivering)
        self._drain()

    def set_epoch(self, epoch: Epoch) -> None:
        """This node adopted an epoch."""
        self.session.set_epoch(epoch)
        self._drain()

    def hold(self, held: bool) -> None:
        """Neither write nor read but for control messages, or do so again."""
        self.session.hold(held)
        if self._ready and self.transport is not None:
            if held:
                self.transport.pauseProducing()  # type: ignore[attr-defined]
            else:
                self.transport.resumeProducing()  # type: ignore[attr-defined]
                self.wake()

    # --- from the base class and the reactor ---------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Twisted: bytes came."""
        self.session.receive(data, self.clock.seconds())
        self._drain()

    def connected_to_peer(self) -> None:
        """Start the clock of the handshake."""
        self._drain()

    def take_output(self, max_bytes: int) -> bytes:
        """From the session."""
        return self.session.take_output(max_bytes, self.clock.seconds())

    def pauseProducing(self) -> None:
        """Twisted: the transport's buffer is full."""
        super().pauseProducing()
        self.session.blocked(self.clock.seconds())

    def output_taken(self) -> None:
        """The peer reads."""
        self.session.blocked(None)

    def disconnected(self, reason: Failure) -> None:
        """The end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.session.lost("lost", reason.getErrorMessage(), self.clock.seconds())
        self._drain()
        self._owner.link_gone(self)

    def _drain(self) -> None:
        if self._draining:  # the owner closed the link from within an event
            return
        self._draining = True
        session = self.session
        try:
            while events := session.take_events():
                for event in events:
                    self._owner.link_event(self, event)
        finally:
            self._draining = False
        if not self._ready:
            return
        if session.has_output:
            self.wake()
        if session.disposal is Disposal.FLUSH:
            self.finish()
        elif session.disposal is Disposal.RESET:
            self.abort()
        self._arm()

    def _arm(self) -> None:
        at = self.session.deadline()
        # An early timer is set again when it rings: cheaper than moving it as bytes come.
        if at is None or (self._timer is not None and self._timer_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self.clock.callLater(max(0.0, at - self.clock.seconds()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.session.tick(self.clock.seconds())
        self._drain()

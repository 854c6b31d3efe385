"""One end of a simulated stream: the transport that a protocol writes to.

It keeps to what Twisted's transports do: writes never wait, a registered producer is paused
over 64 KiB of unsent bytes and resumed when they have left, ``loseConnection`` sends what is
buffered first, ``abortConnection`` does not, and ``connectionLost`` comes once and last.

What one end sends, the ``Wire`` carries: in order, whatever the weather, as TCP does. A wire
ends where one of its ends is gone: what arrives there afterwards is answered with a reset,
unless the host itself is gone, which answers nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ITCPTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from meshsvc.sim.clock import ProcessClock
from meshsvc.sim.weather import RTO_CAP_S, RTO_S

if TYPE_CHECKING:
    from meshsvc.sim.network import Host, Network

KERNEL_BYTES = 128 * 1024
"""What the kernel takes before a write stays with the transport."""

BUFFER_BYTES = 64 * 1024
"""What a transport holds above that before it pauses its producer, as in Twisted."""

_FIN, _RST, _ACCEPT = "fin", "reset", "accept"


class Wire:
    """One direction of a stream."""

    __slots__ = ("_held_acks", "_last", "_net", "_rto", "_stalled", "_timer", "source", "target")

    def __init__(self, net: Network, source: End, target: End) -> None:
        self._net = net
        self.source, self.target = source, target
        self._last = 0.0
        self._rto = RTO_S
        self._stalled: deque[bytes | str] = deque()
        self._timer: Any = None
        self._held_acks = 0

    def send(self, item: bytes | str) -> None:
        """Send bytes, or the end of the stream, behind all that was sent before."""
        net, source, target = self._net, self.source, self.target
        now = net.time.now
        at = net.sky.arrival(source.host.name, target.host.name, now)
        self._last = at = max(at, self._last)
        if net.flights is not None and isinstance(item, bytes):
            net.flights.sent(now, at, self.path, len(item))
        # By the clock of the receiving process: what it does not read while it is stopped
        # stays unacknowledged.
        target.process.post(at - now, self._arrive, item)

    def reset(self) -> None:
        """Send a reset: one packet, lost when the path is blocked."""
        net, source, target = self._net, self.source.host.name, self.target.host.name
        now = net.time.now
        net.time.at(net.sky.arrival(source, target, now), self._reset_arrives)

    @property
    def path(self) -> tuple[str, str]:
        """From which host to which."""
        return (self.source.host.name, self.target.host.name)

    def drop_all(self) -> None:
        """What has not arrived never will."""
        self._let_go()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _passable(self) -> bool:
        source, target = self.source.host, self.target.host
        return target.up and self._net.sky.open(source.name, target.name)

    def _reset_arrives(self) -> None:
        if self._passable():
            self.target.lost(ConnectionLost())

    def _arrive(self, item: bytes | str) -> None:
        if self.source.aborted:
            return
        if self._stalled or not self._passable():
            self._stalled.append(item)
            self._held(1)
            if len(self._stalled) == 1:
                self._rto = RTO_S
                self._timer = self._net.time.after(self._rto, self._retry)
            return
        self._hand_over(item)

    def _retry(self) -> None:
        if self.source.aborted or not self._stalled:
            return
        if not self._passable():
            self._rto = min(RTO_CAP_S, self._rto * 2)
            self._timer = self._net.time.after(self._rto, self._retry)
        elif self.target.process.alive:
            self.target.process.post(0.0, self._unstall)
        else:
            self._let_go()
            self.target.wire.reset()

    def _unstall(self) -> None:
        self._held(-len(self._stalled))
        while self._stalled:
            self._hand_over(self._stalled.popleft())

    def _let_go(self) -> None:
        self._held(-len(self._stalled))
        self._stalled.clear()

    def _held(self, change: int) -> None:
        if self._net.flights is not None:
            self._net.flights.held(self._net.time.now, self.path, change)

    def _hand_over(self, item: bytes | str) -> None:
        target = self.target
        if item == _ACCEPT:
            target.accepted()
        elif target.closed:
            if target.host.up and item != _FIN:
                target.wire.reset()
        elif item == _FIN:
            target.finished()
        else:
            assert isinstance(item, bytes)
            self._net.note(self.source, target, len(item))
            target.arrived(item)

    def acknowledge(self, size: int) -> None:
        """The receiving process has read this much; the sender hears of it if it can."""
        self._held_acks += size
        source, target = self.source.host, self.target.host
        if self._net.sky.open(target.name, source.name):
            size, self._held_acks = self._held_acks, 0
            self.source.acknowledged(size)


@implementer(ITCPTransport)
class End:
    """One end of a stream; the transport of a protocol once it has one."""

    disconnecting = False

    def __init__(self, net: Network, host: Host, process: ProcessClock, addresses: Any) -> None:
        self.net, self.host, self.process = net, host, process
        self.here, self.there = addresses
        self.wire: Wire
        self.protocol: Any = None
        self.on_data: Callable[[], None] | None = None
        self.connected = False
        self.established = False
        self.closed = False
        self.aborted = False
        self._accept: Callable[[End], None] | None = None
        self._inbox: deque[bytes | str] = deque()
        self._reading = True
        self._unacked = 0
        self._producer: Any = None
        self._producer_paused = False
        self._closing: Any = None

    # --- ITCPTransport -------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Twisted: send."""
        if self.closed or self.disconnecting or not data:
            return
        self._unacked += len(data)
        self.wire.send(bytes(data))
        if (
            self._producer is not None
            and not self._producer_paused
            and self._unacked > KERNEL_BYTES + BUFFER_BYTES
        ):
            self._producer_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        """Twisted: send."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Twisted: close when everything was handed to the kernel."""
        if not (self.closed or self.disconnecting):
            self.disconnecting = True
            self._close_when_empty()

    def abortConnection(self) -> None:
        """Twisted: reset."""
        if self.closed or self._closing is not None:
            return
        self.aborted = self.disconnecting = True
        self.wire.drop_all()
        self.wire.reset()
        self._closing = self.process.post(0.0, self.lost, ConnectionAborted())

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Twisted: pause it when the buffer is full."""
        if self.closed:
            producer.stopProducing()
            return
        self._producer = producer
        self._producer_paused = False

    def unregisterProducer(self) -> None:
        """Twisted: pause nobody."""
        self._producer = None

    def pauseProducing(self) -> None:
        """Twisted: read nothing."""
        self._reading = False

    def stopProducing(self) -> None:
        """Twisted: the reader has enough."""
        self.loseConnection()

    def resumeProducing(self) -> None:
        """Twisted: read on."""
        if not self._reading:
            self._reading = True
            self.process.post(0.0, self._read)

    def getHost(self) -> Any:
        """Twisted: this side's address."""
        return self.here

    def getPeer(self) -> Any:
        """Twisted: the other side's address."""
        return self.there

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Twisted: there is no Nagle here."""

    def getTcpNoDelay(self) -> bool:
        """Twisted: see ``setTcpNoDelay``."""
        return True

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Twisted: connections here last as long as their hosts."""

    def getTcpKeepAlive(self) -> bool:
        """Twisted: see ``setTcpKeepAlive``."""
        return False

    def loseWriteConnection(self) -> None:
        """Twisted: half-close; nothing of ours does it."""
        raise NotImplementedError

    # --- a life --------------------------------------------------------------------------

    def attach(self, protocol: Any) -> None:
        """Give the stream to a protocol, with what has come for it so far."""
        if self.closed:  # reset while it was handed over
            protocol.makeConnection(self)
            self.process.post(0.0, protocol.connectionLost, Failure(ConnectionLost()))
            return
        self.protocol, self.connected = protocol, True
        protocol.makeConnection(self)
        if self._inbox:
            self.process.post(0.0, self._read)

    def peek(self, size: int) -> bytes:
        """The first bytes that came and nobody has taken yet."""
        return b"".join(item for item in self._inbox if isinstance(item, bytes))[:size]

    def awaits(self, accept: Callable[[End], None]) -> None:
        """Call ``accept`` when the other side's connection is there."""
        self._accept = accept

    def announce(self) -> None:
        """The dialing end is connected: the other one hears of it before any byte."""
        self.wire.send(_ACCEPT)

    def accepted(self) -> None:
        """The connection was accepted by the kernel of this side."""
        if self._accept is not None and not self.closed:
            self.established = True
            self._accept(self)

    def move_to(self, process: ProcessClock) -> None:
        """Another process of the host has the connection now."""
        self.process = process

    # --- from the wires ------------------------------------------------------------------

    def arrived(self, data: bytes) -> None:
        """Bytes came."""
        self._inbox.append(data)
        if self.protocol is not None:
            self._read()
        elif self.on_data is not None:
            self.on_data()

    def finished(self) -> None:
        """The other side closed."""
        self._inbox.append(_FIN)
        if self.protocol is not None:
            self._read()
        elif self.on_data is not None:
            self.on_data()

    def lost(self, why: Exception) -> None:
        """The connection is gone; the protocol hears of it, unless it heard before."""
        if self.closed:
            return
        self._close()
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            protocol.connectionLost(Failure(why))
        elif self.on_data is not None:
            self.on_data()

    def acknowledged(self, size: int) -> None:
        """The other side has read this much."""
        self._unacked -= size
        if self.closed or self._unacked > KERNEL_BYTES:
            return
        if self._producer is not None and self._producer_paused:
            self.process.post(0.0, self._resume_producer)
        elif self.disconnecting:
            self._close_when_empty()

    def break_silently(self) -> None:
        """This side loses the connection, and the other one is not told."""
        if not self.closed and self._closing is None:
            self.aborted = True
            self.wire.drop_all()
            self.process.post(0.0, self.lost, ConnectionLost())

    def vanish(self) -> None:
        """The process is gone: its kernel closes the stream, behind what was sent."""
        if not self.closed:
            self._close()
            if self.host.up:
                self.wire.send(_FIN)

    def _resume_producer(self) -> None:
        if self._producer is not None and self._producer_paused and not self.closed:
            self._producer_paused = False
            self._producer.resumeProducing()

    def _read(self) -> None:
        while self._inbox and self._reading and self.protocol is not None:
            item = self._inbox.popleft()
            if item == _FIN:
                self.lost(ConnectionDone())
                return
            assert isinstance(item, bytes)
            self.wire_in.acknowledge(len(item))
            self.protocol.dataReceived(item)

    @property
    def wire_in(self) -> Wire:
        """The direction towards this end."""
        return self.net.other(self).wire

    def _close_when_empty(self) -> None:
        if self._closing is None and self._unacked <= KERNEL_BYTES:
            self._closing = self.process.post(0.0, self._close_cleanly)

    def _close_cleanly(self) -> None:
        if not self.closed:
            self.wire.send(_FIN)
            self.lost(ConnectionDone())

    def _close(self) -> None:
        self.closed, self.connected = True, False
        self.net.end_closed(self)
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()

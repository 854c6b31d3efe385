"""The simulated network: hosts, streams between them, and the reactor of each process.

A ``SimReactor`` has the methods of Twisted's reactors that nodes use, so that endpoints,
services and protocols run on it unchanged: timers, TCP and Unix sockets, and connections
that another process accepted (``adoptStreamConnection``).
"""

# ruff: noqa: N803 - argument names are those of the reactor's interfaces

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import (
    CannotListenError,
    ConnectionRefusedError,
    TCPTimedOutError,
    TimeoutError,
    UserError,
)
from twisted.internet.interfaces import IConnector, IListeningPort, IReactorTCP, IReactorUNIX
from twisted.python.failure import Failure
from zope.interface import implementer

from meshsvc.sim.clock import ProcessClock, Skew, Time
from meshsvc.sim.flights import Flights
from meshsvc.sim.transport import End, Wire
from meshsvc.sim.weather import LOCAL_S, Sky, Weather

SYN_AGAIN_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Waits between the retransmissions of a dial, as Linux has them."""

Note = Callable[[str, str, int], None]


class Host:
    """A machine: ``up`` until its power fails; its open ports, by number or path."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.up = True
        self.ports: dict[int | str, Listener] = {}


class Network:
    """Every host and every stream.

    Args:
        time: the virtual time.
        rng: draws delays and losses.
        note: told of each delivery as (source host, target host, bytes).

    ``flights``, when set, is told of each segment that leaves.
    """

    def __init__(self, time: Time, rng: Random, note: Note, everywhere: Weather) -> None:
        self.time = time
        self.sky = Sky(rng, everywhere, lambda: self.time.now)
        self.hosts: dict[str, Host] = {}
        self.flights: Flights | None = None
        self._note = note
        self._rng = rng
        self._pairs: dict[End, End] = {}
        self._sockets: dict[int, End] = {}
        self._ephemeral = 32768
        self._descriptor = 0

    def host(self, name: str) -> Host:
        """The host of an IP address; made when it is first asked for."""
        return self.hosts.setdefault(name, Host(name))

    # --- streams -------------------------------------------------------------------------

    def pair(self, dialer: tuple[Host, ProcessClock, Any], other: Any) -> tuple[End, End]:
        """Both ends of a new stream; each side is (host, process, address)."""
        (host_a, process_a, at_a), (host_b, process_b, at_b) = dialer, other
        a = End(self, host_a, process_a, (at_a, at_b))
        b = End(self, host_b, process_b, (at_b, at_a))
        a.wire, b.wire = Wire(self, a, b), Wire(self, b, a)
        self._pairs[a], self._pairs[b] = b, a
        return a, b

    def other(self, end: End) -> End:
        """The end of the other side."""
        return end.wire.target

    def end_closed(self, end: End) -> None:
        """An end is closed for good."""
        self._pairs.pop(end, None)
        other = end.wire.target
        if not other.established:  # the packet that would have made it is lost
            self._pairs.pop(other, None)

    def ends(self) -> list[End]:
        """Every end that is open, in the order they were made."""
        return [end for end in self._pairs if end.established]

    def note(self, source: End, target: End, size: int) -> None:
        """Bytes were delivered."""
        self._note(source.host.name, target.host.name, size)

    def process_ended(self, process: ProcessClock) -> None:
        """A process is gone: its kernel closes what it held."""
        for end in [end for end in self._pairs if end.process is process]:
            end.vanish()
        for host in self.hosts.values():
            gone = [key for key, port in host.ports.items() if port.process is process]
            for key in gone:
                del host.ports[key]

    def ephemeral(self) -> int:
        """The port of the next dialer."""
        self._ephemeral += 1
        return self._ephemeral

    # --- accepted sockets on their way to another process --------------------------------

    def socket(self, end: End) -> SimSocket:
        """An accepted stream as a socket object that can be handed over."""
        self._descriptor += 1
        self._sockets[self._descriptor] = end
        return SimSocket(self, self._descriptor)

    def taken(self, descriptor: int) -> End:
        """The stream of a descriptor."""
        return self._sockets[descriptor]

    def socket_closed(self, descriptor: int) -> None:
        """A socket object was closed; the stream goes on if a protocol has it."""
        end = self._sockets.pop(descriptor, None)
        if end is not None and end.protocol is None:
            end.abortConnection()

    # --- datagrams -----------------------------------------------------------------------

    def datagram(self, source: str, target: ProcessClock, at: str, call: Any, *args: Any) -> None:
        """Send one packet from a host to a process at a host: it may be lost, doubled, late."""
        sky, rng = self.sky, self._rng
        weather = sky.weather(source, at)
        if not sky.open(source, at) or rng.random() < weather.loss:
            return
        copies = 2 if rng.random() < weather.duplicate else 1
        for _ in range(copies):
            delay = weather.delay_s + weather.jitter_s * rng.random()
            if rng.random() < weather.reorder:
                delay += weather.delay_s + weather.jitter_s
            target.post(delay, call, *args)


class SimSocket:
    """What a hand-over of an accepted connection passes: enough of ``socket.socket``."""

    family = 2

    def __init__(self, net: Network, descriptor: int) -> None:
        self._net = net
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Its number."""
        return self._descriptor

    def setblocking(self, flag: bool) -> None:
        """Nothing blocks here."""

    def close(self) -> None:
        """Give up this name of the stream."""
        self._net.socket_closed(self._descriptor)


@implementer(IListeningPort)
class Listener:
    """An open port; ``accept`` gets each accepted ``End``."""

    def __init__(
        self, net: Network, host: Host, process: ProcessClock, at: Any, accept: Callable[[End], Any]
    ) -> None:
        self.process = process
        self.address = at
        self.accept = accept
        self._net, self._host = net, host

    @property
    def _key(self) -> int | str:
        at = self.address
        return (at.name or b"").decode() if isinstance(at, UNIXAddress) else int(at.port)

    def startListening(self) -> None:
        """Twisted: open the port."""
        if self._key in self._host.ports:
            raise CannotListenError("", self._key, OSError(98, "Address already in use"))
        self._host.ports[self._key] = self

    def stopListening(self) -> Deferred[None]:
        """Twisted: close the port."""
        if self._host.ports.get(self._key) is self:
            del self._host.ports[self._key]
        return succeed(None)

    def getHost(self) -> Any:
        """Twisted: where it listens."""
        return self.address


@implementer(IConnector)
class Dial:
    """One attempt to connect."""

    def __init__(self, reactor: SimReactor, target: tuple[str, int | str], factory: Any) -> None:
        self._reactor = reactor
        self._net = reactor.net
        self._host, self._key = target
        self._factory = factory
        self._open = True
        self._timeout: Any = None
        self._tries = 0
        net, here = self._net, reactor.host.name
        if isinstance(self._key, str):
            self._from: Any = UNIXAddress("")
            self._to: Any = UNIXAddress(self._key)
        else:
            self._from = IPv4Address("TCP", here, net.ephemeral())
            self._to = IPv4Address("TCP", self._host, self._key)

    def start(self, timeout_s: float) -> None:
        """Send the first packet; fail after ``timeout_s``."""
        self._factory.doStart()
        self._factory.startedConnecting(self)
        if self._open:
            self._timeout = self._reactor.callLater(timeout_s, self._fail, TimeoutError())
            self._syn()

    # --- IConnector ----------------------------------------------------------------------

    def stopConnecting(self) -> None:
        """Twisted: give up."""
        self._fail(UserError())

    def disconnect(self) -> None:
        """Twisted: give up, or close."""
        self._fail(UserError())

    def connect(self) -> None:
        """Twisted: once more; nothing of ours does it."""
        raise NotImplementedError

    def getDestination(self) -> Any:
        """Twisted: where to."""
        return self._to

    # --- the handshake -------------------------------------------------------------------

    def _syn(self) -> None:
        if not self._open:
            return
        net, here = self._net, self._reactor.host.name
        target = net.hosts.get(self._host)
        if self._tries < len(SYN_AGAIN_S):
            again = net.time.after(SYN_AGAIN_S[self._tries], self._syn)
            self._tries += 1
            if target is None:
                return
            at = net.sky.arrival(here, self._host, net.time.now)
            net.time.at(at, self._knock, target, again)

    def _knock(self, target: Host, again: Any) -> None:
        """The first packet arrives, if it does."""
        net, here = self._net, self._reactor.host.name
        sky = net.sky
        if not self._open or not target.up or not sky.open(here, target.name):
            return
        back = sky.arrival(target.name, here, net.time.now) - net.time.now
        self._reactor.post(back, self._answered, target, again)

    def _answered(self, target: Host, again: Any) -> None:
        """What the other host's kernel said is back, if it is."""
        net, here = self._net, self._reactor.host.name
        if not self._open or not net.sky.open(target.name, here):
            return
        if again.active():
            again.cancel()
        port = target.ports.get(self._key)
        if port is None:
            self._fail(ConnectionRefusedError())
            return
        self._end()
        protocol = self._factory.buildProtocol(self._to)
        if protocol is None:
            return
        mine, theirs = net.pair(
            (self._reactor.host, self._reactor, self._from), (target, port.process, self._to)
        )
        theirs.awaits(port.accept)
        mine.established = True
        mine.announce()
        mine.attach(protocol)

    def _end(self) -> None:
        self._open = False
        if self._timeout is not None and self._timeout.active():
            self._timeout.cancel()

    def _fail(self, why: Exception) -> None:
        if self._open:
            self._end()
            if isinstance(why, TimeoutError):
                why = TCPTimedOutError()
            self._factory.clientConnectionFailed(self, Failure(why))
            self._factory.doStop()


@implementer(IReactorTCP, IReactorUNIX)
class SimReactor(ProcessClock):
    """The reactor of one simulated process."""

    def __init__(self, net: Network, host: Host, skew: Skew) -> None:
        super().__init__(net.time, skew)
        self.net = net
        self.host = host

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> Dial:
        """Twisted: dial an IP address."""
        dial = Dial(self, (host, port), factory)
        dial.start(timeout)
        return dial

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """Twisted: open a port."""
        at = IPv4Address("TCP", self.host.name, port)
        return self._listen(at, factory)

    def connectUNIX(
        self, address: str, factory: Any, timeout: float = 30, checkPID: bool = False
    ) -> Dial:
        """Twisted: dial a socket of this host."""
        dial = Dial(self, (self.host.name, address), factory)
        dial.start(timeout)
        return dial

    def listenUNIX(
        self,
        address: str,
        factory: Any,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: bool = False,
    ) -> Any:
        """Twisted: open a socket of this host."""
        return self._listen(UNIXAddress(address), factory)

    def adoptStreamConnection(self, fileDescriptor: int, addressFamily: int, factory: Any) -> None:
        """Twisted: serve a connection that another process accepted."""
        end = self.net.taken(fileDescriptor)
        end.move_to(self)
        self._serve(end, factory)

    def end(self) -> None:
        """SIGKILL: nothing of the process runs again, its kernel closes its sockets."""
        self.kill()
        self.net.process_ended(self)

    def _listen(self, at: Any, factory: Any) -> Listener:
        listener = Listener(self.net, self.host, self, at, lambda end: self._serve(end, factory))
        listener.startListening()
        return listener

    def _serve(self, end: End, factory: Any) -> None:
        protocol = factory.buildProtocol(end.getPeer())
        if protocol is None:
            end.abortConnection()
        else:
            end.on_data = None
            end.attach(protocol)


__all__ = ["Dial", "Host", "LOCAL_S", "Listener", "Network", "SimReactor", "SimSocket"]

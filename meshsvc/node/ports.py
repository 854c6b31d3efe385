"""Binding ports and reading accepted connections from them, on plain sockets.

Twisted's own ports cannot be used: closing an accepted transport shuts the connection down,
for the shard that was just handed it too. So connections are accepted here on non-blocking
sockets that are registered with the reactor as readers and never become transports.

No SO_REUSEPORT: with it a second node on the same port would silently get half of the
connections. SO_REUSEADDR only lets a node that restarts bind over connections that linger.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorCore, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshsvc.errors import StartError
from meshsvc.model import Address
from meshsvc.node.exits import CANNOT_CREATE

BACKLOG = 1024
"""Connections the kernel holds while nobody accepts: a shard restart under load."""

ACCEPTS_PER_TURN = 64
"""So that a flood of connections cannot keep the supervisor from its other work."""

SHORT_OF_DESCRIPTORS_S = 1.0
"""How long to leave connections in the backlog when the process can open no more."""

PEER = "peer"
ADMIN = "admin"

AT_ONCE = (PEER, ADMIN)
"""Ports that every node serves: the kernel queues connections from the start. Others refuse
connections until a shard asks for them, as an application may not be installed.
"""

_SHORT = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


def bind(name: str, wanted: Address) -> socket.socket:
    """A bound socket that does not listen yet; ``name`` is how messages call it.

    Raises:
        StartError: (73) when the address cannot be bound, saying why and what to do.
    """
    try:
        family, kind, proto, _, where = socket.getaddrinfo(
            wanted.host, wanted.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, proto)
    except OSError as error:
        raise StartError(_unbound(name, wanted, error), CANNOT_CREATE) from error
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(where)
    except OSError as error:
        bound.close()
        raise StartError(_unbound(name, wanted, error), CANNOT_CREATE) from error
    return bound


def listen(name: str, wanted: Address, bound: socket.socket) -> None:
    """Have the kernel accept into the backlog; a socket that listens already goes on.

    Raises:
        StartError: (73) when another process began to listen there since the bind, which
            SO_REUSEADDR permits.
    """
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        raise StartError(_unbound(name, wanted, error), CANNOT_CREATE) from error


def address_of(bound: socket.socket, wanted: Address) -> Address:
    """The host as it was configured with the port that was bound."""
    return Address(wanted.host, bound.getsockname()[1])


def _unbound(name: str, wanted: Address, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {wanted.port} ({name} = {wanted}) is in use: stop the process that holds it"
            f" ('ss -ltnp sport = :{wanted.port}' shows which), or choose another address"
        )
    if error.errno == errno.EACCES:
        return (
            f"port {wanted.port} ({name} = {wanted}) may not be bound: ports below 1024 need"
            " CAP_NET_BIND_SERVICE, or choose another port"
        )
    what = error.strerror or str(error)
    return f"{name} = {wanted} cannot be bound: {what}: choose an address of this machine"


@implementer(IReadDescriptor)
class Reader:
    """A socket that the reactor watches and that is closed without being shut down."""

    def __init__(self, reactor: IReactorCore, sock: socket.socket) -> None:
        self.socket = sock
        self._reactor = reactor
        self._reading = False

    def fileno(self) -> int:
        """Twisted: what to poll."""
        return self.socket.fileno()

    def logPrefix(self) -> str:
        """Twisted: a name for the log."""
        return type(self).__name__

    def doRead(self) -> None:
        """Twisted: the socket is readable."""
        raise NotImplementedError

    def connectionLost(self, reason: Failure) -> None:
        """Twisted: polling found the socket broken, or the reactor ends."""
        self.release()

    def watch(self, on: bool) -> None:
        """Begin or cease to be told when the socket is readable."""
        if on == self._reading or self.socket.fileno() < 0:
            return
        self._reading = on
        if on:
            self._reactor.addReader(self)  # type: ignore[attr-defined]
        else:
            self._reactor.removeReader(self)  # type: ignore[attr-defined]

    def release(self) -> None:
        """Cease to watch and close our end; a descriptor handed over stays open elsewhere."""
        self.watch(False)
        self.socket.close()


class Port(Reader):
    """One listening socket; ``accepted`` gets each connection while the port is watched.

    Before each, ``room`` is asked; it answers false after having called ``rest``.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorCore,
        name: str,
        bound: socket.socket,
        address: Address,
        room: Callable[[Port], bool],
        accepted: Callable[[Port, socket.socket], None],
    ) -> None:
        super().__init__(reactor, bound)
        self._room = room
        self.name = name
        self.address = address
        self.open = False
        self._wanted = False
        self._accepted = accepted
        self._pause: IDelayedCall | None = None

    def listen(self) -> None:
        """Let the kernel accept into its backlog.

        Raises:
            StartError: (73) when another process began to listen there meanwhile.
        """
        if not self.open:
            listen(self.name, self.address, self.socket)
            self.open = True

    def watch(self, on: bool) -> None:
        """Accept, or leave connections in the backlog; a pause that is on runs to its end."""
        self._wanted = on
        if self._pause is None:
            super().watch(on and self.open)

    def doRead(self) -> None:
        """Twisted: connections wait."""
        for _ in range(ACCEPTS_PER_TURN):
            if not (self._reading and self._room(self)):
                return
            try:
                connection, _ = self.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _SHORT:
                    self._log.warn("{name}: cannot accept: {error}", name=self.name, error=error)
                    self.rest(SHORT_OF_DESCRIPTORS_S)
                    return
                continue  # that client left before it was accepted
            connection.setblocking(False)
            self._accepted(self, connection)

    def rest(self, for_s: float) -> None:
        """Leave connections in the backlog for so long, or until ``resume``."""
        super().watch(False)
        if self._pause is None:
            call_later = self._reactor.callLater  # type: ignore[attr-defined]
            self._pause = call_later(for_s, self.resume)

    def resume(self) -> None:
        """End a rest early; without one nothing happens."""
        if self._pause is not None:
            if self._pause.active():
                self._pause.cancel()
            self._pause = None
            self.watch(self._wanted)

    def release(self) -> None:
        """Close the port."""
        self._wanted = False
        self.resume()
        super().release()


class Stranger(Reader):
    """A connection whose first bytes decide where it goes; they stay in its buffer.

    ``SO_RCVLOWAT`` makes the reactor call only once as many bytes are there as are wanted.
    With plain polling a peer that sends one byte and waits would keep the supervisor
    spinning, as a byte that was only peeked at stays readable.
    """

    def __init__(
        self,
        reactor: IReactorCore,
        connection: socket.socket,
        heard: Callable[[Stranger, bytes], None],
    ) -> None:
        super().__init__(reactor, connection)
        self._heard = heard
        self.wanted = 1

    def want(self, count: int) -> None:
        """Call ``heard`` once this many bytes are there, or the peer closed before."""
        self.wanted = count
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
        self.watch(True)

    def doRead(self) -> None:
        """Twisted: enough bytes, or the end."""
        try:
            data = self.socket.recv(self.wanted, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._heard(self, data)

    def detach(self) -> socket.socket:
        """The socket, as it was accepted, no longer watched."""
        self.watch(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        return self.socket

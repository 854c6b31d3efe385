"""Both ends of the channel between the supervisor and a shard process.

Messages travel as frames over a stream socket. Accepted connections travel over a socket of
their own that keeps packets apart: one packet, one descriptor, and the shard answers each
with a ``HandoffAck`` over the stream. The channel lasts as long as both processes; a shard
that loses it has lost its supervisor and is to end.
"""

from __future__ import annotations

import errno
import socket
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.interfaces import IReactorCore, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from meshsvc.counters import Counters
from meshsvc.errors import LocalError, WireError
from meshsvc.link.protocol import FramedProtocol
from meshsvc.model import Address, Sent
from meshsvc.node.boot import CONTROL_FD, HANDOFF_FD
from meshsvc.node.ports import Reader
from meshsvc.wire import messages
from meshsvc.wire.codec import decode
from meshsvc.wire.registry import Role, decode_message

MAX_FRAMES = 1024
"""Most messages come once a second; a shard that reads none for ten is killed."""

MAX_BYTES = 4 * 1024 * 1024
"""A round of counters of a large node, a few times: bounds what a stopped shard costs."""

PACKETS_PER_TURN = 64
"""Connections taken in one turn: the most that can be on the way."""

LEAST_DRAIN_S = 0.1
"""A shard may at least answer what it has, however late it was told."""

_PACKET_BYTES = 512
_NO_ROOM = frozenset((errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM))
_DESCRIPTOR = array("i", [0]).itemsize


class ListenFailed(LocalError):
    """The supervisor could not give this shard a listener; the text says why."""


class Owner(Protocol):
    """Who is told what a channel brings."""

    def channel_message(self, channel: Channel, message: Any) -> None:
        """A message came."""

    def channel_ended(self, channel: Channel, text: str) -> None:
        """The other process closed the channel, or is gone."""


class Channel(FramedProtocol):
    """One end of the message stream; ``peer`` is the role of the other end."""

    def __init__(self, clock: IReactorTime, owner: Owner, peer: Role) -> None:
        super().__init__(clock, max_frames=MAX_FRAMES, max_bytes=MAX_BYTES)
        self._owner = owner
        self._peer = peer

    def body_received(self, body: bytes) -> None:
        """Decode and pass on."""
        self._owner.channel_message(self, decode_message(body, self._peer))

    def ended(self, reason: str, text: str) -> None:
        """Pass on."""
        self._owner.channel_ended(self, text)


def attach(reactor: Any, sock: socket.socket, channel: Channel) -> None:
    """Put one end of a socket pair under a channel; the socket object is used up."""
    factory = Factory.forProtocol(lambda: channel)
    factory.noisy = False
    reactor.adoptStreamConnection(sock.fileno(), socket.AF_UNIX, factory)
    sock.close()  # the reactor works with a duplicate


def pass_descriptor(sock: socket.socket, packet: bytes, fd: int) -> Sent:
    """Send one packet with one descriptor, now or not at all."""
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [fd]))
    try:
        sock.sendmsg([packet], [rights], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except BlockingIOError:
        return Sent.FULL
    except OSError as error:
        # Too many descriptors in flight is a matter of room, all else of the other end.
        return Sent.FULL if error.errno in _NO_ROOM else Sent.DISCONNECTED
    return Sent.ACCEPTED


class Arrivals(Reader):
    """The shard's end of the hand-over socket; ``arrived`` gets each packet's content."""

    def __init__(
        self,
        reactor: IReactorCore,
        sock: socket.socket,
        arrived: Callable[[int, str, socket.socket], None],
    ) -> None:
        super().__init__(reactor, sock)
        self._arrived = arrived

    def doRead(self) -> None:
        """Twisted: packets wait."""
        for _ in range(PACKETS_PER_TURN):
            try:
                data, ancillary, _, _ = self.socket.recvmsg(
                    _PACKET_BYTES, socket.CMSG_SPACE(_DESCRIPTOR), socket.MSG_CMSG_CLOEXEC
                )
            except OSError as error:
                if not isinstance(error, BlockingIOError):
                    self.watch(False)
                return
            if not data:
                self.watch(False)
                return
            self._unpack(data, ancillary)

    def _unpack(self, data: bytes, ancillary: list[Any]) -> None:
        connections = [
            socket.socket(fileno=fd)
            for level, kind, content in ancillary
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            for fd in array("i", content[: len(content) - len(content) % _DESCRIPTOR])
        ]
        packet: Any = decode(data)
        seq, listener, _ = packet
        for connection in connections:
            connection.setblocking(False)
            self._arrived(seq, listener, connection)


class ShardChannel:
    """What a shard's own code sees of its supervisor.

    ``shard_states`` holds the latest rows of ``ShardStates``, ``node_counters`` the latest
    counter rows by shard (on shard 0 only; -1 is the supervisor itself).

    Args:
        reactor: watches both sockets from now on.
        control_fd: the stream for messages; used up.
        handoff_fd: the socket that brings connections; used up.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, control_fd: int = CONTROL_FD, handoff_fd: int = HANDOFF_FD
    ) -> None:
        self.shard_states: tuple[Any, ...] = ()
        self.node_counters: dict[int, Any] = {}
        self.connected = True
        self._takers: dict[str, Callable[[socket.socket], object]] = {}
        self._asked: dict[int, Deferred[Address]] = {}
        self._drain: Callable[[float], object] = lambda budget_s: None
        self._drained: Callable[[], object] = lambda: None
        self._lost: Callable[[], object] = lambda: None
        self._orphaned: Callable[[], object] = lambda: None
        self._states: Callable[[tuple[Any, ...]], object] = lambda rows: None
        self._beats = self._requests = 0
        self._reactor = reactor
        self._channel = Channel(reactor, self, Role.SUPERVISOR)
        attach(reactor, socket.socket(fileno=control_fd), self._channel)
        handoff = socket.socket(fileno=handoff_fd)
        handoff.set_inheritable(False)
        handoff.setblocking(False)
        self._arrivals = Arrivals(reactor, handoff, self._arrived)
        self._arrivals.watch(True)

    # what the shard says

    def ready(self, warnings: Sequence[str] = ()) -> None:
        """This shard serves; ``warnings`` names what it does without."""
        self._channel.send(messages.ShardReady(tuple(warnings)))

    def beat(self, lag_ms: float, counters: Counters) -> None:
        """To be called every second by the live reactor: its lag, and all counters."""
        self._beats += 1
        rows = tuple(counters.snapshot())
        self._channel.send(messages.Beat(self._beats, float(lag_ms), rows))

    def fatal(self, exit_code: int, text: str) -> None:
        """End the whole node, with this exit code: no restart would help."""
        self._channel.send_urgent(messages.Fatal(exit_code, text))

    def listen(self, listener: str) -> Deferred[Address]:
        """Ask for a share of a listener: a configured name, or ``tcp:[HOST:]PORT``.

        Call ``on_socket`` for it before. Fires with the bound address, or fails with
        ``ListenFailed``.
        """
        if not self.connected:
            return fail(ListenFailed("the supervisor is gone"))
        self._requests += 1
        asked = self._asked[self._requests] = Deferred()
        self._channel.send(messages.Listen(self._requests, listener))
        return asked

    # what the shard wants to be told

    def on_socket(self, listener: str, callback: Callable[[socket.socket], object]) -> None:
        """Have connections of a listener handed in, non-blocking; they are the callee's.

        One that ``callback`` raises on is closed and reported as not taken.
        """
        self._takers[listener] = callback

    def on_drain(self, callback: Callable[[float], object]) -> None:
        """Be told to stop, with the seconds it may take. A Deferred that is returned is
        waited for, within that time; then the reactor is stopped, and services with it.
        """
        self._drain = callback

    def on_lost(self, callback: Callable[[], object]) -> None:
        """Be told that the supervisor is gone; the process ends right after."""
        self._lost = callback

    def on_shard_states(self, callback: Callable[[tuple[Any, ...]], object]) -> None:
        """Be told the rows of ``ShardStates`` when they came."""
        self._states = callback

    def ends_with(self, drained: Callable[[], object], orphaned: Callable[[], object]) -> None:
        """For the process itself: what to do after ``on_drain`` and after ``on_lost``."""
        self._drained = drained
        self._orphaned = orphaned

    # what the channel brings

    def channel_message(self, channel: Channel, message: Any) -> None:
        """From the supervisor."""
        if isinstance(message, messages.ShardStates):
            self.shard_states = message.rows
            self._states(message.rows)
        elif isinstance(message, messages.NodeCounters):
            counted: Any = message.rows
            self.node_counters.update((shard, rows) for shard, rows in counted)
        elif isinstance(message, messages.Listening):
            self._answer(message)
        elif isinstance(message, messages.Drain):
            self._drain_within(message.budget_s)
        else:
            raise WireError(f"a supervisor does not send {type(message).__name__}")

    def channel_ended(self, channel: Channel, text: str) -> None:
        """The supervisor closed the channel or is gone."""
        self.connected = False
        self._arrivals.release()
        self._asked, asked = {}, self._asked
        for deferred in asked.values():
            deferred.errback(ListenFailed("the supervisor is gone"))
        try:
            self._lost()
        finally:
            self._orphaned()

    def _drain_within(self, budget_s: float) -> None:
        drained = maybeDeferred(self._drain, budget_s)
        drained.addTimeout(max(LEAST_DRAIN_S, budget_s), self._reactor)
        drained.addErrback(lambda why: self._log.failure("draining went wrong", failure=why))
        drained.addBoth(lambda _: self._drained())

    def _answer(self, message: messages.Listening) -> None:
        asked = self._asked.pop(message.request, None)
        if asked is None:
            return
        if message.error:
            asked.errback(ListenFailed(f"{message.listener}: {message.error}"))
        else:
            asked.callback(Address(message.host, message.port))

    def _arrived(self, seq: int, listener: str, connection: socket.socket) -> None:
        taken = False
        taker = self._takers.get(listener)
        if taker is not None:
            try:
                taker(connection)
                taken = True
            except Exception:
                self._log.failure("a connection of {listener} was not taken", listener=listener)
        if not taken:
            connection.close()
        self._channel.send(messages.HandoffAck(seq, taken))

"""From accepted connection to shard: who gets it, and what happens when nobody can take it.

Rules: a connection that was accepted leaves the supervisor at once or is closed, and each
that was closed is counted. While the shards are busy with what they were given, the next
ones wait in the backlog; once no shard has taken any for ``LATE_S`` they are accepted and
closed, so that no client hangs. On ``peer`` the first bytes name the link, hence the shard,
and are left in the socket for it. Ports other than ``admin`` are served from when all shards
are ready: early clients would all end up in one shard, early links at one that is not there.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorCore, IReactorTime
from twisted.logger import Logger

from meshsvc.counters import Counters
from meshsvc.errors import LocalError, StartError, WireError
from meshsvc.link import preface
from meshsvc.model import Address, LinkClass, Sent, ShardId
from meshsvc.node.exits import CONFIG
from meshsvc.node.handover import LATE_S, Handover
from meshsvc.node.ports import ADMIN, PEER, Port, Stranger, address_of, bind
from meshsvc.node.strangers import Strangers
from meshsvc.shards.placement import link_owner
from meshsvc.wire.codec import encode

MAX_PORTS = 256
"""Listeners of a node: every application that asks for ports of its own gets some."""

Send = Callable[[ShardId, bytes, int], Sent]
"""Hands a packet and one descriptor to a shard: ACCEPTED, FULL or DISCONNECTED."""


class NotServed(LocalError):
    """A shard asked for a listener that it cannot have."""


class Acceptor:
    """All ports of a node.

    Args:
        reactor: watches the ports.
        shards: how many shards the node has.
        counters: the supervisor's own.
        send: hands a connection to a shard; never blocks.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorCore, shards: int, counters: Counters, send: Send) -> None:
        self.handover = Handover()
        self.strangers: Strangers[Stranger] = Strangers()
        self._reactor = reactor
        self._shards = shards
        self._counters = counters
        self._send = send
        self._ports: dict[str, Port] = {}
        self._all_ready = self._closed = False
        self._crowded: set[Port] = set()
        self._patience: IDelayedCall | None = None

    def add(self, name: str, bound: socket.socket, address: Address) -> Port:
        """Take over a bound socket."""
        port = Port(self._reactor, name, bound, address, self._room, self._accepted)
        self._ports[name] = port
        return port

    def listen(self, shard: ShardId, listener: str) -> Address:
        """Give a shard its share of a listener; returns the bound address.

        Raises:
            NotServed: when there is no such listener, the shard may not have it, or all are
                closed.
            StartError: (73) when its port cannot be bound.
        """
        if self._closed:  # by then nothing is configured any more: say why
            raise NotServed(f"{listener} is not served: the node is stopping")
        if listener == ADMIN and shard != 0:
            raise NotServed("admin is served by shard 0 alone")
        port = self._ports.get(listener)
        if port is None:
            port = self._bind(listener)
        port.listen()
        self.handover.join(listener, shard)
        self._watch()
        return port.address

    def open(self) -> None:
        """All shards are ready: serve the ports that wait for that."""
        self._all_ready = True
        self._watch()

    def left(self, shard: ShardId) -> None:
        """A shard's process ended."""
        self.handover.leave(shard)
        self._watch()

    def settled(self, shard: ShardId, seq: int, taken: bool) -> None:
        """A shard took a connection, or closed it because nobody there wanted it."""
        if self.handover.settled(shard, seq) and not taken:
            self._counters.drop("fd_transfer", "rejected")
        crowded, self._crowded = self._crowded, set()
        for port in crowded:
            port.resume()

    def close(self) -> None:
        """Close all ports and cut all strangers."""
        self._closed = True
        for stranger in self.strangers.take_all():
            stranger.release()
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        for port in self._ports.values():
            port.release()
        self._ports.clear()
        self._crowded.clear()

    def _bind(self, listener: str) -> Port:
        kind, _, where = listener.partition(":")
        if kind != "tcp" or not where:
            known = ", ".join(sorted(self._ports))
            raise NotServed(
                f"there is no listener {listener!r}: configured are {known}; set"
                f" listen.{listener}, or ask for tcp:PORT or tcp:HOST:PORT"
            )
        if len(self._ports) >= MAX_PORTS:
            raise NotServed(f"a node has at most {MAX_PORTS} ports")
        wanted = _parse_tcp(where)
        bound = bind(listener, wanted)
        return self.add(listener, bound, address_of(bound, wanted))

    def _watch(self) -> None:
        for name, port in self._ports.items():
            port.watch((self._all_ready or name == ADMIN) and self.handover.wanted(name))

    def _room(self, port: Port) -> bool:
        """Whether to accept now: what cannot be handed over yet is better off in the backlog,
        what cannot be handed over at all is better off closed."""
        if port.name == PEER or not self.handover.crowded(port.name, self._now()):
            return True
        self._crowded.add(port)
        port.rest(LATE_S)
        return False

    def _accepted(self, port: Port, connection: socket.socket) -> None:
        if port.name != PEER:
            self._hand_over(port.name, connection)
            return
        stranger = Stranger(self._reactor, connection, self._heard)
        crowded_out = self.strangers.add(stranger, self._now())
        if crowded_out is not None:
            self._cut(crowded_out, "crowded")
        stranger.want(len(preface.MAGIC))
        self._arm()

    def _arm(self) -> None:
        due = self.strangers.deadline()
        if due is not None and self._patience is None:
            clock = IReactorTime(self._reactor)
            self._patience = clock.callLater(max(0.0, due - self._now()), self._out_of_patience)

    def _out_of_patience(self) -> None:
        self._patience = None
        for stranger in self.strangers.take_expired(self._now()):
            self._cut(stranger, "silent")
        self._arm()

    def _heard(self, stranger: Stranger, data: bytes) -> None:
        # Fewer bytes than it was to wait for mean that no more will come.
        complete = len(data) == stranger.wanted
        if complete and stranger.wanted < preface.PREFACE_BYTES and preface.could_be(data):
            stranger.want(preface.PREFACE_BYTES)
            return
        self.strangers.remove(stranger)
        try:
            if len(data) < preface.PREFACE_BYTES:
                raise WireError("the stream ends or strays before its preface")
            said = preface.parse(data)
        except WireError:
            self._cut(stranger, "garbage" if data else "left")
            return
        shard = ShardId(0)
        if said.link_class is LinkClass.DATA:
            shard = link_owner(said.node_id, self._shards)
        self._hand_to(shard, PEER, stranger.detach(), len(data))

    def _hand_over(self, listener: str, connection: socket.socket) -> None:
        # Ends: a shard that cannot be reached leaves the listener before the next choice.
        while True:
            shard = self.handover.choose(listener, self._now())
            if shard is None:
                reason = "full" if self.handover.wanted(listener) else "disconnected"
                self._drop(connection, reason)
                return
            if self._pass(shard, listener, connection, 0) is not Sent.DISCONNECTED:
                return
            self.handover.leave(shard)

    def _hand_to(
        self, shard: ShardId, listener: str, connection: socket.socket, preface_bytes: int
    ) -> None:
        if not self.handover.listens(listener, shard):
            self._drop(connection, "disconnected")
        elif not self.handover.has_room(shard):
            self._drop(connection, "full")
        elif self._pass(shard, listener, connection, preface_bytes) is Sent.DISCONNECTED:
            self._drop(connection, "disconnected")

    def _pass(
        self, shard: ShardId, listener: str, connection: socket.socket, preface_bytes: int
    ) -> Sent:
        """Send one connection; it is closed here unless the shard is gone."""
        seq = self.handover.sent(shard, self._now())
        packet = encode((seq, listener, preface_bytes))
        sent = self._send(shard, packet, connection.fileno())
        if sent is not Sent.ACCEPTED:
            self.handover.settled(shard, seq)
        if sent is Sent.FULL:
            self._drop(connection, "full")
        elif sent is Sent.ACCEPTED:
            connection.close()
        return sent

    def _drop(self, connection: socket.socket, reason: str) -> None:
        self._counters.drop("fd_transfer", reason)
        connection.close()

    def _cut(self, stranger: Stranger, reason: str) -> None:
        stranger.release()
        self._counters.add("link_refusals_total", reason=reason, side="acceptor")
        self._log.debug("peer port: a connection was cut: {reason}", reason=reason)

    def _now(self) -> float:
        return IReactorTime(self._reactor).seconds()


def _parse_tcp(where: str) -> Address:
    """``PORT`` or ``HOST:PORT``; hosts are numeric, as looking one up would block."""
    try:
        wanted = Address.parse(where if ":" in where else f"0.0.0.0:{where}")
        host = "127.0.0.1" if wanted.host == "localhost" else wanted.host
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (ValueError, OSError) as error:
        raise StartError(
            f"tcp:{where} is no listener ({error}): write tcp:PORT or tcp:IP:PORT", CONFIG
        ) from None
    return Address(host, wanted.port)

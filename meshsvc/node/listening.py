"""Connections that the supervisor accepted, served by factories of this shard."""

from __future__ import annotations

import socket
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger

from meshsvc.model import Address


class SocketSource(Protocol):
    """The shard's end of the channel to the supervisor."""

    def listen(self, listener: str) -> Deferred[Address]:
        """Ask for a share of a listener's connections."""

    def on_socket(self, listener: str, callback: Any) -> None:
        """Call back with each connection of a listener."""


class ShardListeners:
    """Gives each accepted connection of a listener to its factory."""

    log = Logger()

    def __init__(self, reactor: Any, source: SocketSource) -> None:
        self._reactor = reactor
        self._source = source

    def listen(self, listener: str, factory: IProtocolFactory) -> Deferred[Address]:
        """Serve a listener, a configured name or ``tcp:[HOST:]PORT``, with a factory.

        Returns:
            a Deferred of the bound address; fails with a ``LocalError`` saying why the port
            cannot be had.
        """
        factory.doStart()
        self._source.on_socket(listener, lambda sock: self._adopt(sock, factory))
        return self._source.listen(listener)

    def _adopt(self, sock: socket.socket, factory: IProtocolFactory) -> None:
        # adoptStreamConnection duplicates the descriptor; this one is not needed any more.
        try:
            self._reactor.adoptStreamConnection(sock.fileno(), sock.family, factory)
        finally:
            sock.close()

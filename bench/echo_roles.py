"""The floor under ``messaging.py``: Twisted echoing raw bytes, one CPU each, depth 1.

No frames, no encoding, no verbs: what is left is the reactor and the kernel.

    python echo_roles.py server|client CPU PORT COUNT KIND DEPTH
"""

from __future__ import annotations

import json
import os
import sys
from time import perf_counter

from figures import percentile
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

DATA = b"x" * 120
TRIES = 100


class Server(Protocol):
    """Sends back what comes, and ends with its client."""

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)

    def connectionLost(self, reason) -> None:
        reactor.stop()


class Client(Protocol):
    """One message under way at any moment."""

    def __init__(self, count: int) -> None:
        self.left, self.took = count, []

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.send()

    def send(self) -> None:
        """The next one."""
        self.begun = perf_counter()
        self.transport.write(DATA)

    def dataReceived(self, data: bytes) -> None:
        self.took.append(perf_counter() - self.begun)
        self.left -= 1
        if self.left:
            self.send()
            return
        print(json.dumps({"p50": 1e6 * percentile(self.took, 0.5)}))
        reactor.stop()


async def connect(port: int, count: int) -> None:
    """Connect, tried until the server listens."""
    for _ in range(TRIES):
        try:
            endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
            await connectProtocol(endpoint, Client(count))
            return
        except Exception:
            await deferLater(reactor, 0.05)
    raise SystemExit("the echo server did not listen")


def main() -> None:
    """Run one role."""
    role, cpu, port, count, *_ = sys.argv[1:]
    os.sched_setaffinity(0, {int(cpu)})
    if role == "server":
        factory = Factory.forProtocol(Server)
        TCP4ServerEndpoint(reactor, int(port), interface="127.0.0.1").listen(factory)
        reactor.run()
        print("{}")
        return
    from twisted.internet.defer import Deferred

    Deferred.fromCoroutine(connect(int(port), int(count)))
    reactor.run()


main()

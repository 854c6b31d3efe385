"""The Twisted AMP side of ``messaging.py``: a server and a client, one CPU each.

python amp_roles.py server|client CPU PORT COUNT bytes DEPTH
"""

from __future__ import annotations

import json
import os
import sys
from time import perf_counter

from figures import percentile
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.protocols import amp

TRIES = 100


class Echo(amp.Command):
    """Answers with what came."""

    arguments = [(b"data", amp.String())]  # noqa: RUF012
    response = [(b"data", amp.String())]  # noqa: RUF012


class Server(amp.AMP):
    """Answers, and ends with its client."""

    @Echo.responder
    def echo(self, data: bytes) -> dict[str, bytes]:
        """The verb."""
        return {"data": data}

    def connectionLost(self, reason) -> None:
        """The client is done."""
        super().connectionLost(reason)
        reactor.stop()


class Load:
    """``count`` asks, ``depth`` in flight."""

    def __init__(self, client: amp.AMP, count: int, depth: int) -> None:
        self.client, self.count, self.data, self.depth = client, count, b"x" * 100, depth
        self.sent, self.took = 0, []
        self.begun = perf_counter()
        for _ in range(depth):
            self.ask()

    def ask(self) -> None:
        """One more."""
        self.sent += 1
        self.client.callRemote(Echo, data=self.data).addCallback(self.answered, perf_counter())

    def answered(self, _: object, begun: float) -> None:
        """One came back."""
        self.took.append(perf_counter() - begun)
        if self.sent < self.count:
            self.ask()
        elif len(self.took) == self.count:
            seconds = perf_counter() - self.begun
            p50, p99 = (1e6 * percentile(self.took, share) for share in (0.5, 0.99))
            print(json.dumps({"per_s": self.count / seconds, "p50": p50, "p99": p99}))
            reactor.stop()


async def connect(port: int) -> amp.AMP:
    """A connection, tried until the server listens."""
    for _ in range(TRIES):
        try:
            return await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), amp.AMP())
        except Exception:
            await deferLater(reactor, 0.05)
    raise SystemExit("the AMP server did not listen")


def main() -> None:
    """Run one role."""
    role, cpu, *rest = sys.argv[1:]
    port, count, depth = int(rest[0]), int(rest[1]), int(rest[3])
    os.sched_setaffinity(0, {int(cpu)})
    if role == "server":
        factory = Factory.forProtocol(Server)
        TCP4ServerEndpoint(reactor, port, interface="127.0.0.1").listen(factory)
        reactor.run()
        print("{}")
        return
    from twisted.internet.defer import Deferred

    Deferred.fromCoroutine(connect(port)).addCallback(Load, count, depth)
    reactor.run()


main()

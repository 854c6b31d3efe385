"""The Twisted AMP side of ``messaging.py``: a server and a client, one CPU each.

python amp_roles.py server|client CPU PORT COUNT KIND DEPTH
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from time import perf_counter

from cbor2 import dumps, loads
from figures import percentile
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.protocols import amp

sys.path.insert(0, str(Path(__file__).resolve().parent / "benchapp"))
from benchapp.payload import payload

TRIES = 100


class Echo(amp.Command):
    """Answers with what came; a byte string as it is, a map in CBOR."""

    arguments = [(b"data", amp.String())]  # noqa: RUF012
    response = [(b"data", amp.String())]  # noqa: RUF012


class Server(amp.AMP):
    """Answers, and ends with its client."""

    @Echo.responder
    def echo(self, data: bytes) -> dict[str, bytes]:
        """The verb."""
        return {"data": data if self.factory.kind == "bytes" else dumps(loads(data))}

    def connectionLost(self, reason) -> None:
        """The client is done."""
        super().connectionLost(reason)
        reactor.stop()


class Load:
    """``count`` asks, ``depth`` in flight."""

    def __init__(self, client: amp.AMP, count: int, kind: str, depth: int) -> None:
        self.client, self.count, self.kind = client, count, kind
        self.data = payload(kind)
        self.sent, self.took = 0, []
        self.begun = perf_counter()
        for _ in range(depth):
            self.ask()

    def ask(self) -> None:
        """One more."""
        self.sent += 1
        begun = perf_counter()
        data = self.data if self.kind == "bytes" else dumps(self.data)
        self.client.callRemote(Echo, data=data).addCallback(self.answered, begun)

    def answered(self, answer: dict[str, bytes], begun: float) -> None:
        """One came back."""
        if self.kind != "bytes":
            loads(answer["data"])
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
    role, cpu, port, count, kind, depth = sys.argv[1:]
    os.sched_setaffinity(0, {int(cpu)})
    if role == "server":
        factory = Factory.forProtocol(Server)
        factory.kind = kind
        TCP4ServerEndpoint(reactor, int(port), interface="127.0.0.1").listen(factory)
        reactor.run()
        print("{}")
        return
    from twisted.internet.defer import Deferred

    connected = Deferred.fromCoroutine(connect(int(port)))
    connected.addCallback(Load, int(count), kind, int(depth))
    reactor.run()


main()

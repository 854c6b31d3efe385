"""A shard for tests of the supervisor: echoes lines, reports its pid, counts what it did.

What it does wrong is chosen by the config section ``[applications.fake]`` of the test.
"""

from __future__ import annotations

import os
import socket

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import LoopingCall

from meshsvc.counters import Counters
from meshsvc.errors import StartError


class Echo(Protocol):
    """Says who serves, then echoes."""

    def connectionMade(self):
        self.transport.write(self.factory.greeting)

    def dataReceived(self, data):
        self.transport.write(data)


class FakeShard(Service):
    """Listens on what ``listen`` in its options names, and beats."""

    def __init__(self, boot, channel, reactor):
        self.boot, self.channel, self.reactor = boot, channel, reactor
        self.options = boot.config["applications"].get("fake", {})
        self.counters = Counters()
        self.factory = Factory.forProtocol(Echo)
        self.factory.greeting = f"{boot.shard} {boot.shard_incarnation} {os.getpid()}\n".encode()

    def startService(self):
        super().startService()
        if self.options.get("refuse") == self.boot.shard:
            raise StartError("the fake refuses to start", 69)
        if self.options.get("crash") == self.boot.shard:
            os._exit(7)
        for listener in self.options.get("listen", ["client"]):
            self.channel.on_socket(listener, self.adopt)
            self.channel.listen(listener).addCallbacks(self.listening, self.not_listening)
        self.channel.on_drain(self.drain)
        LoopingCall(self.beat).start(1.0)
        if self.options.get("never_ready") != self.boot.shard:
            self.channel.ready([])

    def listening(self, address):
        self.note(f"listening {address}")

    def not_listening(self, why):
        self.note(f"refused {why.value}")

    def note(self, line):
        path = os.path.join(self.boot.data_dir, f"notes-{self.boot.shard}")
        with open(path, "a") as file:
            file.write(line + "\n")

    def adopt(self, connection):
        self.counters.add("fake_adopted_total")
        self.reactor.adoptStreamConnection(connection.fileno(), socket.AF_INET, self.factory)
        connection.close()

    def beat(self):
        self.counters.add("fake_beats_total")
        self.channel.beat(0.5, self.counters)
        if self.boot.shard == 0 and self.channel.node_counters:
            text = repr((self.channel.shard_states, self.channel.node_counters))
            path = os.path.join(self.boot.data_dir, "states")
            with open(path + ".new", "w") as file:
                file.write(text)
            os.rename(path + ".new", path)

    def drain(self, budget_s):
        self.note(f"drain {budget_s:.1f}")
        if self.options.get("hang_drain") == self.boot.shard:
            return Deferred()
        return None


def build(boot, channel, reactor):
    """The shard factory."""
    return FakeShard(boot, channel, reactor)

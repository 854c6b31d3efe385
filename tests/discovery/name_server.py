"""A name server on 127.0.0.1, on a port the kernel chooses, that says what the test wants."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.names import common, dns
from twisted.names.error import DomainError
from twisted.names.server import DNSServerFactory

from meshsvc.model import Address


class Zone(common.ResolverBase):
    """Answers from ``records``; a name in ``silent`` gets no answer, one unknown NXDOMAIN."""

    def __init__(self):
        super().__init__()
        self.records = {}
        self.silent = set()
        self.asked = []

    def has(self, name, *records):
        self.records.setdefault(name, []).extend(records)

    def _lookup(self, name, cls, kind, timeout):
        text = name.decode()
        self.asked.append((text, kind))
        if text in self.silent:
            return Deferred()
        if text not in self.records:
            return fail(DomainError(text))
        found = [r for r in self.records[text] if kind == r.TYPE]
        headers = [dns.RRHeader(name, r.TYPE, dns.IN, 60, r) for r in found]
        return succeed((headers, [], []))


class NameServer:
    """``zone`` served over UDP at ``address``."""

    def __init__(self):
        self.zone = Zone()
        factory = DNSServerFactory(clients=[self.zone])
        factory.noisy = False
        protocol = dns.DNSDatagramProtocol(factory)
        protocol.noisy = False
        self._port = reactor.listenUDP(0, protocol, "127.0.0.1")
        self.address = Address("127.0.0.1", self._port.getHost().port)

    def stop(self):
        return self._port.stopListening()

"""Peers out of DNS: A and AAAA records of names, SRV records of services.

Asked with twisted.names, never with the blocking resolver. Every name is asked for at the
same time as the others and has a time of its own, so that one whose server is silent, or
that does not exist, costs the others nothing: it is noted, they are used. Only when nothing
at all was found, and something went wrong, is the whole check an error.

Names are asked as they are written: no search list, no /etc/hosts, no cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv6Address
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.names import client, dns
from twisted.names.error import DNSNameError, DomainError
from twisted.python.failure import Failure
from zope.interface import implementer

from meshsvc.discovery.addresses import MAX_ADDRESSES, Found
from meshsvc.discovery.backends.options import DnsOptions, read_options
from meshsvc.discovery.protocol import within
from meshsvc.interfaces import IDiscoveryBackend
from meshsvc.model import Address

TRIES_S = (1.0, 2.0)
"""How long each try of a question waits: a lost datagram costs a second."""

NAME_S = 4.0
"""How long one name may take in all, with several servers to try or an answer over TCP. Two
of these, for an SRV record and for its targets, stay below ``[discovery] timeout``."""

RESOLV_CONF = "/etc/resolv.conf"


class LookedUpLate(Exception):
    """A name took longer than a name may take."""


@implementer(IDiscoveryBackend)
class DnsBackend:
    """Looks up ``names`` and ``services``."""

    name = "dns"

    def __init__(self) -> None:
        self._options = DnsOptions()
        self._reactor: Any = None
        self._resolver: Any = None

    def start(self, options: Mapping[str, object], reactor: Any) -> None:
        """Take the options; reads /etc/resolv.conf when they name no servers."""
        self._options = read_options(self.name, options)
        self._reactor = reactor
        servers = [(server.host, server.port) for server in self._options.servers]
        self._resolver = client.Resolver(
            None if servers else RESOLV_CONF, servers or None, TRIES_S, reactor
        )

    def stop(self) -> None:
        """Let go of the resolver's timer."""
        timer = getattr(self._resolver, "_parseCall", None)
        try:
            if timer is not None:
                timer.cancel()
        except (AlreadyCalled, AlreadyCancelled):
            pass

    def get_nodes(self) -> Deferred[Any]:
        """Every address of every name; notes name those that brought nothing."""
        options = self._options
        asked = [self._host(name, options.port) for name in options.names]
        asked += [self._service(name) for name in options.services]
        return DeferredList(asked).addCallback(_together)

    def _host(self, name: str, port: int) -> Deferred[Found]:
        """The addresses of one host name; never fails."""
        questions = (self._resolver.lookupAddress, self._resolver.lookupIPV6Address)
        # A target from an SRV record can be a name that cannot even be asked for.
        asked = [self._in_time(maybeDeferred(ask, name)) for ask in questions]
        answers = DeferredList(asked, consumeErrors=True)
        return answers.addCallback(lambda results: _host_found(name, port, results))

    def _service(self, name: str) -> Deferred[Found]:
        """The addresses of one service; never fails."""
        asked: Deferred[Any] = self._in_time(self._resolver.lookupService(name))
        asked.addCallback(lambda sections: self._targets(name, sections))
        return asked.addErrback(lambda failure: Found.of((), (_note(name, failure),)))

    def _targets(self, name: str, sections: Any) -> Deferred[Found] | Found:
        answers, _, additional = sections
        found = _records(answers, dns.SRV)
        wanted = {(str(r.target), r.port) for r in found if r.port and str(r.target).strip(".")}
        if not wanted:
            return Found.of((), (f"{name}: it has no SRV record",))
        given = _given(additional)
        asked = []
        known: list[Address] = []
        for host, port in sorted(wanted)[:MAX_ADDRESSES]:
            hosts = given.get(host.lower())
            if hosts:
                known += [Address(ip, port) for ip in hosts]
            else:
                asked.append(self._host(host, port))
        results = DeferredList(asked)
        return results.addCallback(lambda rest: _join([Found.of(known), *(f for _, f in rest)]))

    def _in_time(self, asking: Deferred[Any]) -> Deferred[Any]:
        late = LookedUpLate(f"no answer in {NAME_S:g} s")
        return within(asking, NAME_S, self._reactor, lambda: late)


def _records(section: Any, kind: int) -> list[Any]:
    return [record.payload for record in section if record.type == kind]


def _ips(section: Any) -> list[str]:
    return [r.dottedQuad() for r in _records(section, dns.A)] + [
        str(IPv6Address(r.address)) for r in _records(section, dns.AAAA)
    ]


def _given(additional: Any) -> dict[str, list[str]]:
    """The addresses that came along with an SRV answer, by host name."""
    given: dict[str, list[str]] = {}
    for record in additional:
        if record.type in (dns.A, dns.AAAA):
            given.setdefault(str(record.name).lower(), []).extend(_ips([record]))
    return given


def _host_found(name: str, port: int, results: list[tuple[bool, Any]]) -> Found:
    found, why = [], []
    for good, result in results:
        if good:
            found += [Address(ip, port) for ip in _ips(result[0])]
        elif not result.check(DNSNameError):
            why.append(_note(name, result))
    if found:
        return Found.of(found)
    return Found.of((), why[:1] or (f"{name}: it has no A or AAAA record",))


def _note(name: str, failure: Failure) -> str:
    if failure.check(DNSNameError):
        return f"{name}: there is no such name"
    if failure.check(DomainError):
        return f"{name}: {type(failure.value).__name__}"
    return f"{name}: {failure.getErrorMessage() or failure.type}"


def _join(parts: list[Found]) -> Found:
    return Found.of(
        [address for part in parts for address in part], [n for part in parts for n in part.notes]
    )


def _together(results: list[tuple[bool, Found]]) -> Found:
    return _join([found for _, found in results])

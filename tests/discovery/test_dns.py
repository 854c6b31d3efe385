"""The dns backend against a name server of the test's own, over real sockets."""

from __future__ import annotations

import socket
import time

import pytest
import pytest_twisted
from name_server import NameServer
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.names import dns

from meshsvc.discovery.addresses import read_answer
from meshsvc.discovery.backends import protocol
from meshsvc.discovery.backends.protocol import DnsBackend
from meshsvc.model import Address


@pytest.fixture
def server():
    """A name server for the time of a test."""
    made = NameServer()
    yield made
    pytest_twisted.blockon(made.stop())


@pytest.fixture
def ask(server):
    """Asks a backend with these options, at that server."""
    backends = []

    def ask(**options):
        backend = DnsBackend()
        backends.append(backend)
        options.setdefault("servers", [str(server.address)])
        backend.start(options, reactor)
        return backend.get_nodes().addCallback(read_answer)

    yield ask
    for backend in backends:
        backend.stop()


@pytest.mark.contract("DISC-5")
@pytest_twisted.inlineCallbacks
def test_names_give_their_a_and_aaaa_records(server, ask):
    """Every address of every name, at the port of the config."""
    server.zone.has("one.test", dns.Record_A("10.0.0.1"), dns.Record_A("10.0.0.2"))
    server.zone.has("two.test", dns.Record_AAAA("fd00::2"))
    answer = yield ask(names=["one.test", "two.test"], port=7000)
    assert set(answer.addresses) == {
        Address("10.0.0.1", 7000),
        Address("10.0.0.2", 7000),
        Address("fd00::2", 7000),
    }
    assert answer.notes == ()


@pytest.mark.contract("DISC-5")
@pytest_twisted.inlineCallbacks
def test_services_give_their_srv_records(server, ask):
    """Each target at its own port, resolved; a target of "." offers nothing."""
    service = "_meshsvc._tcp.test"
    server.zone.has(service, dns.Record_SRV(0, 0, 7001, "one.test"))
    server.zone.has(service, dns.Record_SRV(5, 1, 7002, "two.test"))
    server.zone.has("one.test", dns.Record_A("10.0.0.1"))
    server.zone.has("two.test", dns.Record_A("10.0.0.2"), dns.Record_AAAA("fd00::2"))
    server.zone.has("_none._tcp.test", dns.Record_SRV(0, 0, 7001, b""))
    answer = yield ask(services=[service, "_none._tcp.test", "_absent._tcp.test"])
    assert set(answer.addresses) == {
        Address("10.0.0.1", 7001),
        Address("10.0.0.2", 7002),
        Address("fd00::2", 7002),
    }
    assert answer.notes == (
        "_none._tcp.test: it has no SRV record",
        "_absent._tcp.test: there is no such name",
    )


@pytest.mark.contract("DISC-5")
@pytest_twisted.inlineCallbacks
def test_a_name_that_does_not_resolve_costs_the_others_nothing(server, ask):
    """It is noted; the others are used, and were asked at the same time."""
    server.zone.has("good.test", dns.Record_A("10.0.0.1"))
    server.zone.has("empty.test")
    answer = yield ask(names=["bad.test", "good.test", "empty.test"])
    assert answer.addresses == (Address("10.0.0.1", 7700),)
    assert answer.notes == (
        "bad.test: it has no A or AAAA record",
        "empty.test: it has no A or AAAA record",
    )


@pytest.mark.contract("DISC-5")
@pytest_twisted.inlineCallbacks
def test_nothing_found_is_an_error_with_the_reason(ask):
    """The notes become the reason of a failed check: what was found before stays."""
    answer = yield ask(names=["bad.test"])
    assert answer.useless
    assert answer.notes == ("bad.test: it has no A or AAAA record",)


@pytest.mark.contract("DISC-5")
@pytest_twisted.inlineCallbacks
def test_silence_takes_one_name_its_time_and_no_more(server, ask, monkeypatch):
    """Several silent names and services cost one time-out together."""
    monkeypatch.setattr(protocol, "NAME_S", 0.3)
    monkeypatch.setattr(protocol, "TRIES_S", (0.1, 0.3))
    server.zone.has("good.test", dns.Record_A("10.0.0.1"))
    server.zone.silent = {"a.test", "b.test", "c.test", "_x._tcp.test"}
    began = time.monotonic()
    answer = yield ask(names=["a.test", "b.test", "good.test", "c.test"], services=["_x._tcp.test"])
    took = time.monotonic() - began
    assert answer.addresses == (Address("10.0.0.1", 7700),)
    assert len(answer.notes) == 4
    assert answer.notes[0] == "a.test: no answer in 0.3 s"
    assert 0.3 <= took < 0.9, "in parallel"
    yield deferLater(reactor, 0.3)  # the resolver's own tries, which cannot be called back


@pytest.mark.contract("DISC-5")
@pytest_twisted.inlineCallbacks
def test_a_server_that_answers_rubbish_is_as_good_as_silent(ask, monkeypatch):
    """Bytes that are no answer are dropped; the check ends in time and says so."""
    monkeypatch.setattr(protocol, "NAME_S", 0.3)
    monkeypatch.setattr(protocol, "TRIES_S", (0.1, 0.3))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rubbish:
        rubbish.bind(("127.0.0.1", 0))
        rubbish.setblocking(False)
        host, port = rubbish.getsockname()

        def answer_rubbish():
            for _ in range(4):
                try:
                    question, sender = rubbish.recvfrom(512)
                except BlockingIOError:
                    return
                rubbish.sendto(question[:2] + b"\xff" * 60, sender)

        answering = ask(names=["a.test"], servers=[f"{host}:{port}"])
        yield deferLater(reactor, 0.05, answer_rubbish)
        answer = yield answering
        assert answer.useless
        yield deferLater(reactor, 0.3)

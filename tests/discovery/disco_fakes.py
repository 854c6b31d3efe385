"""In-process stand-ins: a backend that does what it is told, and what discovery talks to."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from meshsvc.counters import Counters
from meshsvc.discovery.protocol import BackendRunner
from meshsvc.discovery.service import DiscoveryService
from meshsvc.errors import Disconnected
from meshsvc.gossip.members import Member, Status
from meshsvc.interfaces import IDiscoveryBackend
from meshsvc.link.targets import Dialed
from meshsvc.model import Address, Incarnation, NodeId, NodeInfo

TIMEOUT_S = 10.0


def address(number):
    return Address(f"10.0.0.{number}", 7700)


def node_id(number):
    return NodeId(f"{number:032x}")


def info(number, generation=1):
    at = address(number)
    return NodeInfo(node_id(number), f"n{number}", Incarnation(generation), at, 1)


def member(number, status=Status.ALIVE, generation=1, **values):
    who = info(number, generation)
    return Member(
        who.node_id, who.name, status, generation, 1, who.address, who.shards, values, None
    )


@implementer(IDiscoveryBackend)
class FakeBackend:
    """Answers the next of ``answers`` (the last one for ever): a value, an exception to fail
    with, or a Deferred."""

    name = "fake"

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = 0
        self.started = []
        self.stopped = 0

    def start(self, options, reactor):
        self.started.append(options)

    def get_nodes(self):
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, type) and issubclass(answer, BaseException):
            raise answer("raised")
        if isinstance(answer, Deferred):
            return answer
        return fail(answer) if isinstance(answer, Exception) else succeed(answer)

    def stop(self):
        self.stopped += 1


class FakeGossip:
    """A membership that is what the test says."""

    def __init__(self, *members):
        self.rows = {each.node_id: each for each in members}
        self.contacts = []
        self.subscribers = []

    def members(self):
        return tuple(sorted(self.rows.values(), key=lambda each: each.name))

    def set_contacts(self, addresses):
        self.contacts.append(tuple(addresses))

    def subscribe(self, subscriber):
        self.subscribers.append(subscriber)
        return subscriber

    def unsubscribe(self, subscriber):
        self.subscribers.remove(subscriber)

    def tell(self, event):
        """An event happened; the view shows it."""
        self.rows[event.node_id] = event.member
        for each in self.subscribers:
            each.endpoint_event(event)


class FakeLinks:
    """What dials came to, by address."""

    def __init__(self):
        self.known = {}

    def dialed(self, at, link_class):
        return self.known.get(at)

    def answered(self, number):
        self.known[address(number)] = Dialed(node_id(number), "")

    def refused(self, number, reason="connect", text="connection refused"):
        self.known[address(number)] = Dialed(None, text, reason)


class FakeMessaging:
    """Peers that answer what the test says; those not named are not connected."""

    def __init__(self):
        self.verbs = {}
        self.answers = {}
        self.asked = []

    def register(self, verb, handler):
        self.verbs[verb] = handler

    def unregister(self, verb):
        del self.verbs[verb]
        return succeed(None)

    def ask(self, target, verb, payload, timeout_s, link_class):
        self.asked.append((target.node, verb, timeout_s))
        answer = self.answers.get(target.node, Disconnected("no way"))
        if isinstance(answer, Deferred):
            return answer
        return fail(answer) if isinstance(answer, Exception) else succeed(answer)


class FakeTables:
    """A ``TablesView`` of plain values."""

    def __init__(self, replicas=(), joins=()):
        self._replicas, self._joins = dict(replicas), list(joins)
        self.checks = 0
        self.observers = []

    def replicas(self):
        return self._replicas

    def joins(self):
        return self._joins

    def check_joins(self):
        self.checks += 1

    def observe_joins(self, observer):
        self.observers.append(observer)

    def set_joins(self, *joins):
        self._joins = list(joins)
        for observer in self.observers:
            observer()


class World:
    """One discovery service, number 1, on a clock, among fakes."""

    def __init__(self, backend, *members, tables=None, timeout_s=TIMEOUT_S):
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.backend = backend
        self.gossip = FakeGossip(member(1), *members)
        self.links, self.messaging, self.counters = FakeLinks(), FakeMessaging(), Counters()
        runner = BackendRunner(backend, "fake", {"a": 1}, timeout_s)
        self.service = DiscoveryService(
            *(self.clock, info(1), runner, self.gossip, self.links),
            *(self.messaging, self.counters),
        )
        if tables is not None:
            self.service.attach(tables)

    def __enter__(self):
        self.service.startService()
        return self

    def __exit__(self, *error):
        self.service.stopService()
        assert not self.clock.getDelayedCalls()

    @property
    def core(self):
        return self.service.core

    def look(self):
        """Until what just happened has been looked at."""
        self.run(0.25)

    def run(self, seconds, step_s=0.25):
        """Let time pass in small steps, as a reactor would."""
        self.clock.pump([step_s] * round(seconds / step_s))

"""Links in memory: pairs of sessions back to back, and services over transports of our own.

``World`` holds link services that dial each other through in-memory connections. Nothing
moves by itself: each byte chunk, end of stream and connection is an action that waits, and
``World.step`` takes the one that a ``Chooser`` picks. ``explore`` runs a scenario once for
every sequence of picks, so a test can hold a rule against all interleavings.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from meshsvc.counters import Counters
from meshsvc.link.admission import Known, Local
from meshsvc.link.events import Disposal, Event, Intent, Limits
from meshsvc.link.service import LinkService
from meshsvc.link.session import Session
from meshsvc.model import (
    Address,
    Epoch,
    Incarnation,
    LinkClass,
    NodeId,
    NodeInfo,
    Roster,
)
from meshsvc.wire.messages import Envelope

CONTROL, DATA = LinkClass.CONTROL, LinkClass.DATA
E1, E2, E3 = Epoch(1, 1), Epoch(1, 2), Epoch(2, 1)


def node(number: int, **changes: Any) -> Local:
    """Node ``n<number>`` of cluster "test"; ids rise with the number."""
    values: dict[str, Any] = {
        "cluster": "test",
        "node_id": NodeId(f"{number:032x}"),
        "name": f"n{number}",
        "incarnation": Incarnation(10),
        "address": Address("127.0.0.1", 7000 + number),
        "shards": 1,
    }
    return Local(**{**values, **changes})


def info(me: Local) -> NodeInfo:
    """How a roster lists a node."""
    return NodeInfo(me.node_id, me.name, me.incarnation, me.address, me.shards)


def roster(epoch: Epoch, *nodes: Local) -> Roster:
    """A roster of these nodes."""
    return Roster(epoch, tuple(info(each) for each in nodes))


def envelope(epoch: Epoch, seq: int = 0, link_class: LinkClass = DATA) -> Envelope:
    """An envelope whose sequence number tells it from others."""
    term, attempt = epoch.term, epoch.attempt
    return Envelope("a", 0, 0, "b", 0, 0, int(link_class), term, attempt, seq, b"body")


class Ends:
    """Two sessions back to back: index 0 dialed, index 1 accepted."""

    def __init__(
        self,
        dialer: Local | None = None,
        acceptor: Local | None = None,
        link_class: LinkClass = CONTROL,
        expect: str = "",
        known: tuple[Known, Known] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.now = 100.0
        self.known = known or (Known(), Known())
        limits = limits or Limits()
        intent = Intent(link_class, 7, expect)
        mine, theirs = self.known
        self.ends = (
            Session(dialer or node(1), lambda: mine, limits, self.now, intent),
            Session(acceptor or node(2), lambda: theirs, limits, self.now),
        )
        self.events: tuple[list[Event], list[Event]] = ([], [])

    def collect(self) -> None:
        """Take what came out of both."""
        for end, events in zip(self.ends, self.events, strict=True):
            events.extend(end.take_events())

    def move(self, source: int, chunk: int = 1 << 20) -> bool:
        """Carry what one end has to say to the other, in chunks; whether there was any."""
        data = self.ends[source].take_output(1 << 20, self.now)
        for start in range(0, len(data), chunk):
            self.ends[1 - source].receive(data[start : start + chunk], self.now)
        self.collect()
        return bool(data)

    def settle(self) -> None:
        """Carry all there is, both ways."""
        for _ in range(20):
            if not (self.move(0) | self.move(1)):
                return
        raise AssertionError("the two ends do not come to rest")

    def pass_time(self, seconds: float) -> None:
        """Let time go by in small steps, moving what is to be moved."""
        end = self.now + seconds
        while self.now < end:
            self.now += 0.25
            for session in self.ends:
                at = session.deadline()
                if at is not None and at <= self.now:
                    session.tick(self.now)
            self.collect()
            self.settle()

    def kinds(self, index: int) -> list[str]:
        """The types of the events of one end."""
        return [type(event).__name__ for event in self.events[index]]

    def of(self, index: int, kind: type) -> list[Any]:
        """The events of one type of one end."""
        return [event for event in self.events[index] if isinstance(event, kind)]


def up_pair(link_class: LinkClass = CONTROL, epoch: Epoch = E1, **rest: Any) -> Ends:
    """Two sessions that are up, their events so far forgotten."""
    if link_class is DATA:
        rest.setdefault("known", (Known(epoch=epoch), Known(epoch=epoch)))
    ends = Ends(link_class=link_class, **rest)
    ends.settle()
    assert all(end.up for end in ends.ends)
    for events in ends.events:
        events.clear()
    return ends


class Chooser:
    """Picks by a script, then always the first; notes how many there were to pick from."""

    def __init__(self, script: list[int]) -> None:
        self.script = script
        self.widths: list[int] = []

    def pick(self, count: int) -> int:
        """Which of ``count`` actions is next."""
        at = len(self.widths)
        self.widths.append(count)
        return self.script[at] if at < len(self.script) else 0


class Dice(Chooser):
    """Picks by a seed."""

    def __init__(self, seed: int) -> None:
        super().__init__([])
        self._rng = random.Random(seed)

    def pick(self, count: int) -> int:
        """Any of them."""
        return self._rng.randrange(count)


def explore(scenario: Callable[[Chooser], None], most: int) -> int:
    """Run a scenario for every sequence of picks; how many there were, at most ``most``."""
    pending, runs = [[]], 0
    while pending:
        script = pending.pop()
        chooser = Chooser(script)
        try:
            scenario(chooser)
        except BaseException as error:
            error.add_note(f"the picks were {script}")
            raise
        runs += 1
        assert runs <= most, "the scenario has more interleavings than it was thought to have"
        for at in range(len(script), len(chooser.widths)):
            taken = script + [0] * (at - len(script))
            pending += [[*taken, other] for other in range(1, chooser.widths[at])]
    return runs


@implementer(ITCPTransport)
class MemoryTransport:
    """One end of an in-memory connection; what it writes waits to be carried over."""

    def __init__(self, world: World, address: Address, remote: Address) -> None:
        self.world = world
        self.protocol: Any = None
        self.other: MemoryTransport
        self.outgoing: deque[bytes | None] = deque()
        self.writes: list[bytes] = []
        self.reading = True
        self.closed = self.aborted = self.lost = False
        self._addresses = (address, remote)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", self._addresses[0].host, self._addresses[0].port)

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", self._addresses[1].host, self._addresses[1].port)

    def setTcpNoDelay(self, enabled: bool) -> None:
        assert enabled

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming

    def unregisterProducer(self) -> None:
        pass

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.outgoing.append(data)
            self.writes.append(data)

    def loseConnection(self) -> None:
        if not self.closed:
            self.closed = True
            self.outgoing.append(None)
            self.world.clock.callLater(0, self._lose)

    def abortConnection(self) -> None:
        if not self.aborted:
            self.closed = self.aborted = True
            self.outgoing.clear()
            self.outgoing.append(None)
            self.world.clock.callLater(0, self._lose)

    def carry(self) -> None:
        """Take one chunk, or the end, to the other side."""
        chunk = self.outgoing.popleft()
        if self.other.lost:
            return
        if chunk is None:
            self.other._lose()
        else:
            self.other.protocol.dataReceived(chunk)

    def cut(self) -> None:
        """The network drops the connection: this end notices, the other does not."""
        self.outgoing.clear()
        self._lose()

    def _lose(self) -> None:
        if not self.lost:
            self.lost = self.closed = True
            self.protocol.connectionLost(Failure(ConnectionDone()))


class Watcher:
    """Observes one service; ``events`` holds what it was told, oldest first."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *about: self.events.append((name, *about))

    def of(self, name: str) -> list[tuple[Any, ...]]:
        """What it was told of one kind."""
        return [about for kind, *about in self.events if kind == name]

    @property
    def flow(self) -> list[str]:
        """The kinds, without messages."""
        return [kind for kind, *_ in self.events if kind not in ("received", "link_epoch")]


class World:
    """Link services, the connections between them, and what is about to happen."""

    def __init__(self, *nodes: Local) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.services: dict[Address, LinkService] = {}
        self.watchers: list[Watcher] = []
        self.transports: list[MemoryTransport] = []
        self.connecting: deque[tuple[Address, Address, Any, Deferred[Any]]] = deque()
        self.down: set[Address] = set()
        self.members = [self.add(each) for each in nodes]

    def add(self, me: Local) -> LinkService:
        """Start a node; one at the same address takes its place there."""
        service = LinkService(
            self.clock,
            me,
            Counters(),
            random.Random(1),
            lambda address, factory: self._connect(me.address, address, factory),
        )
        watcher = Watcher()
        service.add_observer(watcher)
        self.watchers.append(watcher)
        self.services[me.address] = service
        service.startService()
        return service

    def actions(self) -> list[Callable[[], None]]:
        """What could happen next."""
        ready: list[Callable[[], None]] = [
            each.carry for each in self.transports if each.outgoing and each.other.reading
        ]
        if self.connecting:
            ready.append(self._establish)
        return ready

    def step(self, chooser: Chooser) -> bool:
        """Let one thing happen; whether there was one."""
        self.clock.advance(0)
        ready = self.actions()
        if not ready:
            return False
        ready[chooser.pick(len(ready)) if len(ready) > 1 else 0]()
        self.clock.advance(0)
        return True

    def settle(self, chooser: Chooser | None = None, most: int = 1000) -> None:
        """Let all happen that can without time going by."""
        chooser = chooser or Chooser([])
        for _ in range(most):
            if not self.step(chooser):
                return
        raise AssertionError("the world does not come to rest")

    def pass_time(self, seconds: float, step_s: float = 0.05) -> None:
        """Let time go by in small steps."""
        for _ in range(round(seconds / step_s)):
            self.clock.advance(step_s)
            self.settle()

    def live(self) -> Iterator[MemoryTransport]:
        """Ends of connections that are not lost."""
        return (each for each in self.transports if not each.lost)

    def stop(self) -> None:
        """Stop all services and see that nothing is left of them."""
        done: list[Any] = []
        for service in set(self.services.values()) | set(self.members):
            if service.running:
                service.stopService().addCallback(done.append)
        self.pass_time(4)
        assert not list(self.live())
        assert not self.clock.getDelayedCalls()

    def _connect(self, source: Address, address: Address, factory: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.connecting.append((source, address, factory, done))
        return done

    def _establish(self) -> None:
        source, address, factory, done = self.connecting.popleft()
        if done.called:
            return
        service = self.services.get(address)
        accepted = service.accept() if service and address not in self.down else None
        if accepted is None:
            done.errback(Failure(ConnectionRefusedError()))
            return
        near = MemoryTransport(self, source, address)
        far = MemoryTransport(self, address, source)
        near.other, far.other = far, near
        near.protocol, far.protocol = factory.buildProtocol(None), accepted
        self.transports += [near, far]
        far.protocol.makeConnection(far)
        near.protocol.makeConnection(near)
        done.callback(near.protocol)


def disposed(session: Session) -> bool:
    """Whether a session wants its connection closed."""
    return session.disposal is not Disposal.KEEP

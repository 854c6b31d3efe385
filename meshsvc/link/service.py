"""All links of one shard: accepts and dials them, admits peers, tells observers.

Observers are called within the reactor turn in which something happened; one that raises is
logged and costs nobody else anything. What they may rely on: ``link_up`` and ``link_down``
alternate for each life of a node and class, whatever connections raced or were replaced
underneath, and every message of a link comes between the two.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from twisted.application.service import Service
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
)
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshsvc.counters import Counters
from meshsvc.link.admission import Local, describe
from meshsvc.link.dial import Connect
from meshsvc.link.events import (
    Dropped,
    Ended,
    EpochAgreed,
    EpochParted,
    EpochSeen,
    Event,
    Intent,
    Limits,
    Proven,
    Received,
    Up,
)
from meshsvc.link.knowledge import Knowledge
from meshsvc.link.protocol import LinkProtocol
from meshsvc.link.refusals import QUIET, Refusals
from meshsvc.link.session import Session
from meshsvc.link.table import Link, LinkDown, LinkUp, Table
from meshsvc.link.targets import Target, Targets
from meshsvc.model import Address, Epoch, LinkClass, NodeId, Roster

CONNECT_TIMEOUT_S = 5.0
"""A host that does not answer for this long is as good as down; the dial is repeated."""

MAX_STRANGERS = 256
"""Accepted connections that are not up yet; the oldest is cut for one more (LINK-1)."""

Connector = Callable[[Address, IProtocolFactory], Deferred[Any]]


def tcp_connector(reactor: Any) -> Connector:
    """Dials TCP; names are resolved by the reactor's resolver, which does not block."""

    def connect(address: Address, factory: IProtocolFactory) -> Deferred[Any]:
        host, port = address.host, address.port
        if isIPAddress(host):
            kind: Any = TCP4ClientEndpoint
        elif isIPv6Address(host):
            kind = TCP6ClientEndpoint
        else:
            kind = HostnameEndpoint
        connecting: Deferred[Any] = kind(reactor, host, port, CONNECT_TIMEOUT_S).connect(factory)
        return connecting

    return connect


class LinkFactory(Factory):
    """Builds the protocol of one role; ``build`` makes one link, or None to hang up."""

    noisy = False

    def __init__(self, build: Callable[[], LinkProtocol | None]) -> None:
        self._build = build

    def buildProtocol(self, addr: IAddress | None) -> LinkProtocol | None:
        """Twisted: there is a connection."""
        return self._build()


class LinkService(Service):
    """The links of both classes that this shard owns.

    An observer has ``link_up(link)``, ``link_down(link, reason, text)``,
    ``link_epoch(link)`` (whether or under which epoch envelopes flow has changed),
    ``received(link, message)``, ``dropped(link, envelope, reason)``,
    ``refused(peer, reason, text)`` and ``epoch_seen(epoch)`` (a peer is ahead of this node).

    Args:
        reactor: for timers, and for sockets unless ``connect`` is given.
        me: who this node is.
        counters: of this shard.
        rng: spreads the waits between dials.
        connect: dials an address with a protocol factory, as an endpoint does.
    """

    name = "links"
    log = Logger()

    def __init__(
        self,
        reactor: Any,
        me: Local,
        counters: Counters,
        rng: Random,
        connect: Connector | None = None,
    ) -> None:
        self.me = me
        self._reactor = reactor
        self._counters = counters
        self._connect_to = connect if connect is not None else tcp_connector(reactor)
        self._limits = Limits()
        self._refusals = Refusals(counters)
        self._table = Table()
        self._targets = Targets(rng.random)
        self.dialed = self._targets.dialed
        self._knowledge = Knowledge(me.node_id, self._table)
        self._carriers: dict[LinkProtocol, Target | None] = {}
        self._strangers: OrderedDict[LinkProtocol, None] = OrderedDict()
        self._dialing: dict[int, tuple[Target, Deferred[Any]]] = {}
        self._dials = 0
        self._timer: IDelayedCall | None = None
        self._stopped: Deferred[None] | None = None
        self._observers: list[Any] = []

    # --- what a node does with it --------------------------------------------------------

    def add_observer(self, observer: Any) -> None:
        """Tell an observer of everything from here on, after those added before it."""
        self._observers.append(observer)

    def links(self) -> tuple[Link, ...]:
        """Every live link."""
        return tuple(self._table.links())

    def link(self, node_id: NodeId, link_class: LinkClass) -> Link | None:
        """The live link of a class to a node."""
        return self._table.get(node_id, link_class)

    def keep(self, target: Address, link_class: LinkClass, expect: NodeId | None) -> None:
        """Keep a link to an address until ``forget``; dial while none to ``expect`` is up."""
        now = self._reactor.seconds()
        linked = expect is not None and self.link(expect, link_class) is not None
        self._targets.keep(target, link_class, expect, linked=linked, now=now)
        self._dial()

    def forget(self, target: Address, link_class: LinkClass) -> None:
        """Dial an address no more; a link that is up stays."""
        self._targets.forget(target, link_class)
        self._dial()

    def set_known(
        self,
        removed: frozenset[NodeId],
        names: Mapping[str, NodeId],
        enabled: frozenset[str] = frozenset(),
    ) -> None:
        """Nodes that were removed (their links are closed), names alive, features required."""
        knows = self._knowledge
        knows.removed, knows.names, knows.enabled = removed, names, enabled
        self._review()

    def set_epoch(self, epoch: Epoch, roster: Roster | None) -> None:
        """This node adopted an epoch: data links of its members agree on it in band.

        Data links to nodes that the roster leaves out, or lists with another incarnation,
        are closed; the others stay (MESH-9). ``roster`` None checks nobody.
        """
        self._knowledge.epoch, self._knowledge.roster = epoch, roster
        self._review()
        for carrier in list(self._carriers):
            carrier.set_epoch(epoch)

    def adopt(self, sock: socket.socket, preface_already_read: bool = False) -> None:
        """Take an accepted, connected socket; it is closed here whatever becomes of it."""
        factory = LinkFactory(lambda: self.accept(preface_already_read))
        try:
            if self.running:
                sock.setblocking(False)
                self._reactor.adoptStreamConnection(sock.fileno(), sock.family, factory)
        except OSError as error:  # the peer was gone before we looked
            self.log.debug("a handed-over socket was dead: {error}", error=error)
        finally:
            sock.close()

    def accept(self, preface_already_read: bool = False) -> LinkProtocol | None:
        """The protocol for a connection that was accepted; None while not running."""
        if not self.running:
            return None
        carrier = self._carrier(None, None, preface_already_read)
        self._strangers[carrier] = None
        if len(self._strangers) > MAX_STRANGERS:
            oldest, _ = self._strangers.popitem(last=False)
            oldest.close("overloaded", f"over {MAX_STRANGERS} connections await a handshake")
        return carrier

    # --- service -------------------------------------------------------------------------

    def startService(self) -> None:
        """Dial what is to be kept."""
        super().startService()  # type: ignore[no-untyped-call]
        self._dial()

    def stopService(self) -> Deferred[None]:
        """Say goodbye on all links; fires when every connection is gone (2 s at most)."""
        self._targets.forget_all()
        self._dial()
        super().stopService()  # type: ignore[no-untyped-call]
        # A dial that another link made needless goes on until it is told otherwise.
        for _, connecting in list(self._dialing.values()):
            connecting.cancel()
        for carrier in list(self._carriers):
            carrier.close("stopping", f"{self.me.name} stops")
        if not self._carriers:
            return succeed(None)
        self._stopped = Deferred()
        return self._stopped

    # --- links come and go ---------------------------------------------------------------

    def link_event(self, carrier: LinkProtocol, event: Event) -> None:
        """One event of a session (called by its protocol)."""
        if type(event) is Received:  # the one that comes often, and changes nothing here
            if carrier.link is not None:
                self._tell("received", carrier.link, event.message)
            return
        match event:
            case Up(peer):
                self._strangers.pop(carrier, None)
                self._table.up(carrier, peer, self._reactor.seconds())
                self._knowledge.met(peer.info.node_id, peer.info.incarnation)
            case Proven():
                self._table.proven(carrier)
            case Dropped(envelope, reason):
                self._counters.drop("link", reason)
                if carrier.link is not None:
                    self._tell("dropped", carrier.link, envelope, reason)
            case EpochAgreed() | EpochParted():
                self._table.epoch_moved(carrier)
            case EpochSeen(epoch):
                self._tell("epoch_seen", epoch)
            case Ended():
                self._ended(carrier, event)
        self._pass_on()

    def link_gone(self, carrier: LinkProtocol) -> None:
        """A connection is gone (called by its protocol)."""
        self._carriers.pop(carrier, None)
        self._strangers.pop(carrier, None)
        self._table.gone(carrier)
        if self._stopped is not None and not self._carriers:
            self._stopped.callback(None)
            self._stopped = None

    def _ended(self, carrier: LinkProtocol, end: Ended) -> None:
        session = carrier.session
        self._table.ended(carrier, end)
        if not session.was_up:
            self._note_refusal(carrier, end)
        target = self._carriers.get(carrier)
        if target is None:
            return
        if session.hello is not None:
            self._targets.learned(target, NodeId(session.hello.node_id))
        node = target.node
        linked = node is not None and self.link(node, target.link_class) is not None
        self._targets.over(target, end, self._reactor.seconds(), linked=linked)
        self._dial()

    def _pass_on(self) -> None:
        now = self._reactor.seconds()
        for notice in self._table.take_notices():
            link = notice.link
            node, link_class = link.peer.node_id, link.link_class
            match notice:
                case LinkUp():
                    self._counters.add("links_up_total", link_class=link_class.name.lower())
                    self._targets.linked(node, link_class, now)
                    self._tell("link_up", link)
                case LinkDown(_, reason, text, heals):
                    self._counters.add("links_down_total", reason=reason)
                    self._targets.link_lost(node, link_class, now, heals=heals)
                    self._tell("link_down", link, reason, text)
                    self._dial()
                case _:
                    self._tell("link_epoch", link)

    def _note_refusal(self, carrier: LinkProtocol, end: Ended) -> None:
        hello, target = carrier.session.hello, self._carriers.get(carrier)
        stranger = carrier.remote_host if target is None else str(target.address)
        peer = describe(hello.name, hello.node_id) if hello is not None else stranger
        reason, text, now = end.reason, end.text, self._reactor.seconds()
        self._refusals.count(reason, "remote" if end.remote else "local")
        if reason in QUIET:
            return
        self._tell("refused", peer, reason, text)
        if self._refusals.should_log(peer, reason, now):
            how = "refused us" if end.remote else "was refused"
            line = "{peer} {how} ({reason}): {text}"
            self.log.warn(line, peer=peer, how=how, reason=reason, text=text)

    def _review(self) -> None:
        for link in self.links():
            objection = self._knowledge.objection(link)
            if objection is not None:
                link.close(*objection)

    def _tell(self, what: str, *about: object) -> None:
        for observer in self._observers:
            try:
                getattr(observer, what)(*about)
            except Exception:
                self.log.failure("an observer failed at {what}", what=what)

    # --- dialing -------------------------------------------------------------------------

    def _dial(self) -> None:
        if not self.running:
            return
        for target, effect in self._targets.take_effects():
            if isinstance(effect, Connect):
                self._connect(target)
            else:
                self._abandon(target)
        self._arm()

    def _connect(self, target: Target) -> None:
        # Rises across restarts too, or the peer would take a lost shard's link for the later.
        self._dials = dial = max(self._dials + 1, int(self._reactor.seconds() * 1000))
        intent = Intent(target.link_class, dial, target.expect or "")
        factory = LinkFactory(lambda: self._carrier(intent, target))
        try:
            connecting = self._connect_to(target.address, factory)
        except Exception:  # an address that is no address, say
            self._not_connected(Failure(), dial, target)
            return
        self._dialing[dial] = (target, connecting)
        connecting.addCallbacks(
            lambda _: self._dialing.pop(dial, None),
            lambda failure: self._not_connected(failure, dial, target),
        )

    def _not_connected(self, failure: Failure, dial: int, target: Target) -> None:
        self._dialing.pop(dial, None)
        if failure.check(CancelledError, ConnectingCancelledError):  # forgotten
            return
        end = Ended("connect", failure.getErrorMessage(), heals=True, remote=False)
        self._counters.add("link_connect_failures_total")
        now = self._reactor.seconds()
        if self._refusals.should_log(str(target), end.reason, now):
            self.log.info("no connection to {target}: {text}", target=target, text=end.text)
        self._targets.over(target, end, now, linked=False)
        self._dial()

    def _abandon(self, target: Target) -> None:
        for dialed, connecting in list(self._dialing.values()):
            if dialed is target:
                connecting.cancel()
        for carrier, dialed_for in list(self._carriers.items()):
            if dialed_for is target and not carrier.session.up:
                carrier.abort()

    def _carrier(
        self, intent: Intent | None, target: Target | None, preface_read: bool = False
    ) -> LinkProtocol:
        now = self._reactor.seconds()
        session = Session(
            self.me, self._knowledge.now, self._limits, now, intent, preface_read=preface_read
        )
        carrier = LinkProtocol(self._reactor, session, self)
        self._carriers[carrier] = target
        return carrier

    def _arm(self) -> None:
        at = self._targets.deadline()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at is not None:
            delay = max(0.0, at - self._reactor.seconds())
            self._timer = self._reactor.callLater(delay, self._due)

    def _due(self) -> None:
        self._timer = None
        self._targets.tick(self._reactor.seconds())
        self._dial()

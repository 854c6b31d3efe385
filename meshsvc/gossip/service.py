"""Drives a ``Membership`` over the verbs and control links of shard 0.

A thin layer: it feeds facts in, carries effects out and keeps one delayed call. Beyond that
it hands events to subscribers, each with a queue of its own, and lets others wait for nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshsvc.counters import Counters
from meshsvc.errors import CallError, Disconnected, LocalError, StartError
from meshsvc.gossip.detector import HELPER_SHARE, NO
from meshsvc.gossip.effects import (
    Echo,
    EchoVia,
    Effect,
    Entered,
    Forget,
    Keep,
    NotEntered,
    Notify,
    Tell,
    ViewChanged,
)
from meshsvc.gossip.events import Event
from meshsvc.gossip.members import Member
from meshsvc.gossip.membership import VERBS, Membership
from meshsvc.gossip.protocol import AliveWait, EventStream, LinkObserver, Subscription
from meshsvc.model import Address, LinkClass, NodeId, NodeInfo, Sent, ShardAddress, ShardId

ECHO = "gossip.echo"
ECHO_VIA = "gossip.echo_via"
RTT = "gossip.rtt"

GOODBYE_S = 0.05
"""What was said last must leave before links are closed: a few turns of the reactor."""

MAX_VIA_S = 10.0
"""A helper does not wait longer, whatever it is asked: three times the longest time-out."""

EX_UNAVAILABLE = 69

_CONTROL = LinkClass.CONTROL


class Messaging(Protocol):
    """What gossip needs of the messaging service."""

    def tell(self, target: ShardAddress, verb: str, payload: object, link_class: LinkClass) -> Sent:
        """Send one way; never waits."""

    def ask(
        self,
        target: ShardAddress,
        verb: str,
        payload: object,
        timeout_s: float,
        link_class: LinkClass,
    ) -> Deferred[Any]:
        """Ask; must fail at once where there is no way to the target."""

    def register(self, verb: str, handler: Callable[[Any], object]) -> None:
        """Answer a verb; the call has ``payload`` and ``source`` (a ``ShardAddress``)."""

    def register_oneway(self, verb: str, handler: Callable[[Any], object]) -> None:
        """Take a verb."""

    def unregister(self, verb: str) -> Deferred[None]:
        """Take it no more; fires when calls in flight are done."""


class Link(Protocol):
    """One link that is up."""

    @property
    def peer(self) -> NodeInfo:
        """The other end."""

    @property
    def link_class(self) -> LinkClass:
        """The plane it belongs to."""


class Links(Protocol):
    """What gossip needs of the link service."""

    def keep(self, target: Address, link_class: LinkClass, expect: NodeId | None) -> None:
        """Keep a link there, until forgotten; said again, it changes who is expected."""

    def forget(self, target: Address, link_class: LinkClass) -> None:
        """Dial there no more."""

    def links(self) -> tuple[Any, ...]:
        """The links that are up, each as ``Link``."""

    def add_observer(self, observer: Any) -> None:
        """Report ``link_up(link)`` and ``link_down(link, reason, text)``, among others."""


class GossipService(Service):
    """The membership of this node, running (contracts GSP-1 to GSP-9, GSP-13, GSP-14)."""

    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        membership: Membership,
        messaging: Messaging,
        links: Links,
        counters: Counters,
    ) -> None:
        self.membership = membership
        self._reactor = reactor
        self._messaging = messaging
        self._links = links
        self._counters = counters
        self._timer: IDelayedCall | None = None
        self._draining = False
        self._entering: list[Deferred[bool]] = []
        self._entered: bool | Failure | None = None
        self._listeners: list[Subscription | EventStream] = []
        self._view_observers: list[Callable[[int], object]] = []
        self._waits: list[AliveWait] = []
        links.add_observer(LinkObserver(self.link_up, self.link_down))

    # --- life ----------------------------------------------------------------------------

    def startService(self) -> None:
        """Register the verbs, take up the links that are there, look for the cluster."""
        super().startService()  # type: ignore[no-untyped-call]
        for verb in VERBS:
            self._messaging.register_oneway(verb, self._receiver(verb))
        self._messaging.register(ECHO, lambda call: self.membership.answer_echo())
        self._messaging.register(ECHO_VIA, self._echo_for)
        self._messaging.register(RTT, lambda call: self.round_trips())
        for link in self._links.links():
            if link.link_class is _CONTROL:
                self.membership.link_up(link.peer, self._reactor.seconds())
        self.membership.start(self._reactor.seconds())
        self._drain()

    def stopService(self) -> Deferred[None]:
        """Say goodbye; fires when that has had time to leave."""
        super().stopService()  # type: ignore[no-untyped-call]
        self.membership.stop(self._reactor.seconds())
        self._drain()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        for wait in list(self._waits):
            wait.end(Disconnected("this node is stopping"))
        for listener in list(self._listeners):
            listener.close()
        done: Deferred[None] = deferLater(self._reactor, GOODBYE_S, lambda: None)
        return done.addCallback(lambda _: self._unregister())

    def _unregister(self) -> None:
        for verb in (*VERBS, ECHO, ECHO_VIA, RTT):
            self._messaging.unregister(verb)

    def entered(self) -> Deferred[bool]:
        """Fires when this node is a member: True when no contact answered and it is alone.

        Fails with ``StartError`` when a contact is required and none answered.
        """
        if self._entered is None:
            waiter: Deferred[bool] = Deferred()
            self._entering.append(waiter)
            return waiter
        return fail(self._entered) if isinstance(self._entered, Failure) else succeed(self._entered)

    # --- what others ask -----------------------------------------------------------------

    def members(self) -> tuple[Member, ...]:
        """Every known node, by name."""
        return self.membership.members()

    def round_trips(self) -> dict[str, float]:
        """Milliseconds to each node this one has measured, by node id."""
        rows = self.membership.members()
        return {member.node_id: member.rtt_ms for member in rows if member.rtt_ms is not None}

    def set_contacts(self, addresses: Iterable[Address]) -> None:
        """As ``Membership.set_contacts``."""
        self.membership.set_contacts(addresses, self._reactor.seconds())
        self._drain()

    def set_values(self, values: Mapping[str, Any]) -> None:
        """As ``Membership.set_values``."""
        self.membership.set_values(values, self._reactor.seconds())
        self._drain()

    def remove(self, nodes: Iterable[NodeId]) -> None:
        """As ``Membership.remove``."""
        self.membership.remove(nodes, self._reactor.seconds())
        self._drain()

    def subscribe(self, subscriber: Any) -> Subscription:
        """Hand all events from now on to an ``IEndpointSubscriber``, one at a time."""
        subscription = Subscription(self._reactor, self, subscriber)
        self._listeners.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Hand it nothing more."""
        subscription.close()
        self._forget_listener(subscription)

    def watch(self) -> EventStream:
        """An asynchronous iterator over the events from now on; ``close`` it after use."""
        stream = EventStream(self._reactor, self, lambda: self._forget_listener(stream))
        self._listeners.append(stream)
        return stream

    def observe_view(self, observer: Callable[[int], object]) -> None:
        """Call with the index of the view after each change."""
        self._view_observers.append(observer)

    def wait_alive(self, nodes: Iterable[str], timeout_s: float) -> Deferred[None]:
        """Fires when all of ``nodes`` (names or ids) are alive here.

        Fails with ``TimedOut`` naming those that are not, after ``timeout_s`` seconds.
        """
        wait = AliveWait(self._reactor, tuple(nodes), timeout_s, self.members)
        self._waits = [one for one in self._waits if not one.over]
        self._waits.append(wait)
        wait.check()
        return wait.done

    def _forget_listener(self, listener: Subscription | EventStream) -> None:
        self._listeners = [one for one in self._listeners if one is not listener]

    # --- facts in ------------------------------------------------------------------------

    def _receiver(self, verb: str) -> Callable[[Any], None]:
        def receive(call: Any) -> None:
            now = self._reactor.seconds()
            self.membership.receive(call.source.node, verb, call.payload, now)
            self._drain()

        return receive

    def _echo_for(self, call: Any) -> object:
        """Echo a node for somebody else: the generation that answered, or ``NO``."""
        payload = call.payload
        if type(payload) is not list or len(payload) < 2 or type(payload[0]) is not str:
            return NO
        wait_s = payload[1] if type(payload[1]) in (int, float) else 0.0
        asked = self._ask_directly(NodeId(payload[0]), min(MAX_VIA_S, wait_s * HELPER_SHARE))
        return asked.addErrback(lambda failure: NO)

    def link_up(self, link: Any) -> None:
        """A link is up."""
        if self.running and link.link_class is _CONTROL:
            self.membership.link_up(link.peer, self._reactor.seconds())
            self._drain()

    def link_down(self, link: Any) -> None:
        """A link is gone; the node is still linked if another one took its place."""
        if not self.running or link.link_class is not _CONTROL:
            return
        node = link.peer.node_id
        others = (o for o in self._links.links() if o is not link and o.link_class is _CONTROL)
        if all(other.peer.node_id != node for other in others):
            self.membership.link_lost(node, self._reactor.seconds())
            self._drain()

    def _echoed(self, token: int, answer: object) -> None:
        self.membership.echo_done(token, answer, self._reactor.seconds())
        self._drain()

    def _tick(self) -> None:
        self._timer = None
        self.membership.tick(self._reactor.seconds())
        self._drain()

    # --- effects out ---------------------------------------------------------------------

    def _drain(self) -> None:
        if self._draining:
            return
        self._draining = True
        try:
            while effects := self.membership.take_events():
                for effect in effects:
                    self._perform(effect)
        finally:
            self._draining = False
        self._arm()

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Tell(node, verb, payload):
                self._tell(node, verb, payload)
            case Echo(node, token, timeout_s):
                self._echo(self._ask_directly(node, timeout_s), token)
            case EchoVia(helper, target, token, timeout_s):
                self._echo(self._ask(helper, ECHO_VIA, [target, timeout_s], timeout_s), token)
            case Notify(event):
                self._notify(event)
            case ViewChanged(index):
                self._view_changed(index)
            case Keep(address, node):
                self._links.keep(address, _CONTROL, node)
            case Forget(address):
                self._links.forget(address, _CONTROL)
            case Entered(alone):
                self._end_entering(alone)
            case NotEntered(contacts):
                self._end_entering(Failure(_no_contact(contacts)))

    def _tell(self, node: NodeId, verb: str, payload: object) -> None:
        try:
            sent = self._messaging.tell(_shard_0(node), verb, payload, _CONTROL)
        except LocalError:
            sent = Sent.DISCONNECTED
        if sent is not Sent.ACCEPTED:
            self._counters.add("gossip_unsent_total", verb=verb, why=sent.name.lower())

    def _ask(self, node: NodeId, verb: str, payload: object, timeout_s: float) -> Deferred[Any]:
        return maybeDeferred(
            self._messaging.ask, _shard_0(node), verb, payload, timeout_s, _CONTROL
        )

    def _ask_directly(self, node: NodeId, timeout_s: float) -> Deferred[Any]:
        """Echo a node over a link to it: what goes over others tells nothing of the link."""
        if node not in self.membership.linked:
            return fail(Disconnected("there is no link to the node"))
        return self._ask(node, ECHO, None, timeout_s)

    def _echo(self, asked: Deferred[Any], token: int) -> None:
        def failed(failure: Failure) -> None:
            failure.trap(CallError, LocalError)
            self._echoed(token, None)

        asked.addCallbacks(lambda answer: self._echoed(token, answer), failed)
        asked.addErrback(lambda failure: self.log.failure("an echo failed", failure))

    def _end_entering(self, outcome: bool | Failure) -> None:
        self._entered = outcome
        waiters, self._entering = self._entering, []
        for waiter in waiters:
            waiter.callback(outcome)

    def _notify(self, event: Event) -> None:
        for listener in list(self._listeners):
            listener.put(event)

    def _view_changed(self, index: int) -> None:
        for wait in list(self._waits):
            wait.check()
        for observer in self._view_observers:
            try:
                observer(index)
            except Exception:
                self.log.failure("an observer of the view failed")

    def _arm(self) -> None:
        due = self.membership.deadline()
        if due is None:
            return
        delay = max(0.0, due - self._reactor.seconds())
        if self._timer is None or not self._timer.active():
            self._timer = self._reactor.callLater(delay, self._tick)
        elif due < self._timer.getTime():
            self._timer.reset(delay)

    def subscriber_failed(self, name: str, failure: Failure) -> None:
        """Log and count an exception of a subscriber; the others do not notice."""
        self._counters.add("gossip_subscriber_errors_total", subscriber=name)
        self.log.failure("subscriber {name} failed", failure, name=name)

    def subscriber_overran(self, name: str) -> None:
        """Log and count that a subscriber is so slow that it must resynchronize."""
        self._counters.add("gossip_subscriber_resyncs_total", subscriber=name)
        self.log.warn("subscriber {name} is too slow: it gets the whole view instead", name=name)


def _shard_0(node: NodeId) -> ShardAddress:
    return ShardAddress(node, ShardId(0))


def _no_contact(contacts: tuple[str, ...]) -> StartError:
    names = ", ".join(contacts) or "none was found by discovery"
    return StartError(
        f"no contact answered: {names}; start one of them, correct [seeds]"
        " addresses, or set [seeds] required = false to start alone",
        EX_UNAVAILABLE,
    )

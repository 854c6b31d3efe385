"""Drives a ``Discovery`` on shard 0: asks the backend, feeds gossip, tells how things stand.

A thin layer: it hands facts in, carries effects out and keeps one delayed call. On top it
answers those who wait (for a check, for readiness) and gathers the status.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from meshsvc.counters import Counters
from meshsvc.discovery.core import (
    Contacts,
    Discovery,
    Effect,
    Failing,
    Reach,
    Returned,
    Working,
)
from meshsvc.discovery.phases import Check, Settled
from meshsvc.discovery.places import Neighbourhood, Standing
from meshsvc.discovery.protocol import (
    STATE,
    WAIT,
    BackendRunner,
    Messaging,
    Waiters,
    ask_peers,
    reason_of,
)
from meshsvc.discovery.status import Facts, PeerState, Status, compare, marks, state_row
from meshsvc.discovery.tables import Join, NoTables, TablesView
from meshsvc.errors import TimedOut
from meshsvc.gossip.events import AnyEvent, Resync
from meshsvc.gossip.members import Member
from meshsvc.model import Address, LinkClass, NodeInfo

LOOK_S = 1.0
"""How often to look whether somebody answers at an address, while that is waited for."""

SOON_S = 0.1
"""How soon after a change it is looked what it means: a thousand nodes that come up in one
second cost ten looks, not a thousand."""

REFRESH_S = 30.0
"""How often other nodes are asked how they stand, for the gauges: twice a usual scrape."""


class Gossip(Protocol):
    """What discovery needs of the membership."""

    def members(self) -> tuple[Member, ...]:
        """Every known node, by name."""

    def set_contacts(self, addresses: Iterable[Address]) -> None:
        """Keep these in contact, besides those it has by itself, until others are given."""

    def subscribe(self, subscriber: Any) -> Any:
        """Hand it all events from now on."""

    def unsubscribe(self, subscription: Any) -> None:
        """Hand it nothing more."""


class Links(Protocol):
    """What discovery needs of the link service."""

    def dialed(self, address: Address, link_class: LinkClass) -> Any:
        """As ``places.Whereabouts`` for a class."""


class DiscoveryService(Service):
    """Discovery of this node, running (contracts DISC-1 to DISC-6)."""

    name = "discovery"
    log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        me: NodeInfo,
        runner: BackendRunner,
        gossip: Gossip,
        links: Links,
        messaging: Messaging,
        counters: Counters,
    ) -> None:
        self.core = Discovery()
        self.was_ready = False
        self._reactor, self._me, self._runner = reactor, me, runner
        self._gossip, self._links, self._messaging = gossip, links, messaging
        self._counters = counters
        self._tables: TablesView = NoTables()
        self._subscription: Any = None
        self._asking: Deferred[Any] | None = None
        self._timer: IDelayedCall | None = None
        self._draining = False
        self._refresh_at = self._look_at = inf
        self._gathering: list[Deferred[Status]] = []
        self._for_nodes = Waiters(reactor, self._checking, "discovery did not end its check")
        self._for_ready = Waiters(reactor, self.missing, "not ready")

    def attach(self, tables: TablesView) -> None:
        """Take the tables of this node into account; once, before the start."""
        self._tables = tables
        tables.observe_joins(self._tables_changed)

    # --- life ----------------------------------------------------------------------------

    def startService(self) -> None:
        """Answer others, listen to the membership, check."""
        super().startService()  # type: ignore[no-untyped-call]
        self._messaging.register(STATE, lambda call: self._state())
        self._messaging.register(WAIT, self._wait)
        self._subscription = self._gossip.subscribe(self)
        self._refresh_at = self._reactor.seconds() + REFRESH_S
        self.core.start(self._reactor.seconds())
        self._drain()

    def stopService(self) -> None:
        """Look no more; whoever waits is told."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self.core.stop()
        if self._asking is not None:
            self._asking.cancel()
        self._gossip.unsubscribe(self._subscription)
        self._for_nodes.close()
        self._for_ready.close()
        self._messaging.unregister(STATE)
        self._messaging.unregister(WAIT)
        self._runner.stop()

    # --- what others ask -----------------------------------------------------------------

    def check(self) -> None:
        """Ask the backend now, or once more after the check that runs."""
        self.core.check(self._reactor.seconds())
        self._drain()

    def wait_for_get_nodes(self, timeout_s: float) -> Deferred[None]:
        """Fires at once when no check runs, else when it, and one asked for meanwhile, ended.

        Whether anybody answers at what was found makes no difference. Fails with
        ``TimedOut`` after ``timeout_s`` seconds.
        """
        return self._for_nodes.wait(timeout_s)

    def wait_for_ready(self, timeout_s: float) -> Deferred[None]:
        """Fires when ``missing`` is empty; fails with ``TimedOut`` saying what it still has."""
        waiting = self._for_ready.wait(timeout_s)
        self._look_soon()
        return waiting

    def missing(self) -> tuple[str, ...]:
        """What this node waits for before it is ready, in words; nothing when it is.

        A last check that ended well, each address it found reachable or known not to be, and
        every join on reachable nodes succeeded.
        """
        around = self._neighbourhood()
        places = around.places(self.core.addresses)
        found = self.core.missing(places, self._joins(), around.name)
        if not found:
            self.was_ready = True
        return found

    def status(self) -> Deferred[Status]:
        """How discovery stands on this node and the others; within some seconds, never fails.

        Whoever asks while others are being asked gets the same answer.
        """
        waiter: Deferred[Status] = Deferred()
        self._gathering.append(waiter)
        if len(self._gathering) == 1:
            peers = [m for m in self._gossip.members() if m.alive and m.node_id != self._me.node_id]
            ask_peers(self._messaging, peers).addCallback(self._gathered)
        return waiter

    def info(self) -> dict[str, Any]:
        """What this node knows by itself: its phase, its checks, the places, the history."""
        now, core = self._reactor.seconds(), self.core
        due = core.phases.due()
        return {
            "backend": self._runner.name,
            "phase": "initial" if core.phases.initial else "regular",
            "checking": core.phases.checking,
            "next_check": core.occasion(now).name.lower(),
            "next_check_in_s": None if due is None else round(max(0.0, due - now), 1),
            "checked_ago_s": None if core.checked_at is None else round(now - core.checked_at, 1),
            "notes": list(core.notes),
            "places": [
                {
                    "address": str(place.address),
                    "node": place.name,
                    "standing": place.standing.value,
                    "reason": place.reason,
                }
                for place in self._neighbourhood().places(core.addresses)
            ],
            "history": [
                {"ago_s": round(now - each.at, 1), "node": each.node, "what": each.what}
                for each in core.history
            ],
        }

    # --- facts in ------------------------------------------------------------------------

    def endpoint_event(self, event: AnyEvent) -> None:
        """An event of the membership (as an ``IEndpointSubscriber``)."""
        me = self._me.node_id
        if isinstance(event, Resync):
            event = Resync(tuple(m for m in event.view if m.node_id != me), event.at)
        elif event.node_id == me:
            return
        self.core.member_event(event, self._reactor.seconds())
        self._drain()

    def _tables_changed(self) -> None:
        self._look_soon()

    def _look_soon(self) -> None:
        self._look_at = min(self._look_at, self._reactor.seconds() + SOON_S)
        self._arm()

    def _tick(self) -> None:
        self._timer = None
        now = self._reactor.seconds()
        self.core.tick(now)
        if now >= self._refresh_at:
            self._refresh_at = now + REFRESH_S
            self.status()
        if now >= self._look_at:
            self._look()
        self._drain()

    # --- effects out ---------------------------------------------------------------------

    def _drain(self) -> None:
        if self._draining or not self.running:
            return
        self._draining = True
        try:
            while effects := self.core.take_effects():
                for effect in effects:
                    self._perform(effect)
                self._look_at = min(self._look_at, self._reactor.seconds() + SOON_S)
        finally:
            self._draining = False
        self._arm()

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Check(run):
                self._ask_backend(run)
            case Settled():
                self._for_nodes.check()
            case Contacts(addresses):
                self._gossip.set_contacts(addresses)
                self._tables_do(lambda tables: tables.check_joins(), None)
            case Reach():
                self._tables_do(lambda tables: tables.check_joins(), None)
            case Failing(reason):
                text = "discovery by {backend} does not work: {reason}; what it found before stays"
                self.log.warn(text, backend=self._runner.name, reason=reason)
            case Working():
                self.log.info("discovery by {backend} works again", backend=self._runner.name)
            case Returned():
                self._returned(effect)

    def _ask_backend(self, run: int) -> None:
        def answered(answer: Any) -> None:
            self.core.answered(run, answer, self._reactor.seconds())

        def failed(failure: Any) -> None:
            self.core.failed(run, reason_of(failure), self._reactor.seconds())

        def count(_: Any) -> None:
            self._counters.add(
                "discovery_checks_total", result="ok" if self.core.works else "failed"
            )
            self._drain()

        self._asking = asking = self._runner.ask(self._reactor)
        asking.addCallbacks(answered, failed)
        asking.addCallback(count)
        asking.addErrback(lambda failure: self.log.failure("a check of discovery broke", failure))

    def _returned(self, event: Returned) -> None:
        what = "restarted" if event.restarted else "healed_split"
        self._counters.add("discovery_returns_total", what=what)
        text = "{node} is back after {down_s:.1f} s, in a new life: it restarted"
        if not event.restarted:
            text = "{node} is back after {down_s:.1f} s, in the same life: a split has healed"
        log = self.log.info if event.restarted else self.log.warn
        log(text, node=event.member.name, down_s=event.down_s)

    def _arm(self) -> None:
        if not self.running:
            return
        now, due = self._reactor.seconds(), self.core.deadline()
        at = min(self._refresh_at, self._look_at, inf if due is None else due)
        if self._timer is not None and self._timer.active():
            if abs(self._timer.getTime() - at) < 1e-6:
                return
            self._timer.cancel()
        self._timer = self._reactor.callLater(max(0.0, at - now), self._tick)

    # --- how it stands -------------------------------------------------------------------

    def _wait(self, call: Any) -> Deferred[list[str]]:
        """Answer ``discovery.wait``: [what, seconds] -> what is missing after that time."""
        what, seconds = call.payload
        waiters, missing = {
            "nodes": (self._for_nodes, self._checking),
            "ready": (self._for_ready, self.missing),
        }[what]
        waiting = waiters.wait(float(seconds))
        self._look_soon()

        def late(failure: Any) -> None:
            failure.trap(TimedOut)

        return waiting.addErrback(late).addCallback(lambda _: list(missing()))

    def _neighbourhood(self) -> Neighbourhood:
        def dialed(address: Address) -> Any:
            return self._links.dialed(address, LinkClass.CONTROL)

        return Neighbourhood(self._me, self._gossip.members(), dialed)

    def _checking(self) -> Sequence[str]:
        return ("the backend is being asked",) if self.core.phases.checking else ()

    def _joins(self) -> Sequence[Join]:
        joins: Sequence[Join] = self._tables_do(lambda tables: tables.joins(), ())
        return joins

    def _tables_do(self, call: Callable[[TablesView], Any], otherwise: Any) -> Any:
        try:
            return call(self._tables)
        except Exception:
            self.log.failure("the tables did not answer discovery")
            return otherwise

    def _state(self) -> list[object]:
        replicas = self._tables_do(lambda tables: tables.replicas(), {})
        return state_row(int(self._me.incarnation), marks(replicas))

    def _gathered(self, states: dict[str, PeerState | str | None]) -> None:
        replicas = self._tables_do(lambda tables: tables.replicas(), {})
        places = self._neighbourhood().places(self.core.addresses)
        facts = Facts(self._me.name, places, marks(replicas), states, self.core.reason)
        found = compare(facts)
        for name, value in found.gauges().items():
            self._counters.gauge(f"discovery_{name}", value)
        waiters, self._gathering = self._gathering, []
        for waiter in waiters:
            waiter.callback(found)

    def _look(self) -> None:
        """See who may stop waiting, and set the gauges that take no question."""
        self._for_ready.check()
        waited_for = len(self._for_ready) > 0 or (not self.was_ready and bool(self.missing()))
        self._look_at = self._reactor.seconds() + LOOK_S if waited_for else inf
        places, gauge = self._neighbourhood().places(self.core.addresses), self._counters.gauge
        gone = {place.name for place in places if place.standing is Standing.UNAVAILABLE}
        gauge("discovery_discovered_nodes", len({place.name for place in places}))
        gauge("discovery_unavailable_nodes", len(gone))
        gauge("discovery_discovery_works", int(self.core.works))
        gauge("discovery_addresses_refused", self.core.refused)

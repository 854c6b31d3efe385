"""What runs inside one shard process: every service of the node's floors, wired together.

All shards are built alike; shard 0 has gossip and the controller on top (``shardzero``), and
the admin floor adds its port. To see how a message travels, follow ``traffic``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger

from meshsvc.counters import Counters
from meshsvc.link.admission import Local
from meshsvc.link.service import LinkService
from meshsvc.mesh.epoch import Adopted
from meshsvc.mesh.service import DataLinks
from meshsvc.messaging.post import Post, Self
from meshsvc.messaging.service import Messaging
from meshsvc.model import LinkClass, NodeInfo, ShardAddress, ShardId
from meshsvc.node import sysverbs
from meshsvc.node.applications import Applications
from meshsvc.node.boot import Boot
from meshsvc.node.channel import ShardChannel
from meshsvc.node.config import Config
from meshsvc.node.context import Floors, MeshContext
from meshsvc.node.directory import NodeDirectory
from meshsvc.node.handoff import Copy
from meshsvc.node.listening import ShardListeners
from meshsvc.node.members import Members
from meshsvc.node.queries import Queries
from meshsvc.node.store.access import StoreAccess
from meshsvc.node.surroundings import Surroundings
from meshsvc.node.tables import NodeWays, build
from meshsvc.node.traffic import Traffic
from meshsvc.node.userevents import UserEvents
from meshsvc.shards.bus import Seat
from meshsvc.shards.routing import Router
from meshsvc.shards.service import BusService
from meshsvc.wire.messages import View

BEAT_S = 1.0
"""How often a shard reports to its supervisor: a wedged one is missed within seconds."""

TAG_TIMEOUT_S = 2.0

LEAVE_S = 0.2
"""Between saying goodbye and stopping: others send their calls elsewhere by then."""

DRAIN_SHARE = 0.8
DRAIN_MOST_S = 10.0
"""The share of the budget, and the most, that running calls may take to end: twice the
default time-out of an ask."""

DRAIN_POLL_S = 0.05
"""How often to look whether they have; only while stopping."""


class Shard(MultiService):
    """The services of one shard, started from the bus up and stopped from the top down."""

    log = Logger()

    def __init__(
        self,
        boot: Boot,
        channel: ShardChannel,
        reactor: Any,
        surroundings: Surroundings | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.boot, self.channel, self.reactor = boot, channel, reactor
        self.config = Config.from_dict(boot.config)
        self.counters = Counters()
        self.surroundings = surroundings or Surroundings()
        self.rng = self.surroundings.rng
        self.me = NodeInfo(boot.node_id, boot.name, boot.incarnation, boot.advertise, boot.shards)
        self.address = ShardAddress(boot.node_id, boot.shard)
        self.every_second: list[Callable[[], object]] = []
        self.every_start: list[Callable[[], object]] = []
        self.leaving: list[Callable[[], Any]] = []
        self.warnings: list[str] = []
        self._beating: IDelayedCall | None = None
        self._build_ways()
        self._build_view()
        self.applications = Applications(
            self.context, self.config.node.applications, self.surroundings.plugins
        )

    def _build_ways(self) -> None:
        boot, reactor = self.boot, self.reactor
        local = Local(
            *(boot.cluster, boot.node_id, boot.name, boot.incarnation),
            *(boot.advertise, boot.shards),
        )
        self.links = LinkService(reactor, local, self.counters, self.rng)
        seat = Seat(boot.node_id, boot.incarnation, boot.shard, boot.shard_incarnation)
        self.bus = BusService(reactor, boot.run_dir, seat, boot.shards, self.counters)
        me = Self(boot.node_id, boot.shard, boot.shard_incarnation)
        router = Router(boot.node_id, boot.shard, boot.shards)
        self.post = Post(me, router, self.bus, self.links, self.counters)
        self.messaging = Messaging(reactor, self.post, self.counters)
        self.traffic = Traffic(
            self.links, self.bus, self.post, self.messaging, self.counters, reactor
        )
        self.data_links = DataLinks(
            reactor, self.me, boot.shard, self.links, self.bus, self.counters
        )
        self.listeners = ShardListeners(reactor, self.channel)
        self.upper: list[Service] = []

    def _build_view(self) -> None:
        boot = self.boot
        self.members = Members(self.reactor, self._set_tag)
        self.store_access = StoreAccess(
            *(self.reactor, self.messaging, self.members),
            *(boot.node_id, self.config.store.expect > 0),
        )
        self.directory = NodeDirectory(boot.node_id, boot.shards, self.members)
        ways = NodeWays(self.post, self.bus)
        means = (self.reactor, self.messaging, self.counters, self.rng, ways)
        self.tables, warnings = build(boot, self.config, self.me, means, self.surroundings.plugins)
        self.warnings += warnings
        self.members.on_change(self._member_event)
        self.data_links.add_observer(self._epoch_event)
        if boot.shard != 0:
            copy = Copy(self.bus, self.members)
            self.traffic.hear(View, copy.heard)
        self.events = UserEvents(
            self.reactor, self.messaging, boot.name, boot.node_id, self.counters
        )
        self.queries = Queries(self.messaging, self.members)
        info = sysverbs.register(
            self.messaging, boot, self.surroundings.pid, self.reactor.seconds()
        )
        self.queries.register("sys.info", info)

    def context(self, application: str) -> MeshContext:
        """What an application of this shard is given."""
        boot = self.boot
        return MeshContext(
            (boot.name, boot.node_id, boot.shard, boot.shards),
            self.config.options(application),
            self.reactor,
            Floors(
                self.messaging,
                self.members,
                self.directory,
                self.listeners,
                self.tables,
                self.events,
                self.queries,
                self.store_access.client,
            ),
        )

    def _set_tag(self, key: str, value: object) -> Deferred[Any]:
        first = ShardAddress(self.boot.node_id, ShardId(0))
        return self.messaging.ask(first, "sys.tag", [key, value], TAG_TIMEOUT_S, LinkClass.CONTROL)

    def _epoch_event(self, event: object) -> None:
        if isinstance(event, Adopted):
            self.messaging.set_epoch(event.roster.epoch)
            self.tables.adopted(event.roster)
            self.directory.set_roster(event.roster)

    def _member_event(self, event: Any) -> None:
        member = getattr(event, "member", None)
        if member is not None:
            self.tables.member(member)

    # --- life ----------------------------------------------------------------------------

    def startService(self) -> None:
        """Start everything, then report to the supervisor."""
        self.running = True
        self.channel.on_drain(self._drain)
        self.channel.on_socket("peer", self.links.adopt)
        for service in self._order():
            service.startService()
        self.channel.listen("peer").addErrback(self._cannot_listen)
        for call in self.every_start:
            call()
        self.warnings += self.applications.load()
        self.applications.startService()
        self._beat(self.reactor.seconds())
        self.channel.ready(self.warnings)

    @inlineCallbacks
    def _drain(self, budget_s: float) -> Any:
        """Tell the cluster that this node leaves, then let what is under way come to its end."""
        until = self.reactor.seconds() + min(budget_s * DRAIN_SHARE, DRAIN_MOST_S)
        for leave in self.leaving:
            yield leave()
        yield deferLater(self.reactor, LEAVE_S)
        while self.messaging.busy and self.reactor.seconds() < until:
            yield deferLater(self.reactor, DRAIN_POLL_S)

    def _order(self) -> list[Any]:
        return [
            *(self.bus, self.links, self.messaging, self.data_links, self.tables),
            *self.upper,
        ]

    def _cannot_listen(self, failure: Any) -> None:
        self.channel.fatal(73, f"shard {self.boot.shard}: {failure.getErrorMessage()}")

    @inlineCallbacks
    def stopService(self) -> Any:
        """Stop from the top down: applications first, so that they can still say goodbye."""
        self.running = False
        if self._beating is not None and self._beating.active():
            self._beating.cancel()
        self.messaging.leave()
        self.store_access.stop()
        for service in (self.applications, *reversed(self._order())):
            try:
                yield service.stopService()
            except Exception:
                self.log.failure("stopping {service} failed", service=type(service).__name__)

    def _beat(self, due: float) -> None:
        now = self.reactor.seconds()
        lag_ms = max(0.0, now - due) * 1000
        self.counters.gauge("reactor_lag_seconds", lag_ms / 1000)
        self.channel.beat(lag_ms, self.counters)
        for call in self.every_second:
            call()
        self._beating = self.reactor.callLater(BEAT_S, self._beat, now + BEAT_S)

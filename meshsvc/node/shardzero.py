"""What only shard 0 has: gossip, discovery and the controller.

Where the cluster is looked for comes from three places: ``[seeds] addresses``, the discovery
backend, and what the last life of this node wrote down.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from meshsvc.discovery.backends.service import own_backend
from meshsvc.discovery.protocol import BackendRunner
from meshsvc.discovery.service import DiscoveryService
from meshsvc.gossip.events import Event
from meshsvc.gossip.membership import Membership
from meshsvc.gossip.service import GossipService
from meshsvc.gossip.settings import Contacts, Settings
from meshsvc.interfaces import IDiscoveryBackend, IEndpointSubscriber
from meshsvc.mesh.controller import StaticController, Timing
from meshsvc.mesh.elected import ElectedController
from meshsvc.mesh.service import MeshService
from meshsvc.model import NO_EPOCH, Epoch, Incarnation, NodeId, NodeInfo, ShardId
from meshsvc.node import sysverbs
from meshsvc.node.applications import PluginState
from meshsvc.node.handoff import Publisher
from meshsvc.node.remembering import PeerMemory
from meshsvc.node.shard import Shard
from meshsvc.relay.service import RelayService
from meshsvc.storage.counter import EpochStore
from meshsvc.tables.seam import Seam
from meshsvc.wire.messages import View

if TYPE_CHECKING:
    from meshsvc.node.store.service import StoreService

STATIC = "static"
"""The backend that answers at once: nobody has to wait for it."""

MAX_TAGS = 64
"""Labels of one node: they are gossiped as one value, which has a bound in bytes as well."""


class ShardZero:
    """Builds the services of shard 0 and puts them on top of the shard's."""

    log = Logger()

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._tags: dict[str, object] = {}
        self.plugins: list[PluginState] = []
        self._memory = PeerMemory(shard.surroundings, shard.boot.data_dir, shard.counters)
        self.gossip = self._build_gossip()
        self.relay = self._build_relay()
        self.discovery = self._build_discovery()
        self.discovery.attach(Seam(shard.tables))
        self.store = self._build_store()
        self.mesh = self._build_mesh()
        self._build_view()
        self._subscribe()
        shard.upper += [self.gossip, self.relay, self.discovery, self.mesh]
        # The controller first: it must not mint an epoch because its own node leaves.
        shard.leaving += [self.mesh.stopService, self.relay.leave, self.gossip.stopService]
        if self.store is not None:
            shard.upper.append(self.store)
            # Leadership goes to another node while everybody is still in contact.
            shard.leaving.insert(0, self.store.stopService)

    def _build_store(self) -> StoreService | None:
        shard = self._shard
        if not shard.config.store.expect:
            return None
        # Only a node that holds the store pays for importing it.
        from meshsvc.node.store.service import StoreService  # noqa: PLC0415

        return StoreService(shard, self.gossip)

    def _build_gossip(self) -> GossipService:
        shard, config = self._shard, self._shard.config
        settings = Settings(
            interval_s=config.gossip.interval_s,
            probe_interval_s=config.gossip.probe_interval_s,
            probe_timeout_s=config.gossip.probe_timeout_s,
            suspicion_s=config.gossip.suspicion_s,
            shadow_s=config.seeds.timeout_s,
            shadow_required=config.seeds.required,
        )
        seeds = tuple(at for at in config.seeds.addresses if at != shard.boot.advertise)
        contacts = Contacts(seeds, self._memory.load(), awaited=config.discovery.backend != STATIC)
        membership = Membership(
            *(shard.me, shard.rng, shard.counters, settings, contacts),
            shard_incarnation=shard.boot.shard_incarnation,
        )
        gossip = GossipService(
            shard.reactor, membership, shard.messaging, shard.links, shard.counters
        )
        gossip.entered().addErrback(self._no_contact)
        return gossip

    def _build_discovery(self) -> DiscoveryService:
        shard, options = self._shard, self._shard.config.discovery
        backend = own_backend(
            options.backend, shard.config.seeds.addresses, shard.surroundings.off_reactor
        )
        if backend is None:
            backend = self._installed_backend(options.backend)
        runner = BackendRunner(backend, options.backend, options.options, options.timeout_s)
        discovery = DiscoveryService(
            *(shard.reactor, shard.me, runner, self.gossip, shard.links),
            *(shard.messaging, shard.counters),
        )
        save = self._memory.follow(self.gossip, shard.me.node_id, shard.reactor.seconds)
        shard.every_second.append(save)
        return discovery

    def _installed_backend(self, name: str) -> Any:
        """The plugin of that name; None when there is none, or it failed to import."""
        found, failed = self._shard.surroundings.plugins(IDiscoveryBackend)
        self.plugins += failed
        chosen = None
        for backend in found:
            own = str(getattr(backend, "name", type(backend).__name__))
            state = "running" if own == name else "available"
            module = type(backend).__module__
            self.plugins.append(PluginState(own, "IDiscoveryBackend", module, state))
            chosen = backend if own == name else chosen
        return chosen

    def _no_contact(self, failure: Any) -> None:
        code = getattr(failure.value, "exit_code", 69)
        self._shard.channel.fatal(code, failure.getErrorMessage())

    def _build_relay(self) -> RelayService:
        shard = self._shard
        inside = (shard.post, shard.traffic, shard.bus, shard.boot.shard_incarnation)
        relay = RelayService(
            shard.reactor, shard.me, shard.links, self.gossip, inside, shard.counters
        )
        shard.every_second.append(relay.every_second)
        sysverbs.register_broadcast(shard.messaging, relay.broadcasts.send)
        return relay

    def _build_mesh(self) -> MeshService:
        shard, config = self._shard, self._shard.config
        surroundings = shard.surroundings
        store = EpochStore(surroundings.fs, os.path.join(shard.boot.data_dir, "epoch"))
        names = config.mesh.roster
        found = config.discovery.backend != STATIC or config.discovery.options
        if not names and not config.seeds.addresses and not found:
            names = (shard.boot.name,)  # a node on its own is a mesh of one
        timing = Timing(config.mesh.form_delay_s, config.mesh.start_wait_s)
        self._alive_view = AliveView(self.gossip)
        if self.store is not None and config.mesh.controller == "raft":
            return self._elected_mesh(self.store, names, timing)
        controller = StaticController(shard.me, names, store.load(), timing)
        return self._mesh_of(controller, lambda epoch: surroundings.off_reactor(store.save, epoch))

    def _elected_mesh(
        self, store: StoreService, names: tuple[str, ...], timing: Timing
    ) -> MeshService:
        from meshsvc.node.store.electing import Electing  # noqa: PLC0415

        controller = ElectedController(self._shard.me, names, timing)
        electing = Electing(controller, store)
        mesh = self._mesh_of(controller, electing.save)
        electing.attach(mesh)
        return mesh

    def _mesh_of(
        self, controller: StaticController, save: Callable[[Epoch], Deferred[Any]]
    ) -> MeshService:
        shard = self._shard
        return MeshService(
            *(shard.reactor, shard.data_links, controller),
            *(shard.messaging, self._alive_view, save),
        )

    def _build_view(self) -> None:
        shard = self._shard
        publisher = Publisher(shard.bus, self.gossip.membership.view_since, shard.members)
        self.gossip.observe_view(lambda _: self._view_changed(publisher))
        shard.every_second.append(publisher.changed)
        shard.members.on_change(self._log_event)
        shard.traffic.hear(View, lambda source, _: publisher.asked(source))
        shard.bus.add_observer(_Siblings(publisher))
        sysverbs.register_tagging(shard.messaging, self._set_tag)

    def _log_event(self, event: Event) -> None:
        """Who came and went, for those who read logs; what changed is in the event stream."""
        if event.name != "changed":
            self.log.info(
                "{me} sees {name}: {event}, generation {generation}",
                me=self._shard.boot.name,
                name=event.member.name,
                event=event.name,
                generation=event.member.generation,
            )

    def _view_changed(self, publisher: Publisher) -> None:
        publisher.changed()
        members = self._shard.members.all
        names = {m.name: m.node_id for m in members if m.alive}
        self._shard.links.set_known(self.gossip.membership.removed_nodes, names)
        self.mesh.members_changed()

    def _set_tag(self, key: str, value: object) -> None:
        tags = {**self._tags, key: value}
        if value is None:
            del tags[key]
        if len(tags) > MAX_TAGS:
            raise ValueError(f"a node has at most {MAX_TAGS} tags")
        self.gossip.set_values({"tags": tags})
        self._tags = tags

    def _subscribe(self) -> None:
        found, failed = self._shard.surroundings.plugins(IEndpointSubscriber)
        self.plugins += failed
        for subscriber in found:
            name = str(getattr(subscriber, "name", type(subscriber).__name__))
            self.gossip.subscribe(subscriber)
            module = type(subscriber).__module__
            self.plugins.append(PluginState(name, "IEndpointSubscriber", module, "running"))


class AliveView:
    """The membership as the mesh wants it."""

    def __init__(self, gossip: GossipService) -> None:
        self._gossip = gossip

    def alive(self) -> tuple[NodeInfo, ...]:
        """The nodes seen alive, this one included."""
        return tuple(member.info for member in self._gossip.members() if member.alive)

    def epochs(self) -> Mapping[NodeId, Epoch]:
        """The epoch that each alive node says it is at."""
        return {m.node_id: _epoch(m.values.get("epoch")) for m in self._gossip.members() if m.alive}

    def publish_epoch(self, epoch: Epoch) -> None:
        """Say which epoch this node is at."""
        self._gossip.set_values({"epoch": str(epoch)})


def _epoch(text: object) -> Epoch:
    try:
        return Epoch.parse(str(text))
    except ValueError:  # not published yet, or "0.0"
        return NO_EPOCH


class _Siblings:
    """Hears of siblings that connect, for the view they need."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def shard_up(self, shard: ShardId, incarnation: Incarnation) -> None:
        self._publisher.sibling_up(shard)

    def shard_down(self, shard: ShardId, incarnation: Incarnation) -> None:
        pass

    def received(self, shard: ShardId, incarnation: Incarnation, message: object) -> None:
        pass

"""What an application is given: the cluster, seen from one shard.

Everything here may be used from the reactor's thread only, and nothing here blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory, IReactorTime

from meshsvc.discovery.protocol import WAIT
from meshsvc.errors import TimedOut
from meshsvc.messaging.dispatch import Handler
from meshsvc.messaging.service import Messaging
from meshsvc.model import Address, LinkClass, NodeId, ShardAddress, ShardId
from meshsvc.node.directory import NodeDirectory
from meshsvc.node.members import Members
from meshsvc.node.queries import Queries
from meshsvc.node.tables import TablesContext
from meshsvc.node.targets import Everyone, NodeTarget, OwnerTarget
from meshsvc.node.userevents import UserEvents
from meshsvc.tables.service import Tables

if TYPE_CHECKING:
    from meshsvc.kv.client.service import KvClient

WAIT_SLACK_S = 1.0
"""How much longer than a wait its answer may take, from one shard of a node to another."""


class Listeners(Protocol):
    """What gives a shard its share of the connections to a port."""

    def listen(self, listener: str, factory: IProtocolFactory) -> Deferred[Address]:
        """Serve a listener with a factory."""


class Verbs:
    """The verbs an application registers in this shard."""

    def __init__(self, messaging: Messaging) -> None:
        self._messaging = messaging

    def register(self, verb: str, handler: Handler) -> None:
        """Answer asks for a verb; see ``Messaging.register``."""
        self._messaging.register(verb, handler)

    def register_oneway(self, verb: str, handler: Handler) -> None:
        """Take tells for a verb; see ``Messaging.register_oneway``."""
        self._messaging.register_oneway(verb, handler)

    def unregister(self, verb: str) -> Deferred[None]:
        """Take a verb no longer; fires when the calls that run have ended."""
        return self._messaging.unregister(verb)


@dataclass(frozen=True, slots=True)
class Floors:
    """What a context is a view of: the services of its shard."""

    messaging: Messaging
    members: Members
    directory: NodeDirectory
    listeners: Listeners
    tables: Tables
    events: UserEvents
    queries: Queries
    store: Callable[[], KvClient]


class MeshContext:
    """The cluster as one application sees it in one shard.

    Attributes:
        name, node_id: of this node.
        shard, shards: which shard this is, of how many.
        options: the ``[applications.NAME]`` table of the application's config.
        clock: the reactor as ``IReactorTime``; use it instead of a global one.
        verbs: register what this application answers.
        members: who is there.
        everyone: all nodes that are alive.
        tables: replicated tables: ``await mesh.tables.open("sessions")``.
        events: ``send`` one to every shard there is, ``subscribe`` or ``watch``.
        queries: ``register`` what this application answers, ``ask`` all nodes at once.
    """

    def __init__(
        self,
        who: tuple[str, NodeId, ShardId, int],
        options: Mapping[str, object],
        clock: IReactorTime,
        floors: Floors,
    ) -> None:
        self.name, self.node_id, self.shard, self.shards = who
        self.options = options
        self.clock = clock
        self.verbs = Verbs(floors.messaging)
        self.members = floors.members
        self.tables = TablesContext(floors.tables)
        self.events = floors.events
        self.queries = floors.queries
        self.everyone = Everyone(floors.messaging, floors.directory, self.node_id)
        self._store = floors.store
        self._messaging = floors.messaging
        self._directory = floors.directory
        self._listeners = floors.listeners

    def node(self, name: str) -> NodeTarget:
        """A node by name: ask it, tell it, or take one ``shard(index)`` of it."""
        return NodeTarget(self._messaging, self._directory, name, None, self.shard)

    def owner_of(self, key: str | bytes) -> OwnerTarget:
        """Whichever shard of the cluster owns a key, now and after nodes come and go."""
        return OwnerTarget(self._messaging, self._directory, key)

    def kv(self) -> KvClient:
        """The consistent store that etcd's clients see, from any shard of any node.

        Requests fail with a ``meshsvc.kv.errors.KvError``; ``NoLeader`` while no node that
        holds the store is known.
        """
        return self._store()

    def on_placement_change(self, callback: Callable[[], Any]) -> Callable[[], None]:
        """Call ``callback`` each time keys may have moved; returns what ends that."""
        return self._directory.on_placement_change(callback)

    def wait_for_ready(self, timeout_s: float) -> Deferred[None]:
        """Fires when this node has found its cluster.

        That is when discovery works, each node it found is reachable or known not to be, and
        every table has joined those that are. Fails with ``TimedOut`` after ``timeout_s``
        seconds, naming what is missing, or with another ``CallError`` when shard 0 is gone.
        """
        return self._wait("ready", timeout_s)

    def wait_for_get_nodes(self, timeout_s: float) -> Deferred[None]:
        """Fires when no check of discovery runs; whether anybody was reached is no matter.

        Fails as ``wait_for_ready`` does.
        """
        return self._wait("nodes", timeout_s)

    def _wait(self, what: str, timeout_s: float) -> Deferred[None]:
        def answered(missing: list[str]) -> None:
            if missing:
                raise TimedOut(f"not ready after {timeout_s:g} s: {'; '.join(missing)}")

        first, limit_s = ShardAddress(self.node_id, ShardId(0)), timeout_s + WAIT_SLACK_S
        asked = self._messaging.ask(first, WAIT, [what, timeout_s], limit_s, LinkClass.CONTROL)
        return asked.addCallback(answered)

    def listen(self, listener: str, factory: IProtocolFactory) -> Deferred[Address]:
        """Serve one port from all shards of this node.

        Args:
            listener: the name of a ``[listen]`` entry, or ``tcp:PORT`` or ``tcp:HOST:PORT``.
            factory: builds the protocol of each connection this shard is given.

        Returns:
            a Deferred of the bound address; fails with ``LocalError`` naming the port when
            it cannot be bound.
        """
        return self._listeners.listen(listener, factory)

"""One life of one shard process of a simulated node, and its channel to the supervisor."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshsvc.errors import StartError
from meshsvc.model import Address, Incarnation, ShardId
from meshsvc.node.shard import Shard
from meshsvc.node.shardzero import ShardZero
from meshsvc.node.surroundings import Surroundings
from meshsvc.sim.disk import PowerCut
from meshsvc.sim.network import SimReactor

if TYPE_CHECKING:
    from meshsvc.sim.processes import SimNode

log = Logger()

PEER_PORT = 7700

SPAWN_S = (0.15, 0.4)
"""A shard process needs this long to import and start."""

DRAIN_S = 30.0
"""How long a node may take to stop, as ``[shards] drain`` says."""


class SimChannel:
    """A shard's channel to its supervisor: the part of ``ShardChannel`` that shards use."""

    def __init__(self, node: SimNode) -> None:
        self.shard_states: tuple[Any, ...] = ()
        self.node_counters: dict[int, Any] = {}
        self.connected = True
        self.is_ready = False
        self.silent = 0
        self.lag_ms = 0.0
        self.takers: dict[str, Callable[[Any], object]] = {}
        self.drain: Callable[[float], object] = lambda budget_s: None
        self._node = node

    def on_drain(self, callback: Callable[[float], object]) -> None:
        """It wants to be told when the node stops."""
        self.drain = callback

    def ready(self, warnings: Any = ()) -> None:
        """The shard serves."""
        self.is_ready = True

    def beat(self, lag_ms: float, counters: Any) -> None:
        """It lives."""
        self.silent = 0
        self.lag_ms = lag_ms

    def fatal(self, exit_code: int, text: str) -> None:
        """It wants the whole node to end."""
        self._node.ended(f"exit {exit_code}: {text}")

    def listen(self, listener: str) -> Deferred[Address]:
        """It wants connections of a listener."""
        return succeed(Address(self._node.host.name, PEER_PORT))

    def on_socket(self, listener: str, callback: Callable[[Any], object]) -> None:
        """It says what to do with them."""
        self.takers[listener] = callback


class SimShard:
    """One life of one shard process."""

    def __init__(self, node: SimNode, index: ShardId, incarnation: Incarnation) -> None:
        self.node, self.index, self.incarnation = node, index, incarnation
        self.reactor = SimReactor(node.cluster.net, node.host, node.skew)
        self.channel = SimChannel(node)
        self.shard: Shard | None = None
        self.zero: ShardZero | None = None
        rng = node.rng
        self.reactor.post(SPAWN_S[0] + (SPAWN_S[1] - SPAWN_S[0]) * rng.random(), self._run)

    @property
    def life(self) -> str:
        """This life, for the log."""
        return f"{self.node.name}/{self.index}#{self.incarnation}"

    def drain(self) -> None:
        """The supervisor says that the node stops: finish, stop the services, end."""
        drained: Deferred[Any] = maybeDeferred(self.channel.drain, DRAIN_S)
        drained.addTimeout(DRAIN_S, self.reactor)
        drained.addErrback(lambda failure: None)
        shard = self.shard
        if shard is not None:
            drained.addCallback(lambda _: shard.stopService())
        drained.addCallback(lambda _: self.node.shard_stopped(self))
        drained.addErrback(lambda failure: log.failure("a shard did not stop", failure))

    def _run(self) -> None:
        node = self.node
        if node.state != "running":
            return
        boot = node.boot(self.index, self.incarnation)
        surroundings = Surroundings(
            rng=Random(node.rng.getrandbits(64)),
            fs=node.disk,
            off_reactor=self._off_reactor,
            writer=lambda reactor: self._off_reactor,
            plugins=node.cluster.plugins,
            pid=1,
        )
        node.disk.process = self
        try:
            self.shard = Shard(boot, self.channel, self.reactor, surroundings)  # type: ignore[arg-type]
            if self.index == 0:
                self.zero = ShardZero(self.shard)
            node.cluster.listen_to(self)
            self.shard.startService()
        except StartError as error:
            node.ended(f"exit {error.exit_code}: {error}")
        except PowerCut:
            node.power_off()

    def _off_reactor(self, call: Callable[..., object], *args: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.reactor.post(self.node.disk.save_time_s(), self._save, done, call, args)
        return done

    def _save(self, done: Deferred[Any], call: Callable[..., object], args: Any) -> None:
        self.node.disk.process = self
        try:
            result = call(*args)
        except PowerCut:
            self.node.power_off()
        except Exception:
            done.errback(Failure())
        else:
            done.callback(result)

"""One simulated node: the processes that its supervisor would run, without the supervisor.

What the supervisor promises is done here in a few lines: it opens the data directory, gives
each shard its ``Boot``, hands accepted connections to the shard they are for, restarts
shards that end (as often as a real one would) and kills those that are silent. The shards
themselves are ``meshsvc.node.shard.Shard``, as in production.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from twisted.internet.address import IPv4Address

from meshsvc.errors import StartError, WireError
from meshsvc.link import preface
from meshsvc.model import Address, Incarnation, LinkClass, NodeId, ShardId
from meshsvc.node.boot import Boot
from meshsvc.node.config import Config
from meshsvc.node.intensity import RestartIntensity
from meshsvc.retry import exponential
from meshsvc.shards.placement import link_owner
from meshsvc.sim.clock import Skew
from meshsvc.sim.disk import PowerCut, SimDisk
from meshsvc.sim.lives import DRAIN_S, PEER_PORT, SimShard
from meshsvc.sim.network import Listener, SimReactor
from meshsvc.sim.transport import End
from meshsvc.sim.weather import LOCAL_S
from meshsvc.storage.identity import Identity, open_identity

if TYPE_CHECKING:
    from meshsvc.sim.cluster import Cluster

STRANGER_S = 5.0
"""How long an accepted connection may take to say for whom it is, as in the supervisor."""


class SimNode:
    """One node: its host, its clock, its disk, and whatever runs of it now.

    ``state`` is running, stopping, down (no process) or off (no power).
    """

    def __init__(self, cluster: Cluster, index: int, shards: int, skew: Skew) -> None:
        self.cluster, self.shard_count, self.skew = cluster, shards, skew
        self.name = f"n{index}"
        self.rng = Random(cluster.rng.getrandbits(64))
        self.host = cluster.net.host(f"10.0.{index // 250}.{index % 250 + 1}")
        self.disk = SimDisk(Random(cluster.rng.getrandbits(64)))
        self.address = Address(self.host.name, PEER_PORT)
        self.state = "down"
        self.node_id = NodeId("")
        self.generation = Incarnation(0)
        self.since = 0.0
        self._ill_at = -1e9
        self.until = 0.0
        self.shards: dict[ShardId, SimShard] = {}
        self._supervisor: SimReactor | None = None
        self._lives: dict[ShardId, int] = {}
        self._intensity: dict[ShardId, RestartIntensity] = {}

    def __repr__(self) -> str:
        return f"<{self.name} {self.state}>"

    @property
    def running(self) -> bool:
        """Whether it is meant to be a member: started, and neither stopped nor crashed."""
        return self.state == "running"

    @property
    def zero(self) -> SimShard | None:
        """Its shard 0, once that is wired."""
        first = self.shards.get(ShardId(0))
        return first if first is not None and first.shard is not None else None

    # --- what an operator, or fate, does to it -------------------------------------------

    def start(self) -> bool:
        """Start it; False when it did not (a bad disk says why in the log)."""
        if self.state in ("running", "stopping"):
            return False
        self.host.up = True
        cluster = self.cluster
        now_s = self.skew.local(cluster.time.now)
        try:
            self.disk.process = self
            identity = self._open_identity(now_s)
        except StartError as error:
            cluster.note(self.name, "failed", f"start: {error}")
            self.disk.processes_ended()
            return False
        except PowerCut:
            cluster.note(self.name, "power", "fails while it starts")
            self.disk.crash()
            return False
        self.node_id, self.generation = identity.node_id, identity.generation
        self.state, self.since = "running", cluster.time.now
        cluster.note(self.name, "start", f"{self.node_id[:8]} generation {self.generation}")
        cluster.node_started(self)
        self._supervise()
        return True

    def stop(self) -> None:
        """SIGTERM: drain and end."""
        if self.state != "running":
            return
        self.state = "stopping"
        self.cluster.note(self.name, "stop", "")
        assert self._supervisor is not None
        self._supervisor.callLater(DRAIN_S, self._end, "budget spent")
        for life in list(self.shards.values()):
            life.reactor.post(LOCAL_S, life.drain)
        if not self.shards:  # the only one was about to be restarted
            self._end("stopped")

    def crash(self) -> None:
        """kill -9 of all its processes; the kernel, and the disk, know what they knew."""
        if self.state in ("running", "stopping"):
            self.cluster.note(self.name, "crash", "")
            self._end("")

    def power_off(self) -> None:
        """The power fails: nobody is told, and the disk loses what was not synced."""
        if self.state == "off":
            return
        self.cluster.note(self.name, "power", "off")
        self.host.up = False
        self._end("")
        self.state = "off"
        self.disk.crash()

    def kill_shard(self, index: int) -> None:
        """kill -9 of one shard process."""
        life = self.shards.get(ShardId(index))
        if life is not None and self.state == "running":
            self.cluster.note(self.name, "kill", life.life)
            self._shard_ended(life)

    def pause(self) -> None:
        """SIGSTOP of all its processes."""
        self.cluster.note(self.name, "pause", "")
        for process in self._processes():
            process.pause()

    def resume(self) -> None:
        """SIGCONT."""
        self.cluster.note(self.name, "resume", "")
        self.well_for(0.0)
        for process in self._processes():
            process.resume()

    def slow(self, cost_s: float) -> None:
        """Every event keeps its processes busy this long; 0 for a healthy node."""
        self.cluster.note(self.name, "slow", f"{cost_s * 1000:g} ms an event")
        self.well_for(0.0)
        for process in self._processes():
            process.slow(cost_s)

    @property
    def paused(self) -> bool:
        """Whether any of its processes is stopped."""
        return any(process.paused for process in self._processes())

    def well_for(self, seconds: float) -> bool:
        """Whether none of its processes was stopped or slow for a while."""
        now = self.cluster.time.now
        if self.paused or any(process.cost_s for process in self._processes()):
            self._ill_at = now
        return now - self._ill_at >= seconds

    # --- life ----------------------------------------------------------------------------

    def boot(self, shard: ShardId, incarnation: Incarnation) -> Boot:
        """What a shard is told."""
        config = Config.from_dict(self.cluster.config_of(self))
        return Boot(
            node_id=self.node_id,
            name=self.name,
            cluster=config.node.cluster,
            incarnation=self.generation,
            shard=shard,
            shard_incarnation=incarnation,
            shards=self.shard_count,
            cpus=(),
            run_dir=config.node.run_dir,
            data_dir=config.node.data_dir,
            listeners={"peer": self.address},
            advertise=self.address,
            config=config.to_dict(),
            supervisor=0,
        )

    def ended(self, why: str) -> None:
        """A shard asked for the end of the node, or was restarted too often."""
        self.cluster.note(self.name, "exit", why)
        self._end("")

    def _open_identity(self, now_s: float) -> Identity:
        data_dir = self.cluster.config_of(self)["node"]["data_dir"]
        return open_identity(self.disk, data_dir, self.name, self.cluster.name, now_s, self._mint)

    def _mint(self) -> NodeId:
        return NodeId(f"{self.rng.getrandbits(128):032x}")

    def _processes(self) -> list[SimReactor]:
        own = [self._supervisor] if self._supervisor is not None else []
        return own + [life.reactor for life in self.shards.values()]

    def _supervise(self) -> None:
        net = self.cluster.net
        self._supervisor = SimReactor(net, self.host, self.skew)
        at = IPv4Address("TCP", self.host.name, PEER_PORT)
        Listener(net, self.host, self._supervisor, at, self._accepted).startListening()
        limits = Config.from_dict(self.cluster.config_of(self)).shards
        most, window_s = limits.restarts, limits.restart_window_s
        policy = exponential(0.1, 2.0, 5.0, jitter=lambda: 1.0)
        for index in map(ShardId, range(self.shard_count)):
            self._lives[index] = 0
            self._intensity[index] = RestartIntensity(policy, most, window_s)
            self._spawn(index)
        self._supervisor.callLater(1.0, self._tick)

    def _spawn(self, index: ShardId) -> None:
        if self.state != "running":
            return
        self._lives[index] += 1
        life = SimShard(self, index, Incarnation(self._lives[index]))
        self.shards[index] = life
        if self.cluster.slowed.get(self.name):
            life.reactor.cost_s = self.cluster.slowed[self.name]

    def _tick(self) -> None:
        assert self._supervisor is not None
        self._supervisor.callLater(1.0, self._tick)
        for life in list(self.shards.values()):
            life.channel.silent += 1
            if life.channel.silent > 10 and self.state == "running":
                self.cluster.note(self.name, "silent", f"{life.life} is killed")
                self._shard_ended(life)

    def _shard_ended(self, life: SimShard) -> None:
        life.reactor.end()
        self.disk.process_ended(life)
        self.shards.pop(life.index, None)
        self.cluster.shard_ended(life)
        assert self._supervisor is not None
        pause = self._intensity[life.index].ended(self._supervisor.seconds())
        if pause is None:
            self.ended(f"exit 70: shard {life.index} ended too often")
        else:
            self._supervisor.callLater(pause, self._spawn, life.index)

    def shard_stopped(self, life: SimShard) -> None:
        """A shard has stopped all its services: its process ends."""
        life.reactor.end()
        self.disk.process_ended(life)
        self.shards.pop(life.index, None)
        self.cluster.shard_ended(life)
        if not self.shards:
            self._end("stopped")

    def _end(self, note: str) -> None:
        if self.state in ("down", "off"):
            return
        if note:
            self.cluster.note(self.name, "ended", note)
        self.state, self.until = "down", self.cluster.time.now
        lives = list(self.shards.values())
        for process in self._processes():
            process.end()
        self.shards.clear()
        self._supervisor = None
        self.disk.processes_ended()
        for life in lives:
            self.cluster.shard_ended(life)
        self.cluster.node_ended(self)

    # --- accepting -----------------------------------------------------------------------

    def _accepted(self, end: End) -> None:
        assert self._supervisor is not None
        limit = self._supervisor.callLater(STRANGER_S, end.abortConnection)

        def heard() -> None:
            said = end.peek(preface.PREFACE_BYTES)
            if end.closed or not preface.could_be(said):
                settle()
                end.abortConnection()
            elif len(said) == preface.PREFACE_BYTES:
                settle()
                self._hand_over(end, said)

        def settle() -> None:
            end.on_data = None
            if limit.active():
                limit.cancel()

        end.on_data = heard

    def _hand_over(self, end: End, said: bytes) -> None:
        try:
            parsed = preface.parse(said)
        except WireError:
            end.abortConnection()
            return
        index = ShardId(0)
        if parsed.link_class is LinkClass.DATA:
            index = link_owner(parsed.node_id, self.shard_count)
        life = self.shards.get(index)
        taker = life.channel.takers.get("peer") if life is not None else None
        if life is None or taker is None:
            end.abortConnection()
            return
        end.move_to(life.reactor)
        life.reactor.post(LOCAL_S, taker, self.cluster.net.socket(end))

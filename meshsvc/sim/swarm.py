"""Faults drawn per seed: some kinds are enabled, each comes at its own pace.

Every seed enables another subset, because faults that always come together hide each
other: with a crash every few seconds no lease ever runs out, for example.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from meshsvc.sim.commands import Commands
from meshsvc.sim.scenario import SwarmPlan
from meshsvc.sim.store import faults

if TYPE_CHECKING:
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.processes import SimNode


class Swarm:
    """Draws faults until it is stopped."""

    def __init__(self, cluster: Cluster, commands: Commands, plan: SwarmPlan) -> None:
        self._cluster, self._do = cluster, commands.do
        self._rng = rng = Random(cluster.rng.getrandbits(64))
        self._down_s = plan.down_s
        self._running = True
        self._strikes = faults.Strikes(cluster, rng, self._do, self._later)
        enabled = [kind for kind in plan.kinds if rng.random() < plan.share]
        self.enabled = tuple(enabled or plan.kinds[:1])
        for kind in self.enabled:
            self._plan(kind, rng.uniform(*plan.mean_s))

    def stop(self) -> None:
        """No more faults."""
        self._running = False

    def _plan(self, kind: str, mean_s: float) -> None:
        self._cluster.time.after(self._rng.expovariate(1 / mean_s), self._strike, kind, mean_s)

    def _strike(self, kind: str, mean_s: float) -> None:
        if self._running:
            if kind in faults.KINDS:
                faults.KINDS[kind](self._strikes)
            else:
                KINDS[kind](self)
            self._plan(kind, mean_s)

    # --- kinds ---------------------------------------------------------------------------

    def _later(self, line: str) -> float:
        rng = self._rng
        wait = rng.uniform(*self._down_s) if rng.random() < 0.5 else rng.uniform(0.1, 3)
        self._cluster.time.after(wait, self._undo, line)
        return wait

    def _undo(self, line: str) -> None:
        if not self._running:
            return
        self._do(line)
        if line.startswith("disk") and self._cluster.shape.store:
            # A disk that fails ends a node with a journal.
            self._do(f"start {line.split()[1]}")

    def _some(self, state: str = "running") -> SimNode | None:
        able = [node for node in self._cluster.nodes if node.state == state]
        return self._rng.choice(able) if able else None

    def _two(self) -> tuple[SimNode, SimNode]:
        a, b = self._rng.sample(self._cluster.nodes, 2)
        return a, b

    def crash(self) -> None:
        """A node is killed, and started again some time later."""
        self._node("crash")

    def power(self) -> None:
        """A node loses its power."""
        self._node("power-off")

    def stop_node(self) -> None:
        """A node is stopped properly."""
        self._node("stop")

    def _node(self, verb: str) -> None:
        node = self._some()
        if node is not None:
            self._do(f"{verb} {node.name}")
            self._later(f"start {node.name}")

    def shard(self) -> None:
        """A shard process is killed."""
        node = self._some()
        if node is not None:
            self._do(f"kill {node.name}/{self._rng.randrange(node.shard_count)}")

    def pause(self) -> None:
        """A node stands still."""
        node = self._some()
        if node is not None and not node.paused:
            self._do(f"pause {node.name}")
            wait = self._later(f"resume {node.name}")
            self._cluster.longest_pause_s = max(self._cluster.longest_pause_s, wait)

    def slow(self) -> None:
        """A node is busy."""
        node = self._some()
        if node is not None:
            self._do(f"slow {node.name} {self._rng.randrange(1, 20)} ms")
            self._later(f"slow {node.name} 0")
            self._cluster.longest_pause_s = max(self._cluster.longest_pause_s, 5.0)

    def partition(self) -> None:
        """The cluster falls into two parts."""
        nodes = list(self._cluster.nodes)
        self._rng.shuffle(nodes)
        cut = self._rng.randrange(1, len(nodes))
        left = " ".join(node.name for node in nodes[:cut])
        right = " ".join(node.name for node in nodes[cut:])
        self._do(f"partition {left} | {right}")
        self._later("heal")

    def pair(self) -> None:
        """Two nodes do not reach each other."""
        a, b = self._two()
        self._do(f"partition {a.name} | {b.name}")
        self._later("heal")

    def one_way(self) -> None:
        """A node does not reach another, which reaches it."""
        a, b = self._two()
        self._do(f"one-way {a.name} {b.name}")
        self._later("heal")

    def clog(self) -> None:
        """A path is stuck for a moment."""
        a, b = self._two()
        self._do(f"clog {a.name} {b.name} {self._rng.uniform(0.05, 8.0):.3f} s")

    def reset(self) -> None:
        """Connections break."""
        a, b = self._two()
        self._do(f"reset {a.name} {b.name}")

    def half_open(self) -> None:
        """Connections break for one side."""
        a, b = self._two()
        self._do(f"half-open {a.name} {b.name}")

    def loss(self) -> None:
        """The network loses segments for a while."""
        self._do(f"weather loss {self._rng.uniform(0.01, 0.3):.3f}")
        self._later("weather loss 0")

    def disk(self) -> None:
        """A disk fails now and then, or is full."""
        node = self._some()
        if node is not None:
            self._do(f"disk {node.name} {self._rng.choice(('eio 0.3', 'full'))}")
            self._later(f"disk {node.name} well")

    def flip(self) -> None:
        """A disk misreads: now and then a bit is another."""
        node = self._some()
        if node is not None:
            self._do(f"disk {node.name} flip 0.3")
            self._later(f"disk {node.name} well")

    def controller(self) -> None:
        """Whoever mints epochs is slow: it stands still, is busy, or its disk takes long."""
        node = self._cluster.controller
        how = self._rng.randrange(3)
        if how == 0 and not node.paused and node.running:
            self._do(f"pause {node.name}")
            wait = self._later(f"resume {node.name}")
            self._cluster.longest_pause_s = max(self._cluster.longest_pause_s, wait)
        elif how == 1:
            self._do(f"slow {node.name} {self._rng.randrange(5, 30)} ms")
            self._later(f"slow {node.name} 0")
            self._cluster.longest_pause_s = max(self._cluster.longest_pause_s, 5.0)
        elif how == 2:
            self._do(f"disk {node.name} slow {self._rng.randrange(200, 4000)} ms")
            self._later(f"disk {node.name} well")

    def power_cut(self) -> None:
        """The power of a node fails while it writes."""
        node = self._some()
        if node is not None:
            self._do(f"power-cut {node.name} {self._rng.randrange(4)}")
            self._later(f"start {node.name}")


KINDS = {
    "crash": Swarm.crash,
    "power": Swarm.power,
    "stop": Swarm.stop_node,
    "shard": Swarm.shard,
    "pause": Swarm.pause,
    "slow": Swarm.slow,
    "partition": Swarm.partition,
    "pair": Swarm.pair,
    "one-way": Swarm.one_way,
    "clog": Swarm.clog,
    "reset": Swarm.reset,
    "half-open": Swarm.half_open,
    "loss": Swarm.loss,
    "disk": Swarm.disk,
    "power-cut": Swarm.power_cut,
    "flip": Swarm.flip,
    "controller": Swarm.controller,
}
"""Every kind of fault by its name in scenarios."""

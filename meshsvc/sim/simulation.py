"""Simulated clusters in a test of one's own: ``with simulate(nodes=3) as sim``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from twisted.python.failure import Failure

from meshsvc.interfaces import IConflictResolver, IDiscoveryBackend
from meshsvc.model import LinkClass, ShardAddress, ShardId
from meshsvc.sim.cluster import Cluster, Shape
from meshsvc.sim.commands import Commands
from meshsvc.sim.processes import SimNode

TAIL = 50

_OTHERS = (IDiscoveryBackend, IConflictResolver)


class InvariantBroken(AssertionError):
    """Something that must hold in every cluster did not; the text has the last events."""


class Simulation:
    """A simulated cluster, all of whose nodes were started at time 0.

    Attributes:
        nodes: each with ``start``, ``stop``, ``crash``, ``power_off``, ``kill_shard(i)``,
            ``pause`` and ``resume``.
        cluster: what is below, for the curious.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.nodes: list[SimNode] = cluster.nodes
        self._commands = Commands(cluster)

    @property
    def now(self) -> float:
        """Virtual seconds since the start."""
        return self.cluster.time.now

    def formed(self) -> bool:
        """Whether all running nodes see each other, in one mesh."""
        return self.cluster.converged()

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.cluster.run(seconds)
        self.check()

    def run_until(self, condition: Callable[[], object], timeout_s: float = 60.0) -> None:
        """Let time pass until a condition holds.

        Raises:
            AssertionError: when it does not within ``timeout_s`` virtual seconds.
        """
        held = self.cluster.run_until(condition, timeout_s)
        self.check()
        if not held:
            name = getattr(condition, "__name__", repr(condition))
            why = self.cluster.difference() or "the cluster itself has converged"
            raise AssertionError(f"not {name} after {timeout_s:g} virtual seconds: {why}")

    def fault(self, line: str) -> None:
        """Carry out a command of ``meshsvc.sim.commands``, such as ``partition n1 | n2 n3``."""
        self._commands.do(line)

    def ask(
        self,
        node: SimNode,
        verb: str,
        payload: object = None,
        key: str | None = None,
        timeout_s: float = 5.0,
    ) -> Any:
        """Ask shard 0 of a node, or have it ask the owner of ``key``; returns the answer.

        Raises:
            CallError: when the call ends in one.
        """
        life = node.zero
        if life is None or life.shard is None:
            raise AssertionError(f"{node.name} does not run")
        if key is not None:
            asked = life.shard.context("").owner_of(key).ask(verb, payload, timeout_s)
        else:
            target = ShardAddress(node.node_id, ShardId(0))
            messaging = life.shard.messaging
            asked = messaging.ask(target, verb, payload, timeout_s, LinkClass.CONTROL)
        ended: list[Any] = []
        asked.addBoth(ended.append)
        self.cluster.run_until(lambda: ended, timeout_s + 1.0)
        self.check()
        if not ended:
            raise AssertionError(f"asking {verb} of {node.name} never ended")
        if isinstance(ended[0], Failure):
            ended[0].raiseException()
        return ended[0]

    def check(self) -> None:
        """See whether every invariant held so far.

        Raises:
            InvariantBroken: when one did not.
        """
        cluster = self.cluster
        if cluster.violation is not None:
            tail = "\n".join(cluster.trace.tail(TAIL))
            raise InvariantBroken(f"seed {cluster.seed}: {cluster.violation}\n{tail}")


@contextmanager
def simulate(
    nodes: int = 3,
    shards: int = 1,
    applications: Sequence[Any] = (),
    seed: int = 0,
    config: dict[str, dict[str, Any]] | None = None,
    expected: tuple[type[BaseException], ...] = (),
) -> Iterator[Simulation]:
    """A cluster that runs in this process over virtual time, and always the same way.

    Args:
        nodes: how many, called n1, n2 and so on.
        shards: of each node.
        applications: providers of ``IMeshApplication``, ``IDiscoveryBackend`` and
            ``IConflictResolver``, installed on every node.
        seed: another seed is another run.
        config: sections and keys of every node's config that differ from the defaults.
        expected: exceptions that may be logged, as what a verb raises is; any other one that
            is logged fails the run.

    Raises:
        InvariantBroken: when one did not hold, or anything logged a failure.
        TypeError: when an application is neither of those.
    """
    if nodes < 1 or shards < 1:
        raise ValueError(f"a cluster of {nodes} nodes with {shards} shards: give at least one")
    for each in applications:
        if not (hasattr(each, "make_service") or any(kind.providedBy(each) for kind in _OTHERS)):
            raise TypeError(f"{each!r} is no application: it has no make_service(mesh)")
    shape = Shape(nodes=nodes, shards=shards, config=config or {})
    simulation = Simulation(Cluster(seed, shape, applications))
    simulation.cluster.expected_logs = expected
    simulation.cluster.start_all()
    yield simulation
    simulation.check()

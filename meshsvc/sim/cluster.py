"""A whole cluster in one process, from one seed: nodes, network, disks, checks and a log.

Everything random is drawn from ``rng``, which is made from the seed; nodes, disks and
applications get generators seeded from it. Nothing here knows what a scenario is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import formatEvent, globalLogPublisher
from zope.interface import Interface

from meshsvc.interfaces import IConflictResolver, IDiscoveryBackend, IMeshApplication
from meshsvc.model import NodeId
from meshsvc.node.applications import PluginState
from meshsvc.sim import ears
from meshsvc.sim.clock import Skew, Stuck, Time
from meshsvc.sim.convergence import difference
from meshsvc.sim.crier import Crier
from meshsvc.sim.invariants import all_checks
from meshsvc.sim.lives import SimShard
from meshsvc.sim.network import Network
from meshsvc.sim.processes import SimNode
from meshsvc.sim.store.clients import Clients
from meshsvc.sim.store.leases import Holder
from meshsvc.sim.store.ledger import StoreLedger
from meshsvc.sim.store.watchers import Watcher
from meshsvc.sim.strangers import Strangers
from meshsvc.sim.table_workload import TableLedger, TableWorkload
from meshsvc.sim.trace import Trace
from meshsvc.sim.weather import FAIR_LOSS, Weather
from meshsvc.sim.workload import Ledger, Workload

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")

STEP_S = 0.05
"""How often a condition is looked at while time passes."""


LONG_AGO = -1e9


@dataclass(frozen=True, slots=True)
class Shape:
    """What a cluster is made of.

    Attributes:
        nodes: how many; they are called n1, n2 and so on.
        shards: of each node.
        seeds: how many nodes, from the first, are everybody's contacts.
        workload: calls a second of each shard; 0 for none.
        tables: operations on tables a second of each shard; 0 for none.
        store: calls a second of each client of the store; 0 for no store.
        offset_s, drift: bounds of each node's clock error, drawn per node.
        config: sections and keys that differ from the defaults.
        roster: how many nodes, from the first, ``[mesh] roster`` lists; all when 0.
        controllers: how many nodes, from the first, list themselves first, by mistake if it
            is more than one: each of them mints epochs.
        strangers: how many nodes of another cluster have the same contacts, by mistake.
    """

    nodes: int = 3
    shards: int = 1
    seeds: int = 2
    workload: float = 0.0
    tables: float = 0.0
    store: float = 0.0
    offset_s: float = 0.0
    drift: float = 0.0
    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    roster: int = 0
    controllers: int = 1
    strangers: int = 0


def founders(nodes: int) -> int:
    """How many nodes found the store: odd, and more than half, so that it is founded once."""
    return nodes if nodes % 2 else nodes - 1


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that did not hold: which section's, in words, and when."""

    section: str
    words: str
    at: float

    def __str__(self) -> str:
        return f"{self.section}: {self.words} (at {self.at:.4f} s)"


class Cluster:
    """See the module's docstring."""

    name = "sim"

    def __init__(
        self,
        seed: int,
        shape: Shape,
        applications: Sequence[Any] = (),
        weather: Weather | None = None,
    ) -> None:
        self.seed, self.shape = seed, shape
        self.rng = Random(seed)
        self.time = Time()
        self.trace = Trace()
        self.ledger = Ledger()
        self.tables = TableLedger()
        self.store = StoreLedger()
        self.watchers: list[Watcher] = []
        self.violation: Violation | None = None
        self.expected_logs: tuple[type[BaseException], ...] = ()
        self.slowed: dict[str, float] = {}
        self.ended_at: dict[tuple[str, int], float] = {}
        self.longest_pause_s = 0.0
        self.net = Network(self.time, self.rng, self._delivered, weather or Weather())
        self._applications = list(applications)
        self._last_fault = LONG_AGO
        self._every_second: list[Callable[[], object]] = []
        rng = self.rng
        self.nodes = [
            SimNode(
                self,
                index,
                shape.shards,
                Skew(
                    rng.uniform(-shape.offset_s, shape.offset_s),
                    1.0 + rng.uniform(-shape.drift, shape.drift),
                ),
            )
            for index in range(1, shape.nodes + 1)
        ]
        self.strangers = Strangers(self, shape.strangers)
        self.crier = Crier(self) if shape.workload else None
        self.checks = all_checks(self)
        if shape.store:
            self._use_store(shape.store)
        self._tick()

    def _use_store(self, rate: float) -> None:
        Clients(self, self.store, rate)
        numbers = range(1, len(self.nodes) + 1)
        self.watchers = [Watcher(self, self.store, number) for number in numbers]
        for number in numbers:
            Holder(self, self.store, number)

    # --- time ----------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self._run_to(self.time.now + seconds)

    def run_until(self, condition: Callable[[], object], timeout_s: float) -> bool:
        """Let time pass until a condition holds; False when it did not within the time."""
        limit = self.time.now + timeout_s
        while not self.time.halted:
            if condition():
                return True
            if self.time.now >= limit:
                return False
            self._run_to(min(limit, self.time.now + STEP_S))
        return False

    def converged(self) -> bool:
        """Whether every running node sees the same, and all are in one formed mesh."""
        return not difference(self)

    def difference(self) -> str:
        """What keeps the cluster from being converged, in words."""
        return difference(self)

    def settled(self) -> None:
        """Tell the checks that the cluster is at rest."""
        for check in self.checks:
            check.settled()

    def fault(self) -> None:
        """Note that the weather, or a node, is not well now."""
        self._last_fault = self.time.now

    def fine_for(self, seconds: float) -> bool:
        """Whether nothing was wrong for a while, with the network or any node."""
        well = [node.well_for(seconds) for node in self.nodes]
        return self.network_fine_for(seconds) and all(well)

    def network_fine_for(self, seconds: float) -> bool:
        """Whether nothing was wrong with the network, and nobody did anything, for a while."""
        sky = self.net.sky
        if not sky.calm or sky.everywhere.loss >= FAIR_LOSS:
            self._last_fault = self.time.now
        return self.time.now - self._last_fault >= seconds

    def _run_to(self, until: float) -> None:
        logged: Any = self._logged
        globalLogPublisher.addObserver(logged)
        try:
            self.time.run_until(until)
        except Stuck as error:
            self.violated("SIM", str(error))
        finally:
            globalLogPublisher.removeObserver(logged)

    def _tick(self) -> None:
        self.time.after(1.0, self._tick)
        self.fine_for(0.0)
        for check in self.checks:
            check.every_second()

    # --- what happens --------------------------------------------------------------------

    def note(self, node: str, kind: str, text: str) -> None:
        """Write a line into the log."""
        self.trace.add(self.time.now, node, kind, text)

    def violated(self, section: str, words: str) -> None:
        """An invariant does not hold: the run ends here. The first one counts."""
        if self.violation is None:
            self.violation = Violation(section, words, self.time.now)
            self.note("", "VIOLATION", f"{section}: {words}")
        self.time.halt()

    def listen_to(self, life: SimShard) -> None:
        """A shard was built."""
        self.note(life.node.name, "shard", f"{life.life} starts")
        ears.listen(self, life)

    def node_started(self, node: SimNode) -> None:
        """A node begins a life."""
        for check in self.checks:
            check.node_started(node)

    def node_ended(self, node: SimNode) -> None:
        """A life of a node is over."""
        self.ended_at[node.node_id, node.generation] = self.time.now
        for check in self.checks:
            check.node_ended(node)

    def shard_ended(self, life: SimShard) -> None:
        """A shard process is gone."""
        for check in self.checks:
            check.shard_ended(life)

    def _delivered(self, source: str, target: str, size: int) -> None:
        self.trace.delivered(self.time.now, source, target, size)

    def _logged(self, event: dict[str, Any]) -> None:
        failure = event.get("log_failure")
        if failure is None or failure.check(*self.expected_logs):
            return
        where = failure.getTraceback().strip().splitlines()
        said = formatEvent(event) or "an error in a Deferred that nobody handled"
        text = _ADDRESS.sub("", f"{said}: {' | '.join(where[-6:])}")  # alike in each replay
        self.violated("SIM", f"an unexpected failure was logged: {text}")

    # --- who is there --------------------------------------------------------------------

    def node(self, name: str) -> SimNode:
        """A node by name; raises LookupError naming those there are."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise LookupError(f"there is no node {name!r}, but {', '.join(n.name for n in self.nodes)}")

    @property
    def controller(self) -> SimNode:
        """The node that mints epochs: the first of ``[mesh] roster``."""
        return self.nodes[0]

    def life_of(self, node_id: NodeId, generation: int) -> SimNode | None:
        """The node that is in this life now."""
        for node in self.nodes:
            if (node.node_id, node.generation) == (node_id, generation) and node.shards:
                return node
        return None

    def start_all(self) -> None:
        """Start every node, all at once."""
        for node in (*self.nodes, *self.strangers.nodes):
            node.start()

    def config_of(self, node: SimNode) -> dict[str, Any]:
        """The config of a node as a file would have it."""
        shape = self.shape
        contacts = [str(each.address) for each in self.nodes[: shape.seeds]]
        names = [each.name for each in self.nodes[: shape.roster or shape.nodes]]
        if node in self.nodes[1 : shape.controllers]:
            names.insert(0, names.pop(names.index(node.name)))
        config: dict[str, dict[str, Any]] = {
            "node": {
                "name": node.name,
                "cluster": self.name,
                "data_dir": f"/sim/{node.name}",
                "run_dir": f"/sim/{node.name}/run",
            },
            "listen": {"peer": str(node.address), "admin": ""},
            "seeds": {"addresses": contacts},
            "mesh": {"roster": names},
        }
        if shape.store and node in self.nodes:
            config["store"] = {"expect": founders(shape.nodes)}
        for section, keys in shape.config.items():
            config.setdefault(section, {}).update(keys)
        return config

    def plugins(self, interface: type[Interface]) -> tuple[list[Any], list[PluginState]]:
        """What is installed on every node."""
        if interface is not IMeshApplication:
            return [each for each in self._applications if interface.providedBy(each)], []
        workload: list[Any] = []
        if self.shape.workload:
            workload.append(Workload(self, self.shape.workload))
        if self.shape.tables:
            workload.append(TableWorkload(self, self.shape.tables))
        others = (IDiscoveryBackend, IConflictResolver)
        mine = [e for e in self._applications if not any(o.providedBy(e) for o in others)]
        return mine + workload, []

    def ask(
        self, node: SimNode, verb: str, payload: object, key: str, timeout_s: float
    ) -> Deferred[Any]:
        """Have shard 0 of a node ask the owner of a key."""
        life = node.zero
        if life is None or life.shard is None:
            raise RuntimeError(f"{node.name} does not run")
        return life.shard.context("").owner_of(key).ask(verb, payload, timeout_s)

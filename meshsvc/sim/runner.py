"""Runs a scenario for a seed: faults first, then calm, in which the cluster must converge."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from random import Random

from twisted.logger import globalLogBeginner

from meshsvc.sim.asking import everyone_asks
from meshsvc.sim.cluster import Cluster, Violation
from meshsvc.sim.commands import BadCommand, Commands, check_word
from meshsvc.sim.scenario import BadScenario, Scenario, Step, load
from meshsvc.sim.store import faults
from meshsvc.sim.store.rest import everyone_uses_the_store
from meshsvc.sim.swarm import KINDS, Swarm
from meshsvc.sim.table_workload import everyone_writes

REST_S = 20.0
"""After it converged the cluster is left alone this long, and must stay as it is."""

SHUFFLED_S = 8.0
"""Within which nodes are started in any order: longer than they take to found a store."""

TAIL = 50
"""Events shown of a run that failed."""


_NODE = re.compile(r"n([0-9]{1,9})(?:/[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one seed; ``converged_s`` is how long that took after the faults."""

    scenario: str
    seed: int
    violation: Violation | None
    converged_s: float
    virtual_s: float
    digest: str
    events: int
    outcomes: dict[str, int]
    enabled: tuple[str, ...]
    tail: tuple[str, ...]
    source: str = ""

    @property
    def ok(self) -> bool:
        """Whether everything held."""
        return self.violation is None

    def report(self) -> str:
        """What went wrong, with what led to it and how to see it again."""
        lines = [
            f"seed {self.seed} of scenario {self.scenario}: {self.violation}",
            f"faults: {', '.join(self.enabled) or 'as the scenario says'}",
            f"the last {len(self.tail)} events:",
            *(f"  {line}" for line in self.tail),
            f"replay: meshsvc sim replay {self.seed} --scenario {self.source or self.scenario}",
        ]
        return "\n".join(lines)


def checked(scenario: Scenario) -> Scenario:
    """The scenario, whose faults, commands and nodes are known.

    Raises:
        BadScenario: naming everything that is not.
    """
    known = [*KINDS, *faults.KINDS]
    wrong = [
        f"swarm.kinds: {kind!r} is no kind of fault: there are {', '.join(known)}"
        for kind in scenario.swarm.kinds
        if kind not in known
    ]
    for number, step in enumerate(scenario.steps, 1):
        verb, *words = step.do.split() or [""]
        try:
            check_word(verb)
        except BadCommand as error:
            wrong.append(f"step {number}: {error}")
        for name in filter(None, map(_NODE.fullmatch, words)):
            if not 1 <= int(name[1]) <= scenario.nodes[1]:
                wrong.append(f"step {number}: there is no node {name[0].partition('/')[0]!r}")
    if wrong:
        where = scenario.source or scenario.name
        raise BadScenario("\n".join(f"{where}: {each}" for each in wrong))
    return scenario


class Run:
    """One seed of one scenario; ``cluster`` can be looked at afterwards."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario, self.seed = scenario, seed
        rng = Random(seed)
        shape, weather = scenario.shape(rng), scenario.draw_weather(rng)
        self.cluster = Cluster(rng.getrandbits(64), shape, weather=weather)
        self.commands = Commands(self.cluster)
        self.enabled: tuple[str, ...] = ()
        self.converged_s = 0.0
        self._safe = True

    def go(self) -> Result:
        """Run it all."""
        cluster, scenario = self.cluster, self.scenario
        shape = cluster.shape
        cluster.note(
            "",
            "begin",
            f"{scenario.name} seed {self.seed}: {shape.nodes} nodes with {shape.shards} shards",
        )
        self._safety()
        if not cluster.time.halted:
            self._liveness()
        result = self._result()
        return result

    def _safety(self) -> None:
        cluster, plan = self.cluster, self.scenario.swarm
        for step in self.scenario.steps:
            cluster.time.at(step.at, self._step, step)
        if self.scenario.start == "all":
            cluster.start_all()
        elif self.scenario.start == "shuffled":
            for node in cluster.nodes:
                cluster.time.after(cluster.rng.uniform(0.0, SHUFFLED_S), node.start)
        swarm = Swarm(cluster, self.commands, plan) if plan.kinds else None
        if swarm is not None:
            self.enabled = swarm.enabled
            cluster.note("", "swarm", " ".join(swarm.enabled))
        cluster.run(self.scenario.safety_s)
        self._safe = False
        if swarm is not None:
            swarm.stop()

    def _step(self, step: Step) -> None:
        if not self._safe:
            return
        self.commands.do(step.do)
        if step.every:
            self.cluster.time.after(step.every, self._step, step)

    def _liveness(self) -> None:
        cluster, limit = self.cluster, self.scenario.converge_s
        self.commands.calm()
        began = cluster.time.now
        converged = cluster.run_until(cluster.converged, limit)
        self.converged_s = cluster.time.now - began
        if cluster.time.halted:
            return
        if not converged:
            why = cluster.difference()
            cluster.violated("LIVENESS", f"not converged {limit:g} s after faults stopped: {why}")
            return
        cluster.note("", "converged", f"after {self.converged_s:.2f} s")
        cluster.run(REST_S)
        if not cluster.time.halted:
            self._at_rest()

    def _at_rest(self) -> None:
        cluster = self.cluster
        why = cluster.difference()
        if why:
            cluster.violated("LIVENESS", f"it converged and did not stay so: {why}")
            return
        cluster.settled()
        wrong = everyone_asks(cluster)
        if not wrong and cluster.shape.tables:
            wrong = everyone_writes(cluster)
        if not wrong and cluster.shape.store:
            wrong = everyone_uses_the_store(cluster)
        if wrong and not cluster.time.halted:
            cluster.violated("LIVENESS", f"all see each other, but {wrong}")

    def _result(self) -> Result:
        cluster = self.cluster
        bad = cluster.violation is not None
        return Result(
            self.scenario.name,
            self.seed,
            cluster.violation,
            self.converged_s,
            cluster.time.now,
            cluster.trace.digest(),
            cluster.time.events,
            {**cluster.ledger.outcomes, **cluster.tables.outcomes, **cluster.store.outcomes},
            self.enabled,
            tuple(cluster.trace.tail(TAIL)) if bad else (),
            self.scenario.source,
        )


def be_quiet() -> None:
    """Have this process print nothing of what simulated nodes log: the checks read it."""
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)


def run_seed(name: str, seed: int) -> Result:
    """Run one seed of a scenario, by name or path."""
    result = Run(load(name), seed).go()
    # A cluster is one large cycle; the next seed is not to pay for the last one's.
    gc.collect()
    return result


def run_seeds(name: str, seeds: Sequence[int], jobs: int = 1) -> Iterator[Result]:
    """Run many seeds, in the order they finish when there is more than one job."""
    if jobs <= 1:
        for seed in seeds:
            yield run_seed(name, seed)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), be_quiet) as pool:
        yield from pool.map(run_seed, [name] * len(seeds), seeds, chunksize=1)

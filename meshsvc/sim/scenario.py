"""Scenarios: small TOML files that say what a run is made of; values may be ranges.

A number in a file is itself; a list of two numbers is a range, and each seed draws from it.

    text        one sentence, what it shows
    nodes, shards, roster, workload, tables, store, offset_s, drift,
    controllers, strangers    as in ``cluster.Shape``
    store_share the part of the seeds that have a store, if any has
    start       "all" (the default), "shuffled" (one after the other, in any order), or "none",
                when steps start the nodes
    safety_s    how long faults go on
    converge_s  how long the cluster may take to converge after they stop
    [weather]   delay_s, jitter_s, loss, everywhere
    [config.S]  keys of the section S of every node's config that differ
    [[step]]    at (seconds), do (a command), every (seconds between repeats, optional)
    [swarm]     kinds (of ``swarm.KINDS``), share (of them that a seed enables), mean_s
                (between two of a kind), down_s (how long about half of them last; the
                others end within 3 s)
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

from meshsvc.sim.cluster import Shape
from meshsvc.sim.weather import Weather

FOLDER = "scenarios"

Range = tuple[float, float]


class BadScenario(ValueError):
    """A scenario that cannot be read; the text says what and where."""


@dataclass(frozen=True, slots=True)
class Step:
    """A command at a time, and again every so often when ``every`` is set."""

    at: float
    do: str
    every: float = 0.0


@dataclass(frozen=True, slots=True)
class SwarmPlan:
    """Which kinds of faults come, how far apart two of a kind are, and how long one lasts."""

    kinds: tuple[str, ...] = ()
    share: float = 0.5
    mean_s: Range = (3.0, 20.0)
    down_s: Range = (0.1, 20.0)


@dataclass(frozen=True, slots=True)
class Scenario:
    """See the module's docstring."""

    name: str
    text: str
    source: str = ""
    nodes: Range = (3, 3)
    shards: Range = (1, 1)
    roster: Range = (0, 0)
    controllers: int = 1
    strangers: int = 0
    workload: Range = (0.5, 0.5)
    tables: Range = (0.0, 0.0)
    store: Range = (0.0, 0.0)
    store_share: float = 1.0
    offset_s: float = 0.0
    drift: float = 0.0
    start: str = "all"
    safety_s: float = 60.0
    converge_s: float = 60.0
    weather: dict[str, Range] = field(default_factory=dict)
    config: dict[str, dict[str, Any]] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    swarm: SwarmPlan = SwarmPlan()

    def shape(self, rng: Random) -> Shape:
        """Draw what the cluster of one seed is made of."""
        nodes = _whole(rng, self.nodes)
        # From a generator of its own: whether there is a store changes nothing else of a seed.
        apart = Random(f"store {rng.getstate()[1][1:3]}") if self.store[1] else rng
        return Shape(
            nodes=nodes,
            shards=_whole(rng, self.shards),
            seeds=min(2, nodes),
            workload=rng.uniform(*self.workload),
            offset_s=self.offset_s,
            drift=self.drift,
            config=self.config,
            roster=_whole(rng, self.roster),
            controllers=self.controllers,
            strangers=self.strangers,
            tables=rng.uniform(*self.tables) if self.tables[1] else 0.0,
            store=self._store(apart) if self.store[1] else 0.0,
        )

    def _store(self, rng: Random) -> float:
        there, rate = rng.random() < self.store_share, rng.uniform(*self.store)
        return rate if there else 0.0

    def draw_weather(self, rng: Random) -> Weather:
        """Draw the weather of one seed."""
        return Weather(**{key: rng.uniform(*value) for key, value in self.weather.items()})


def names() -> list[str]:
    """The scenarios that come with meshsvc."""
    folder = files("meshsvc.sim") / FOLDER
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name[-5:] == ".toml")


def load(name: str) -> Scenario:
    """A scenario by its name, or from a file by its path.

    Raises:
        BadScenario: when there is none, or it cannot be read.
    """
    if name.endswith(".toml"):
        path = Path(name)
        return replace(parse(path.stem, path.read_text("utf-8")), source=name)
    if name not in names():
        raise BadScenario(f"there is no scenario {name!r}: there are {', '.join(names())}")
    text = (files("meshsvc.sim") / FOLDER / f"{name}.toml").read_text("utf-8")
    return parse(name, text)


def parse(name: str, text: str) -> Scenario:
    """Read the text of a scenario.

    Raises:
        BadScenario: naming the key that is wrong.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadScenario(f"{name}: {error}") from error
    steps = tuple(Step(**step) for step in data.pop("step", []))
    swarm = data.pop("swarm", {})
    weather = {key: _range(value) for key, value in data.pop("weather", {}).items()}
    ranges = ("nodes", "shards", "roster", "workload", "tables", "store")
    known = {each.name for each in fields(Scenario)}
    unknown = [key for key in data if key not in known]
    if unknown:
        raise BadScenario(f"{name}: unknown {', '.join(unknown)}")
    values: dict[str, Any] = {
        key: _range(value) if key in ranges else value for key, value in data.items()
    }
    usual = SwarmPlan()
    plan = SwarmPlan(
        tuple(swarm.get("kinds", ())),
        swarm.get("share", 0.5),
        _range(swarm.get("mean_s", usual.mean_s)),
        _range(swarm.get("down_s", usual.down_s)),
    )
    return Scenario(name=name, steps=steps, swarm=plan, weather=weather, **values)


def _range(value: Any) -> Range:
    if isinstance(value, list | tuple):
        low, high = value
        return (low, high)
    return (value, value)


def _whole(rng: Random, bounds: Range) -> int:
    return rng.randint(int(bounds[0]), int(bounds[1]))

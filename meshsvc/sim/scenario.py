"""Scenarios: small TOML files that say what a run is made of; values may be ranges.

A number in a file is itself; a list of two numbers is a range, and each seed draws from it.

    text        one sentence, what it shows; may be left out, as all others
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
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

from meshsvc.sim.cluster import Shape
from meshsvc.sim.reading import Reading, anything, number, spread, text, texts, whole
from meshsvc.sim.weather import Weather

FOLDER = "scenarios"

START = ("all", "shuffled", "none")

MAX_NODES = 100
"""More are for ``sim/scale``: whole nodes cost a second of this machine for each of theirs."""

Range = tuple[float, float]

_SECONDS = number(0.0, 86400.0)
_SOME_SECONDS = number(0.001, 86400.0)
_SHARE = number(0.0, 1.0)
_RATE = spread(number(0.0, 1000.0))

_KEYS = {
    "text": text(),
    "nodes": spread(whole(1, MAX_NODES)),
    "shards": spread(whole(1, 16)),
    "roster": spread(whole(0, MAX_NODES)),
    "controllers": whole(1, MAX_NODES),
    "strangers": whole(0, MAX_NODES),
    "workload": _RATE,
    "tables": _RATE,
    "store": _RATE,
    "store_share": _SHARE,
    "offset_s": _SECONDS,
    "drift": _SHARE,
    "start": text(START),
    "safety_s": _SOME_SECONDS,
    "converge_s": _SOME_SECONDS,
    "weather": anything(dict),
    "config": anything(dict),
    "step": anything(list),
    "swarm": anything(dict),
}
_WEATHER = {"delay_s": spread(_SECONDS), "jitter_s": spread(_SECONDS), "loss": spread(_SHARE)}
_STEP = {"at": _SECONDS, "do": text(), "every": _SECONDS}
_SWARM = {
    "kinds": texts(),
    "share": _SHARE,
    "mean_s": spread(_SOME_SECONDS),
    "down_s": spread(_SOME_SECONDS),
}


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
    text: str = ""
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
        try:
            written = path.read_text("utf-8")
        except UnicodeDecodeError:
            raise BadScenario(f"{name}: not UTF-8 text") from None
        return replace(parse(path.stem, written, name), source=name)
    if name not in names():
        raise BadScenario(f"there is no scenario {name!r}: there are {', '.join(names())}")
    written = (files("meshsvc.sim") / FOLDER / f"{name}.toml").read_text("utf-8")
    return parse(name, written)


def parse(name: str, written: str, where: str = "") -> Scenario:
    """Read the text of a scenario; ``where`` is what its mistakes are told of.

    Raises:
        BadScenario: naming everything that is wrong.
    """
    where = where or name
    try:
        data = tomllib.loads(written)
    except tomllib.TOMLDecodeError as error:
        raise BadScenario(f"{where}: {error}") from error
    reading = Reading()
    values = reading.table(data, _KEYS)
    steps = [_step(reading, at, row) for at, row in enumerate(values.pop("step", []), 1)]
    swarm = reading.table(values.pop("swarm", {}), _SWARM, "swarm")
    weather = reading.table(values.pop("weather", {}), _WEATHER, "weather")
    config = values.get("config", {})
    reading.table(config, dict.fromkeys(config, anything(dict)), "config")
    if reading.problems:
        raise BadScenario("\n".join(f"{where}: {problem}" for problem in reading.problems))
    return Scenario(
        name=name,
        steps=tuple(Step(**step) for step in steps if step),
        swarm=SwarmPlan(**swarm),
        weather=weather,
        **values,
    )


def _step(reading: Reading, at: int, row: Any) -> dict[str, Any]:
    step = reading.table(row, _STEP, f"step {at}")
    if isinstance(row, dict):
        missing = [key for key in ("at", "do") if key not in row]
        reading.problems += [f"step {at}: it lacks {key!r}" for key in missing]
    return step


def _whole(rng: Random, bounds: Range) -> int:
    return rng.randint(int(bounds[0]), int(bounds[1]))

"""What is measured in a ``Crowd``: how an update spreads, when a death is known, what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil, exp
from time import perf_counter, process_time

from meshsvc.gossip.events import Event
from meshsvc.model import NodeId
from meshsvc.sim.scale.crowd import Crowd, Node, Weather

SERF_INTERVAL_S = 0.2
SERF_FANOUT = 3
"""What serf ships for a LAN."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Virtual seconds without and with changes, and seconds between two changes.

    ``settle_s`` passes before and after each phase: what takes longer to arrive is missed.
    ``total_s`` is how much virtual time passes in all, at least; deaths take what they take.
    """

    steady_s: float = 60.0
    change_s: float = 60.0
    change_every_s: float = 1.0
    total_s: float = 0.0
    settle_s: float = 15.0


@dataclass(slots=True)
class Figures:
    """The result for one size; times in seconds, traffic in bytes sent by a node a second.

    ``cpu_s`` and ``wall_s`` say how long the run took, with forming the crowd.
    ``missed`` counts (update, node) pairs that were not reached, ``wrongly_dead`` the nodes
    that others called dead while only one had died; there should be none of either.
    """

    nodes: int
    spread: list[float] = field(default_factory=list)
    missed: int = 0
    killed_s: float | None = None
    unpowered_s: float | None = None
    wrongly_dead: int = 0
    steady_bytes: float = 0.0
    change_bytes: float = 0.0
    most_bytes: float = 0.0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    wall_s: float = 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of the values do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, ceil(len(ordered) * share) - 1)] if ordered else 0.0


def serf_model_s(nodes: int, share: float, loss: float = 0.0) -> float:
    """Seconds until ``share`` of the nodes know an update, by serf's published model.

    That is the logistic curve of the simulator on serf's site, in its steps of 0.2 s.
    """
    contact = SERF_FANOUT / nodes * (1 - loss) * 0.5
    rounds = 0
    while 1 / (1 + (nodes + 1) * exp(-contact * nodes * rounds)) < share:
        rounds += 1
    return rounds * SERF_INTERVAL_S


def measure(nodes: int, seed: int, weather: Weather, plan: Plan) -> Figures:
    """Run one crowd through all phases."""
    figures = Figures(nodes)
    began, worked = perf_counter(), process_time()
    crowd = Crowd(nodes, seed, weather)
    start = crowd.now
    crowd.run(plan.settle_s)
    figures.steady_bytes, _ = _traffic(crowd, lambda: crowd.run(plan.steady_s))
    crowd.run(plan.settle_s)
    _spread(crowd, plan, figures)
    crowd.run(plan.settle_s)
    figures.killed_s = _death(crowd, crowd.kill, figures)
    crowd.run(plan.settle_s)
    figures.unpowered_s = _death(crowd, crowd.power_off, figures)
    crowd.run(max(plan.settle_s, plan.total_s - (crowd.now - start)))
    figures.virtual_s = crowd.now - start
    figures.cpu_s, figures.wall_s = process_time() - worked, perf_counter() - began
    return figures


def _traffic(crowd: Crowd, work: Callable[[], None]) -> tuple[float, float]:
    """(mean, most) bytes that a node sent a second meanwhile."""
    before, began = [node.sent_bytes for node in crowd.nodes], crowd.now
    work()
    sent = [node.sent_bytes - old for node, old in zip(crowd.nodes, before, strict=True)]
    seconds = crowd.now - began
    return sum(sent) / len(sent) / seconds, max(sent) / seconds


def _spread(crowd: Crowd, plan: Plan, figures: Figures) -> None:
    """Now and then a node has news; note when each of the others hears of it."""
    said: dict[int, float] = {}
    due = 0

    def heard(node: Node, event: Event) -> None:
        if event.name == "changed" and event.node_id != node.id:
            # Several updates of one node may arrive as one: each of them is told of then.
            number = event.member.values["news"]
            figures.spread.append(crowd.now - said[number])

    def speak() -> None:
        nonlocal due
        end = crowd.now + plan.change_s
        while crowd.now < end:
            said[due] = crowd.now
            crowd.set_values(speakers[due % len(speakers)], {"news": due})
            due += 1
            crowd.run(plan.change_every_s)

    crowd.on_event = heard
    changes = max(1, ceil(plan.change_s / plan.change_every_s))
    speakers = crowd.rng.sample(crowd.running, min(len(crowd.running), changes))
    figures.change_bytes, figures.most_bytes = _traffic(crowd, speak)
    crowd.run(plan.settle_s)
    crowd.on_event = None
    figures.missed = due * (len(crowd.running) - 1) - len(figures.spread)


def _death(crowd: Crowd, end: Callable[[Node], None], figures: Figures) -> float | None:
    """Seconds until every other node counts a node as dead; None if that takes a minute."""
    victim = crowd.rng.choice(crowd.running)
    told: set[NodeId] = set()
    last = began = crowd.now

    def heard(node: Node, event: Event) -> None:
        nonlocal last
        if event.name != "dead":
            return
        if event.node_id == victim.id:
            told.add(node.id)
            last = crowd.now
        else:
            figures.wrongly_dead += 1

    crowd.on_event = heard
    end(victim)
    while len(told) < len(crowd.running) and crowd.now - began < 60.0:
        crowd.run(0.5)
    crowd.on_event = None
    return last - began if len(told) == len(crowd.running) else None

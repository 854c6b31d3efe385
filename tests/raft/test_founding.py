"""Founding a group: one of them, from any start, whatever is lost or restarted meanwhile."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from random import Random

import pytest

from meshsvc.errors import WireError
from meshsvc.raft.founding import PATIENCE_S, SETTLE_S, Founding
from meshsvc.raft.founding_terms import (
    COMMIT,
    FRESH,
    JOINED,
    LOOK,
    PREPARE,
    PROMISED,
    REFUSED,
    SETTLED,
    Announcement,
    Answer,
    Ask,
    Ballot,
    Conflict,
    Founder,
    Persist,
    Plan,
    Record,
    Start,
)

STEP_S = 0.25


def founder(number: int) -> Founder:
    return Founder(f"{number:032x}", number + 100)


@dataclass
class Node:
    """A node with a disk; ``core`` is None while it is down."""

    me: Founder
    rng: Random
    disk: Record = field(default_factory=Record)
    core: Founding | None = None
    started: list[Start] = field(default_factory=list)


class World:
    """Nodes that ask each other over a network, and see each other by a gossip that lags."""

    def __init__(self, seed: int, nodes: int, expect: int, loss: float) -> None:
        self.rng = Random(seed)
        self.now, self.loss, self.expect = 0.0, loss, expect
        self.nodes = {
            f.node: Node(f, Random(self.rng.random())) for f in map(founder, range(nodes))
        }
        self._due: list[tuple[float, int, object]] = []
        self._number = count()

    def at(self, seconds: float, call) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._number), call))

    def start(self, node: Node) -> None:
        node.core = Founding(node.me, self.expect, node.disk, node.rng, self.now)
        self.drain(node)

    def crash(self, node: Node) -> None:
        node.core = None

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            while self._due and self._due[0][0] <= self.now:
                heapq.heappop(self._due)[2]()
            for node in self.nodes.values():
                if node.core is not None and self.rng.random() < 0.7:
                    node.core.seen(self.view(node), self.now)
                    self.drain(node)
            self.now += STEP_S
            self.check()

    def view(self, me: Node) -> dict[str, Announcement]:
        others = (each for each in self.nodes.values() if each is not me)
        return {each.me.node: each.core.announcement() for each in others if each.core is not None}

    def drain(self, node: Node) -> None:
        core = node.core
        for effect in core.take_events():
            if isinstance(effect, Persist):
                node.disk = effect.record
            elif isinstance(effect, Start):
                node.started.append(effect)
            elif isinstance(effect, Ask):
                self.ask(node, core, effect)

    def lost(self) -> bool:
        return self.rng.random() < self.loss

    def ask(self, source: Node, core: Founding, effect: Ask) -> None:
        target = self.nodes[effect.node]
        plan = Plan.read(effect.plan.row())

        def arrive() -> None:
            if target.core is None:
                return
            answer = target.core.asked(effect.kind, plan, self.now)
            self.drain(target)
            if not self.lost():
                self.at(self.rng.random(), lambda: back(answer))

        def back(answer: Answer) -> None:
            if source.core is core:
                core.answered(effect.node, plan.ballot, Answer.read(answer.row()), self.now)
                self.drain(source)

        if not self.lost():
            self.at(self.rng.random(), arrive)

    def living(self) -> set[int]:
        """The clusters that more than half of their founders have on disk as theirs."""
        founded: dict[int, list[Plan]] = {}
        for node in self.nodes.values():
            plan = node.disk.plan
            if node.disk.stage == JOINED and plan is not None:
                founded.setdefault(plan.cluster, []).append(plan)
        return {c for c, plans in founded.items() if len(plans) > len(plans[0].founders) / 2}

    def check(self) -> None:
        assert len(self.living()) <= 1, "two groups could each reach a majority"
        for node in self.nodes.values():
            assert len({start.cluster for start in node.started}) <= 1, "it takes part in two"


@pytest.mark.contract("RAFT-4")
@pytest.mark.parametrize("expect", [1, 3, 5])
def test_a_hundred_races_make_one_group_each(expect):
    """Started in any order, with losses, crashes and restarts: one group, and all are in it."""
    for seed in range(100):
        race(seed, expect)


def race(seed: int, expect: int) -> None:
    rng = Random(seed)
    world = World(seed, expect + rng.randrange(3), expect, rng.choice([0.0, 0.1, 0.4]))
    for node in world.nodes.values():
        world.at(rng.uniform(0, 4), lambda node=node: world.start(node))
    for _ in range(rng.randrange(6)):
        victim = rng.choice(list(world.nodes.values()))
        down = rng.uniform(0, 20)
        world.at(down, lambda node=victim: world.crash(node))
        back = down + rng.uniform(0.1, 10)
        world.at(back, lambda node=victim: node.core is None and world.start(node))
    world.run(30)
    world.loss = 0.0
    for node in world.nodes.values():
        if node.core is None:
            world.start(node)
    world.run(60)
    clusters = {node.disk.cluster for node in world.nodes.values()}
    assert all(node.core.done for node in world.nodes.values()), f"seed {seed} is not done"
    assert len(clusters) == 1, f"seed {seed} has {len(clusters)} groups"
    assert clusters == world.living(), f"seed {seed}: the founders are not a majority"


@pytest.mark.contract("RAFT-4")
def test_views_that_differ_found_nothing_twice():
    """Nodes that see different ones of five never found two groups of three."""
    for seed in range(100):
        world = World(seed, 5, 3, 0.1)
        hidden = {
            (a, b) for a in world.nodes for b in world.nodes if world.rng.random() < 0.25 and a != b
        }
        whole = world.view
        world.view = lambda me, whole=whole, hidden=hidden, world=world: {
            node: each
            for node, each in whole(me).items()
            if world.now > 25 or (me.me.node, node) not in hidden
        }
        for node in world.nodes.values():
            world.at(world.rng.uniform(0, 3), lambda node=node, world=world: world.start(node))
        world.run(90)
        assert len({node.disk.cluster for node in world.nodes.values()}) == 1, f"seed {seed}"


def core(number=0, expect=3, record=None, now=0.0):
    return Founding(founder(number), expect, record or Record(), Random(1), now)


def seen(*numbers, stage=FRESH, cluster=0, expect=3):
    rows = {}
    for number in numbers:
        each = founder(number)
        rows[each.node] = Announcement(each.member, stage, cluster, expect)
    return rows


def plan(*numbers, ballot=1, cluster=9):
    founders = tuple(founder(number) for number in numbers)
    return Plan(Ballot(ballot, founders[0].node), cluster, founders)


def test_it_waits_until_the_view_is_at_rest():
    """A plan is proposed when nothing changed for a while, by the first of the nodes."""
    first, second = core(0), core(1)
    for one in (first, second):
        one.seen(seen(*({0, 1, 2} - {one.me.member - 100})), 1.0)
        assert one.take_events() == []
    assert first.deadline() == 1.0 + SETTLE_S
    assert second.deadline() is None
    first.tick(1.0 + SETTLE_S)
    persist, *asks = first.take_events()
    assert persist.record.stage == PROMISED
    assert {ask.kind for ask in asks} == {PREPARE}
    assert [ask.node for ask in asks] == [founder(1).node, founder(2).node]


def test_a_promise_is_kept_then_refused_then_free():
    """It is bound while it waits, refuses for good, and is free when the proposer is too."""
    one = core(1)
    assert not one.asked(PREPARE, plan(0, 1, 2), 0.0).refused
    other = Plan(Ballot(2, founder(2).node), 8, plan(0, 1, 2).founders)
    assert one.asked(PREPARE, other, 0.0).objection == "this node is bound already"
    assert not one.asked(LOOK, plan(0, 1, 2), 1.0).refused, "it waits for the proposer"
    one.tick(PATIENCE_S)
    assert one.record.stage == REFUSED
    one.take_events()
    one.tick(PATIENCE_S + 2)
    assert {ask.kind for ask in one.take_events()} == {LOOK}
    assert one.asked(COMMIT, plan(0, 1, 2), PATIENCE_S + 3).refused, "too late"
    one.answered(founder(0).node, plan(0, 1, 2).ballot, Answer(FRESH, True), PATIENCE_S + 3)
    assert one.record.stage == FRESH
    assert one.asked(COMMIT, plan(0, 1, 2), PATIENCE_S + 4).refused, "for good"


def test_the_next_plan_of_a_proposer_ends_its_last():
    """It has one at a time: who waits for the last one need not wait any longer."""
    one = core(1)
    one.asked(PREPARE, plan(0, 1, 2), 0.0)
    assert not one.asked(PREPARE, plan(0, 1, 2, ballot=2), 0.1).refused
    assert one.record.plan.ballot.number == 2
    assert one.asked(COMMIT, plan(0, 1, 2), 0.2).refused


def test_what_is_settled_is_not_refused():
    """Who knows that all have promised stays with the plan, until half of them refuse it."""
    one = core(1)
    one.asked(PREPARE, plan(0, 1, 2), 0.0)
    one.asked(COMMIT, plan(0, 1, 2), 0.5)
    assert one.record.stage == SETTLED
    one.tick(100.0)
    assert one.record.stage == SETTLED
    assert not one.asked(LOOK, plan(0, 1, 2), 101.0).refused
    one.answered(founder(0).node, plan(0, 1, 2).ballot, Answer(REFUSED, True), 101.0)
    one.answered(founder(2).node, plan(0, 1, 2).ballot, Answer(REFUSED, True), 101.0)
    assert one.record.stage == FRESH


def test_more_than_half_have_to_have_noted_it():
    """Then the group starts, with the members of the plan."""
    one = core(1)
    one.asked(PREPARE, plan(0, 1, 2), 0.0)
    one.asked(COMMIT, plan(0, 1, 2), 0.5)
    one.take_events()
    one.answered(founder(0).node, plan(0, 1, 2).ballot, Answer(SETTLED, False), 1.0)
    persist, start = one.take_events()
    assert persist.record.stage == JOINED
    assert start == Start(9, plan(0, 1, 2).config)
    assert core(1, record=persist.record).take_events() == [start], "and again after a restart"


def test_a_group_that_is_there_is_joined():
    """Whatever was promised; but of two groups none."""
    one = core(3)
    one.seen(seen(0, 1, stage=JOINED, cluster=5), 1.0)
    assert one.take_events()[-1] == Start(5, None)
    two = core(3)
    two.seen(seen(0, stage=JOINED, cluster=5) | seen(1, stage=JOINED, cluster=6), 1.0)
    assert two.take_events() == [Conflict((5, 6))]
    assert "two stores, 5 and 6" in two.waits_for


@pytest.mark.parametrize(
    ("others", "proposal", "says"),
    [
        (seen(0, 2, 4), plan(0, 3, 4), "comes before"),
        (seen(0, 4), plan(0, 4), "expect is 3 here, and 2 there"),
        (seen(0, 4), plan(0, 4, 5), "not in the plan"),
        (seen(0, 4) | seen(5, stage=SETTLED), plan(0, 3, 4), "founded already"),
    ],
)
def test_a_plan_that_is_not_promised(others, proposal, says):
    """The objection says why, and the refusal is for good."""
    one = core(3)
    one.seen(others, 0.0)
    one.take_events()
    answer = one.asked(PREPARE, proposal, 1.0)
    assert answer.refused
    assert says in answer.objection
    assert one.asked(PREPARE, proposal, 2.0).refused


def test_nodes_that_expect_another_number_are_named():
    """They do not found together, and whoever looks sees why."""
    one = core(0)
    one.seen(seen(1, 2, expect=5), 0.0)
    assert one.waits_for == "1 of 3 nodes to found the store are there; some say expect = 5"


@pytest.mark.parametrize(
    "row",
    [None, [], [[1, "a"], 0, []], [[1, "a"], 5, [["n", 1], ["m", 1]]], [[-1, "a"], 5, [["n", 1]]]],
)
def test_rows_that_are_no_plan(row):
    """Typed, never an exception of Python's own."""
    with pytest.raises(WireError):
        Plan.read(row)
    with pytest.raises(WireError):
        Record.read(row if row else [9, None, [0, ""], 0])
    assert Announcement.read(row) is None

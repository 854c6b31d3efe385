"""The machine of joins: every state takes every input, and what comes out of it."""

from __future__ import annotations

from itertools import product

import pytest

from meshsvc.model import NodeId
from meshsvc.retry import fixed
from meshsvc.tables.join import Join, Phase, Step
from meshsvc.tables.joining.peers import LOCK_S, Lock

PATHS = {
    Phase.APART: [],
    Phase.ASKING: ["met"],
    Phase.LOCKING: ["met", "differ"],
    Phase.STAGING: ["met", "differ", "granted"],
    Phase.COMMITTING: ["met", "differ", "granted", "staged"],
    Phase.JOINED: ["met", "equal"],
    Phase.WAITING: ["met", "failed"],
}
INPUTS = ["met", "equal", "differ", "granted", "staged", "committed", "failed", "tick", "lost"]
TIMED = {"met", "equal", "committed", "tick"}

UNDER_WAY = (Phase.ASKING, Phase.LOCKING, Phase.STAGING, Phase.COMMITTING)

OUTCOMES = {
    (Phase.APART, "met"): (Phase.ASKING, [Step.ASK]),
    (Phase.ASKING, "equal"): (Phase.JOINED, [Step.CELEBRATE]),
    (Phase.ASKING, "differ"): (Phase.LOCKING, [Step.LOCK]),
    (Phase.LOCKING, "granted"): (Phase.STAGING, [Step.STAGE]),
    (Phase.STAGING, "staged"): (Phase.COMMITTING, [Step.COMMIT]),
    (Phase.COMMITTING, "committed"): (Phase.JOINED, [Step.CELEBRATE]),
    (Phase.JOINED, "lost"): (Phase.APART, [Step.PART]),
    (Phase.WAITING, "lost"): (Phase.APART, [Step.ABANDON]),
    **{(phase, "failed"): (Phase.WAITING, [Step.ABANDON]) for phase in UNDER_WAY},
    **{(phase, "lost"): (Phase.APART, [Step.ABANDON]) for phase in UNDER_WAY},
}


def feed(join, name, now=10.0):
    method = getattr(join, name)
    if name == "failed":
        method("why", now)
    elif name == "lost":
        method("why")
    elif name in TIMED:
        method(now)
    else:
        method()


def join_in(phase):
    join = Join(fixed(1.0))
    for name in PATHS[phase]:
        feed(join, name)
    join.take_steps()
    assert join.phase is phase
    return join


@pytest.mark.contract("TBL-6")
@pytest.mark.parametrize(("phase", "then"), list(product(PATHS, INPUTS)))
def test_every_phase_with_every_input(phase, then):
    """What is not in the table above changes nothing and does nothing."""
    join = join_in(phase)
    feed(join, then)
    assert (join.phase, join.take_steps()) == OUTCOMES.get((phase, then), (phase, []))


def test_a_wait_ends_in_another_try():
    """When the wait is over it asks again, sooner when hurried; failures are counted."""
    join = join_in(Phase.WAITING)
    assert (join.deadline(), join.tries, join.why) == (11.0, 1, "why")
    join.tick(10.5)
    assert join.take_steps() == []
    join.hurry(10.6)
    join.tick(10.6)
    assert join.take_steps() == [Step.ASK]
    join.failed("again", 10.7)
    assert join.tries == 2
    join.tick(12.0)
    join.equal(12.0)
    assert (join.phase, join.why) == (Phase.JOINED, "")


@pytest.mark.contract("TBL-6")
def test_the_lock_is_leased():
    """One holder at a time; it may renew; when its lease runs out another gets it."""
    lock, a, b = Lock(), NodeId("a"), NodeId("b")
    assert lock.take(a, 0)
    assert not lock.take(b, 1)
    assert lock.take(a, 2)
    lock.give_back(b)
    assert not lock.take(b, 2 + LOCK_S - 1)
    assert lock.take(b, 2 + LOCK_S)
    lock.give_back(b)
    assert lock.take(a, 2 + LOCK_S)

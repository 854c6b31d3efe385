"""The machines of links: every state takes every input, and what comes out of it."""

from __future__ import annotations

from itertools import product

import pytest

from meshsvc.counters import Counters
from meshsvc.link.dial import (
    DUPLICATE_WAIT_S,
    LONG_WAIT_S,
    STABLE_AFTER_S,
    Abandon,
    Connect,
    Dial,
)
from meshsvc.link.handshake import (
    BecomeUp,
    End,
    Handshake,
    HandshakeMachine,
    SayConfirm,
    SayHello,
    SayRefusal,
    _Core,
)
from meshsvc.link.refusals import LOG_INTERVAL_S, MAX_REMEMBERED, Refusals
from meshsvc.retry import exponential, fixed
from meshsvc.wire.messages import Refusal

REFUSAL = Refusal("wrong-cluster", "text", 0, 0, False)
END = End("lost", "text", True, False)
OUR_END = End("wrong-cluster", "text", False, remote=False)
THEIR_END = End("wrong-cluster", "text", False, remote=True)

PATHS: dict[str, list[str]] = {
    "idle": [],
    "dialing": ["dial"],
    "accepting": ["accept"],
    "confirming": ["accept", "hello_accepted"],
    "up": ["dial", "hello_accepted"],
    "closed": ["dial", "ended"],
}
ARGUMENTS = {"declined": REFUSAL, "refusal_received": REFUSAL, "ended": END}
INPUTS = ["dial", "accept", "hello_accepted", "confirmed", *ARGUMENTS]

EFFECTS: dict[tuple[str, str], list[object]] = {
    ("idle", "dial"): [SayHello()],
    ("accepting", "hello_accepted"): [SayHello()],
    ("dialing", "hello_accepted"): [SayConfirm(), BecomeUp()],
    ("confirming", "confirmed"): [BecomeUp()],
    **{
        (state, "declined"): [SayRefusal(REFUSAL), OUR_END]
        for state in ("idle", "dialing", "accepting", "confirming")
    },
    ("up", "declined"): [OUR_END],
    **{(state, "refusal_received"): [THEIR_END] for state in PATHS if state != "closed"},
    **{(state, "ended"): [END] for state in PATHS if state != "closed"},
}


def feed(machine: object, name: str) -> None:
    method = getattr(machine, name)
    method(ARGUMENTS[name]) if name in ARGUMENTS else method()


@pytest.mark.parametrize(("state", "then"), list(product(PATHS, INPUTS)))
def test_the_handshake_in_every_state_with_every_input(state: str, then: str) -> None:
    """What is not in the table above does nothing, and an end is told exactly once."""
    core = _Core()
    machine = HandshakeMachine(core)
    for name in PATHS[state]:
        feed(machine, name)
    core.effects.clear()
    feed(machine, then)
    assert core.effects == EFFECTS.get((state, then), [])
    core.effects.clear()
    feed(machine, "ended")
    feed(machine, "ended")
    over = state == "closed" or then in ARGUMENTS
    assert core.effects == ([] if over else [END])


def test_the_face_of_the_handshake_drains() -> None:
    """take_effects gives each effect once."""
    handshake = Handshake(dialing=True)
    assert handshake.take_effects() == [SayHello()]
    assert handshake.take_effects() == []


DIAL_PATHS: dict[str, list[str]] = {
    "idle": [],
    "dialing": ["keep"],
    "up": ["keep", "linked"],
    "waiting": ["keep", "failed"],
    "stopped": ["keep", "forget"],
}
DIAL_INPUTS = ["keep", "linked", "failed", "refused", "duplicate", "link_lost", "tick", "forget"]


def dial_in(state: str, policy_s: float = 1.0) -> Dial:
    dial = Dial(fixed(policy_s))
    for name in DIAL_PATHS[state]:
        tell(dial, name, 10.0)
    dial.take_effects()
    return dial


def tell(dial: Dial, name: str, now: float) -> None:
    dial.forget() if name == "forget" else getattr(dial, name)(now)


DIAL_OUTCOMES: dict[tuple[str, str], tuple[list[object], float | None]] = {
    ("idle", "keep"): ([Connect()], None),
    ("stopped", "keep"): ([Connect()], None),
    ("dialing", "failed"): ([], 11.0),
    ("dialing", "refused"): ([], 10.0 + LONG_WAIT_S),
    ("dialing", "duplicate"): ([], 10.0 + DUPLICATE_WAIT_S),
    ("dialing", "forget"): ([Abandon()], None),
    ("up", "link_lost"): ([], 11.0),
    ("waiting", "linked"): ([], None),
    ("waiting", "forget"): ([], None),
}


@pytest.mark.parametrize(("state", "then"), list(product(DIAL_PATHS, DIAL_INPUTS)))
def test_a_dial_in_every_state_with_every_input(state: str, then: str) -> None:
    """What is not in the table above changes nothing that can be seen."""
    dial = dial_in(state)
    before = dial.deadline()
    tell(dial, then, 10.0)
    expected = DIAL_OUTCOMES.get((state, then), ([], before))
    assert (dial.take_effects(), dial.deadline()) == expected


def test_waits_grow_until_a_link_is_good() -> None:
    """Each failure in a row waits longer, links that die young included."""
    dial = Dial(exponential(0.2, 2, 5, lambda: 1.0))
    now, waits = 0.0, []
    dial.keep(now)
    for each in range(8):
        if each % 2:
            dial.linked(now)
            dial.link_lost(now)
        else:
            dial.failed(now)
        at = dial.deadline()
        assert at is not None
        waits.append(round(at - now, 3))
        now = at
        dial.tick(now)
        assert dial.take_effects()[-1] == Connect()
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5]


@pytest.mark.contract("MESH-8")
def test_a_link_that_lived_long_is_redialed_at_once() -> None:
    """After a minute of life the loss of a link is answered in the same moment."""
    dial = dial_in("up")
    dial.link_lost(10 + STABLE_AFTER_S + 1)
    assert dial.take_effects() == [Connect()]
    dial.failed(80)
    assert dial.deadline() == 81


@pytest.mark.contract("LINK-2")
def test_a_reason_that_lasts_waits_long() -> None:
    """Refused at the door or put out of it for a reason that lasts: a minute."""
    dial = dial_in("up")
    dial.link_lost(20, heals=False)
    assert dial.deadline() == 20 + LONG_WAIT_S


def test_a_link_by_the_other_side_ends_the_wait() -> None:
    """Whoever dialed it, a link serves the target."""
    dial = dial_in("waiting")
    dial.linked(10.5)
    dial.tick(500)
    assert dial.take_effects() == []


@pytest.mark.contract("LINK-2")
def test_refusals_are_logged_once_a_minute_and_counted_each_time() -> None:
    """Per peer and reason; the table of what was logged is bounded."""
    counters = Counters()
    refusals = Refusals(counters)
    for _ in range(3):
        refusals.count("version", "local")
    assert counters.total("link_refusals_total", reason="version", side="local") == 3
    assert refusals.should_log("n1", "version", 0)
    assert not refusals.should_log("n1", "version", LOG_INTERVAL_S - 1)
    assert refusals.should_log("n1", "wrong-cluster", 1)
    assert refusals.should_log("n2", "version", 1)
    assert refusals.should_log("n1", "version", LOG_INTERVAL_S)
    for number in range(3 * MAX_REMEMBERED):
        refusals.should_log(f"x{number}", "version", 2)
    assert len(refusals._logged) == MAX_REMEMBERED

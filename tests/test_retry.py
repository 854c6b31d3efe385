"""RetryMachine: when to run again, when to forget failures, when to give up."""

from __future__ import annotations

import pytest

from meshsvc.retry import (
    Occasion,
    Retry,
    RetryMachine,
    _Core,
    exponential,
    fixed,
    four_way,
    occasion,
)


def test_fixed_is_fixed() -> None:
    """The delay does not depend on the number of failures."""
    assert [fixed(2.5)(attempt) for attempt in (1, 2, 100)] == [2.5] * 3


def test_exponential_grows_to_its_cap() -> None:
    """Without jitter to take off, each delay is factor times the one before, up to the cap."""
    policy = exponential(0.1, 2, 5, lambda: 1.0)
    assert [round(policy(attempt), 3) for attempt in range(1, 9)] == [
        *(0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5)
    ]
    assert policy(10_000) == 5


@pytest.mark.parametrize("attempt", [1, 3, 60, 5000])
def test_jitter_takes_off_half_at_most(attempt: int) -> None:
    """A delay lies between half the full value and all of it."""
    least = exponential(0.1, 2, 5, lambda: 0.0)(attempt)
    most = exponential(0.1, 2, 5, lambda: 1.0)(attempt)
    assert least == pytest.approx(most / 2)


def test_the_occasion_of_discovery_by_precedence() -> None:
    """An error comes before the first phase, that before a lost node, that before routine."""
    asked = [
        occasion(failed=failed, initial=initial, node_down=node_down)
        for failed, initial, node_down in (
            *((True, True, True), (False, True, True)),
            *((False, False, True), (False, False, False)),
        )
    ]
    assert [four_way(lambda kind=kind: kind)(1) for kind in asked] == [1, 5, 30, 300]


def test_four_way_asks_each_time() -> None:
    """The occasion is asked for when the delay is."""
    now = Occasion.INITIAL
    policy = four_way(lambda: now)
    assert policy(1) == 5
    now = Occasion.REGULAR
    assert policy(1) == 300


def test_a_failure_waits_then_runs_once() -> None:
    """After a failure tick says to run once, at the deadline and not before."""
    retry = Retry(fixed(2))
    retry.start(10)
    assert retry.deadline() is None
    retry.failed(11)
    assert retry.deadline() == 13
    assert not retry.tick(12.9)
    assert retry.tick(13)
    assert not retry.tick(14)
    assert retry.deadline() is None


def test_failures_in_a_row_reach_the_policy() -> None:
    """The policy gets 1, 2, 3 and so on while no run is stable."""
    asked: list[int] = []
    retry = Retry(lambda attempt: asked.append(attempt) or 1.0, None, 60)
    retry.start(0)
    for now in (0, 10, 20):
        retry.succeeded(now)
        retry.failed(now + 5)
        assert retry.tick(now + 6)
    assert asked == [1, 2, 3]


def test_a_stable_run_starts_a_new_row() -> None:
    """A run that lived for stable_after_s after its success clears the failures before it."""
    retry = Retry(fixed(1), None, 60)
    retry.start(0)
    for now in (0, 10):
        retry.failed(now)
        retry.tick(now + 1)
    assert retry.failures == 2
    retry.succeeded(20)
    retry.failed(80)
    assert retry.failures == 1


def test_it_gives_up_after_the_last_attempt() -> None:
    """With five attempts, the sixth failure in a row exhausts it, until stop and start."""
    retry = Retry(fixed(1), 5, 60)
    retry.start(0)
    for now in range(5):
        retry.failed(now)
        assert not retry.exhausted
        assert retry.tick(now + 1)
    retry.failed(6)
    assert retry.exhausted
    assert retry.deadline() is None
    retry.start(7)
    assert retry.exhausted
    retry.stop()
    retry.start(8)
    assert not retry.exhausted
    retry.failed(9)
    assert retry.deadline() == 10


def test_a_stable_run_is_never_the_last() -> None:
    """A long life in between means that failures are not in a row."""
    retry = Retry(fixed(1), 1, 60)
    retry.start(0)
    for life in range(5):
        now = life * 100
        retry.succeeded(now)
        retry.failed(now + 61)
        assert retry.tick(now + 62)
    assert not retry.exhausted


def test_stop_forgets() -> None:
    """After stop nothing is due, and late news changes nothing."""
    retry = Retry(fixed(1))
    retry.start(0)
    retry.failed(1)
    retry.stop()
    assert retry.deadline() is None
    assert not retry.tick(5)
    retry.failed(6)
    retry.succeeded(6)
    assert retry.deadline() is None
    assert retry.failures == 0


@pytest.mark.parametrize("leads", [[], ["start"], ["start", "failed"], ["start", "_gave_up"]])
@pytest.mark.parametrize("then", ["start", "succeeded", "failed", "due", "stop", "_gave_up"])
def test_every_state_takes_every_input(leads: list[str], then: str) -> None:
    """No input raises in any state, and stop always leads back to a fresh start."""
    core = _Core(fixed(1), None, 60)
    machine = RetryMachine(core)
    for name in [*leads, then, "stop", "start", "failed"]:
        method = getattr(machine, name)
        method() if name in ("due", "stop", "_gave_up") else method(1.0)
    assert core.failures == 1
    assert core.due_at == 2.0

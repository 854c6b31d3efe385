"""The simulator finds bugs: each of these is planted, and caught within a few seeds."""

from __future__ import annotations

import pytest
from planted import BUGS, Bug

from meshsvc.sim.runner import run_seed

MAX_SEEDS = 25


def seeds_until_caught(bug: Bug, first: int = 0) -> tuple[int, str]:
    """How many seeds from ``first`` on it took, and what was said; 0 when it was not caught."""
    for number in range(1, MAX_SEEDS + 1):
        result = run_seed(bug.scenario, first + number - 1)
        if not result.ok:
            return number, str(result.violation)
    return 0, ""


@pytest.mark.slow
@pytest.mark.contract("SIM-2")
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug, monkeypatch, logged_errors):
    """Some seed of the scenario violates an invariant, of the section it should."""
    bug.plant(monkeypatch)
    seeds, words = seeds_until_caught(bug)
    logged_errors.flush()
    assert seeds, f"{bug.name} was not caught in {MAX_SEEDS} seeds of {bug.scenario}"
    assert words.startswith(bug.section)

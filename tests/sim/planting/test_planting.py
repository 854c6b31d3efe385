"""Planted bugs are found: by invariants in a few seeds of the simulator, or by a rule machine.

``MESHSVC_SIM_TRIALS=5`` hunts each bug from five different first seeds and by all its ways,
runs every one of those seeds without the bug as well, and prints the median number it took.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from statistics import median

import pytest
from planting import BUGS, EXAMPLES, Bug, examine, hunt, where

from meshsvc.sim.runner import run_seed

TRIALS = int(os.environ.get("MESHSVC_SIM_TRIALS", "1"))
APART = 1000
"""Seeds between the first ones of two trials."""

FAMILIES = [import_module(path.stem) for path in sorted(Path(__file__).parent.glob("*_bugs.py"))]


@pytest.fixture(scope="module", autouse=True)
def table(request) -> Iterator[list[str]]:
    """One line for each way a bug was caught, shown at the end of a run of several trials."""
    lines: list[str] = []
    yield lines
    plugin = request.config.pluginmanager.get_plugin
    if TRIALS > 1 and plugin("terminalreporter") is not None:
        with plugin("capturemanager").global_and_fixture_disabled():
            plugin("terminalreporter").write_line("\n" + "\n".join(lines))


@cache
def violation(scenario: str, seed: int) -> str:
    """What a seed breaks with no bug planted: nothing, it is to be hoped."""
    result = run_seed(where(scenario), seed)
    return "" if result.ok else str(result.violation)


def in_scenarios(bug: Bug) -> tuple[list[int], str]:
    """The seeds each trial took, and the last violation; the seeds are clean without the bug."""
    took: list[int] = []
    words = ""
    for trial in range(TRIALS):
        first = 1 + trial * APART
        with bug.plant():
            seeds, words = hunt(bug.scenario, first, bug.seeds)
        assert seeds, f"{bug.name}: not caught by {bug.seeds} seeds of {bug.scenario} from {first}"
        assert words.startswith(bug.section), f"{bug.name}: caught as {words}"
        took.append(seeds)
        for seed in range(first if TRIALS > 1 else first + seeds - 1, first + seeds):
            assert not violation(bug.scenario, seed), f"seed {seed} fails without a bug"
    return took, words


@pytest.mark.slow
@pytest.mark.contract("SIM-2")
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_found(bug, table, logged_errors):
    """By the ways that are named with it, within the bounds that are."""
    try:
        if bug.scenario:
            took, words = in_scenarios(bug)
            table.append(f"{bug.name}: {median(took):g} seeds of {bug.scenario} {took}: {words}")
        if bug.rules and (TRIALS > 1 or not bug.scenario):
            with bug.plant():
                runs, words = examine(bug.rules)
            assert runs, f"{bug.name}: not caught in {EXAMPLES} runs of the {bug.rules} rules"
            table.append(f"{bug.name}: {runs} runs of the {bug.rules} rules: {words}")
    finally:
        # What the bug did to Deferreds and handlers is not this test's error.
        gc.collect()
        logged_errors.flush()


@pytest.mark.contract("SIM-2")
def test_there_are_enough_bugs():
    """At least 35, some in each family; each has a way to be found, and a reason beside it."""
    assert len(BUGS) >= 35
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    for family in FAMILIES:
        mine = [bug for bug in BUGS if vars(family).get(bug.name) is bug.plant]
        assert len(mine) >= 3
        assert all(bug.plant.__doc__ and (bug.scenario or bug.rules) for bug in mine)

"""What a planted bug is, how it is planted, and how one looks for it.

A bug is a context manager that puts one wrong thing into the product for as long as it is
open. ``hunt`` runs seeds of its scenario until an invariant breaks; where no scenario can
bring about what it needs, a rule machine is run against it instead, and a comment beside the
bug says why.

To add a family of bugs, say of the tables, write ``table_bugs.py`` beside this module:
``FAMILIES`` are the files whose names end so, nothing has to be listed. To add a bug, write
there a generator function that plants it and yields once::

    @bug(scenario="swarm", section="TABLES", rules="join")
    def a_tombstone_is_forgotten():
        '''What was deleted comes back with the next exchange (TBL-4).'''
        with swap(Versions, "bury", lambda self, key, version: None):
            yield

* ``scenario``: one of ``meshsvc sim scenarios``, or a file beside this module for a bug that
  needs something special. ``seeds`` bounds how many of it ``make test`` may try.
* ``section``: what the violation must begin with; leave it out when several may see it first.
* ``rules``: a name in ``MACHINES``; add your rule machine there.

Both ways may be given. ``make test`` takes the first that is; ``MESHSVC_SIM_TRIALS=5`` takes
both, from five first seeds, and prints the medians. A test sees to it that the product itself
passes the seeds in which bugs were found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from rules import bounded

from meshsvc.sim.runner import run_seed

Plant = Callable[[], AbstractContextManager[None]]

SCENARIOS = Path(__file__).parent


@dataclass(frozen=True)
class Bug:
    """``scenario`` is searched for ``seeds`` at most; ``rules`` names a rule machine's test."""

    name: str
    plant: Plant
    scenario: str = ""
    section: str = ""
    rules: str = ""
    seeds: int = 20


BUGS: list[Bug] = []


def bug(**options: Any) -> Callable[[Callable[[], Iterator[None]]], Plant]:
    """Register a generator function as a bug; its name is the bug's."""

    def add(function: Callable[[], Iterator[None]]) -> Plant:
        plant = contextmanager(function)
        BUGS.append(Bug(function.__name__, plant, **options))
        return plant

    return add


@contextmanager
def swap(owner: Any, name: str, value: Any) -> Iterator[Any]:
    """Another value for one attribute (or one key of a dict); yields the right one."""
    if isinstance(owner, dict):
        right = owner[name]
        owner[name] = value
        try:
            yield right
        finally:
            owner[name] = right
        return
    right = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield right
    finally:
        setattr(owner, name, right)


def where(scenario: str) -> str:
    """A scenario by name: one that lies beside this module, or one of meshsvc's."""
    own = SCENARIOS / f"{scenario}.toml"
    return str(own) if own.exists() else scenario


def hunt(scenario: str, first: int, most: int) -> tuple[int, str]:
    """How many seeds from ``first`` on it took, and the violation; (0, "") for none."""
    for number in range(most):
        result = run_seed(where(scenario), first + number)
        if not result.ok:
            return number + 1, str(result.violation)
    return 0, ""


MACHINES = {
    "retry": ("test_rules_retry", "RetryRules"),
    "epoch": ("test_rules_epoch", "NodeRules"),
    "controller": ("test_rules_epoch", "ControllerRules"),
    "handshake": ("test_rules_handshake", "LinkRules"),
    "liveness": ("test_rules_liveness", "WatchRules"),
    "pairing": ("test_rules_pairing", "PairRules"),
    "bus": ("test_rules_bus", "BusRules"),
    "calls": ("test_rules_calls", "CallRules"),
    "kv": ("kv_rules", "KvRules"),
    "watches": ("kv_rules", "WatchRules"),
    "leases": ("kv_rules", "LeaseRules"),
    "journal": ("test_rules_journal", "JournalRules"),
    "discovery": ("test_rules_discovery", "DiscoveryRules"),
}
"""The rule machines by the names that bugs know them by."""

EXAMPLES = 2000
"""Runs of a rule machine until it must have found a bug; the slowest to be found takes 500."""


def examine(rules: str) -> tuple[int, str]:
    """How many runs a rule machine took to break, and how it did; (0, "") when it did not."""
    module, name = MACHINES[rules]
    machine: Any = getattr(import_module(module), name)
    runs = 0

    class Counted(machine):  # type: ignore[misc]
        def __init__(self) -> None:
            nonlocal runs
            runs += 1
            super().__init__()

    how = settings(bounded(EXAMPLES), phases=(Phase.generate,), report_multiple_bugs=False)
    try:
        run_state_machine_as_test(Counted, settings=how)
    except Exception as error:
        # The last run is the one that failed, run once more to be reported.
        words = str(error).partition("\n")[0] or type(error).__name__
        return max(1, runs - 1), words
    return 0, ""

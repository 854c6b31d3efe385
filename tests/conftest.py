"""What every test is held to: nothing logged as an error, nothing left on the reactor.

Fixtures:
    logged_errors: the failures that Twisted logged during the test. Call
        ``logged_errors.flush(*types)`` to take out those the test expects; whatever is
        left when the test ends fails it.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.logger import LogLevel, globalLogPublisher
from twisted.python.failure import Failure

FREEZE_EVERY = 50
"""Tests after which what is still alive is left out of the collections that follow: it only
grows, and was most of the time of a test."""

_TESTS = count(1)

CONTRACTS = Path(__file__).resolve().parent.parent / "docs" / "contracts.md"
CONTRACT_ROW = re.compile(r"^\| ([A-Z]+-\d+) \|")


def contract_ids() -> list[str]:
    """The ids in ``docs/contracts.md``, in its order."""
    lines = CONTRACTS.read_text(encoding="utf-8").splitlines()
    return [found[1] for line in lines if (found := CONTRACT_ROW.match(line))]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test may only name contracts that exist: a misspelt id would count for nothing."""
    known = set(contract_ids())
    for item in items:
        for marker in item.iter_markers("contract"):
            unknown = set(marker.args) - known
            if unknown or not marker.args:
                raise pytest.UsageError(
                    f"{item.nodeid} names contracts {sorted(unknown)} that docs/contracts.md lacks"
                )


class LoggedErrors:
    """A log observer that keeps the failures and critical events of one test."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, event: dict[str, Any]) -> None:
        """Observe one event."""
        if (event.get("log_failure") or event.get("failure")) is not None or event.get(
            "log_level"
        ) is LogLevel.critical:
            self.events.append(event)

    def flush(self, *types: type[BaseException]) -> list[Failure]:
        """Take out the failures of these exception types, of all types when none are given."""
        taken, kept = [], []
        for event in self.events:
            failure = event.get("log_failure") or event.get("failure")
            expected = not types or (failure is not None and failure.check(*types))
            (taken if expected else kept).append(event)
        self.events = kept
        return [
            (event.get("log_failure") or event.get("failure"))
            for event in taken
            if (event.get("log_failure") or event.get("failure"))
        ]

    def texts(self) -> list[str]:
        """One line or traceback for each event that is left."""
        return [
            (event.get("log_failure") or event.get("failure")).getTraceback()
            if (event.get("log_failure") or event.get("failure")) is not None
            else str(event.get("log_format") or event.get("log_text"))
            for event in self.events
        ]


@pytest.fixture(scope="session", autouse=True)
def _quick_collections() -> Iterator[None]:
    # Takes what is imported out of the collections below, which run after each test.
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def logged_errors() -> Iterator[LoggedErrors]:
    """Fails the test when Twisted logged an error that the test did not flush."""
    errors = LoggedErrors()
    globalLogPublisher.addObserver(errors)
    yield errors
    # An unhandled error in a Deferred is logged when the Deferred is collected.
    gc.collect()
    if not next(_TESTS) % FREEZE_EVERY:
        gc.freeze()
    globalLogPublisher.removeObserver(errors)
    left = errors.texts()
    if left:
        pytest.fail("errors were logged and not flushed:\n" + "\n".join(left), pytrace=False)


@pytest.fixture(autouse=True)
def _no_delayed_calls_left() -> Iterator[None]:
    """Fails the test when it leaves a timer on the reactor."""
    before = set(map(id, reactor.getDelayedCalls()))
    yield
    left = [call for call in reactor.getDelayedCalls() if id(call) not in before]
    for call in left:
        call.cancel()
    if left:
        pytest.fail("delayed calls were left:\n" + "\n".join(map(str, left)), pytrace=False)

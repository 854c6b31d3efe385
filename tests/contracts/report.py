"""A pytest plugin: which promises of ``docs/contracts.md`` have a test, and how it went.

Run as ``make contracts``. An id is *kept* when all its tests passed, *partly* when some were
skipped, *skipped* when all were, *broken* when one failed, *none* when no test names it.
``make contracts WRITE=1`` also writes the last column of the table.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

TABLE = Path(__file__).resolve().parents[2] / "docs" / "contracts.md"
ROW = re.compile(r"^\| (?P<id>[A-Z]+-\d+) \| (?P<promise>.*?) \| (?P<state>[^|]*) \|$")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--contracts`` prints the table, ``--contracts-write`` updates the document too."""
    group = parser.getgroup("contracts")
    group.addoption("--contracts", action="store_true", help="print each contract's state")
    group.addoption("--contracts-write", action="store_true", help="update docs/contracts.md")


def pytest_configure(config: pytest.Config) -> None:
    """Register the recorder when it is wanted."""
    if config.getoption("--contracts"):
        config.pluginmanager.register(Recorder(config.getoption("--contracts-write")))


class Recorder:
    """Counts outcomes for each id named by a ``contract`` marker."""

    def __init__(self, write: bool) -> None:
        self._write = write
        self._ids: dict[str, tuple[str, ...]] = {}
        self._outcomes: dict[str, Counter[str]] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Keep only tests that name a contract; the others have nothing to report."""
        chosen, others = [], []
        for item in items:
            ids = [str(name) for mark in item.iter_markers("contract") for name in mark.args]
            self._ids[item.nodeid] = tuple(dict.fromkeys(ids))
            (chosen if ids else others).append(item)
        config.hook.pytest_deselected(items=others)
        items[:] = chosen

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test counts once: by its call, or by what ended it before or after."""
        if report.when == "call" or report.outcome != "passed":
            for name in self._ids.get(report.nodeid, ()):
                self._outcomes.setdefault(name, Counter())[report.outcome] += 1

    def state(self, name: str) -> str:
        """The one word for an id."""
        counts = self._outcomes.get(name, Counter())
        if counts["failed"]:
            return "broken"
        if not counts["passed"]:
            return "skipped" if counts["skipped"] else "none"
        return "partly" if counts["skipped"] else "kept"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table, and the sums."""
        sums: Counter[str] = Counter()
        lines = TABLE.read_text(encoding="utf-8").splitlines()
        terminalreporter.section("contracts")
        for number, line in enumerate(lines):
            row = ROW.match(line)
            if not row:
                continue
            name, state = row["id"], self.state(row["id"])
            sums[state] += 1
            tests = self._outcomes.get(name, Counter()).total()
            short = row["promise"] if len(row["promise"]) <= 70 else row["promise"][:67] + "..."
            terminalreporter.write_line(f"{name:8} {state:8} {tests:4}  {short}")
            lines[number] = f"| {name} | {row['promise']} | {state} |"
        counts = ", ".join(f"{count} {state}" for state, count in sums.most_common())
        terminalreporter.write_line(f"\n{sums.total()} contracts: {counts}")
        if self._write:
            TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")

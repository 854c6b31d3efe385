"""Fixtures for tests with real processes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Tests are imported by path, so what they share has to be found by name.
sys.path.insert(0, str(Path(__file__).parent))

from running_node import RunningNode


@pytest.fixture
def make_node(tmp_path):
    """Build nodes in a directory of the test; every process of theirs is ended after it."""
    made = []

    def make(name="n", **kwargs):
        base = tmp_path / f"{name}{len(made)}"
        base.mkdir()
        made.append(RunningNode(base, **kwargs))
        return made[-1]

    yield make
    for node in made:
        node.stop()

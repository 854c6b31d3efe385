"""Bugs planted in the Raft core are found by the fuzz: it looks at what matters."""

from __future__ import annotations

import pytest
from raft_bugs import BUGS, hunt

FIRST = {"the_lease_goes_on_while_leadership_is_handed_over": 400}
"""Where to begin to look for those that are rare; ``raft_bugs.py`` tells how rare."""


@pytest.mark.contract("RAFT-2", "SIM-2")
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name, record_property):
    """Some seed breaks a promise."""
    seeds, violation = hunt(name, FIRST.get(name, 0))
    record_property("seeds", seeds)
    assert violation, f"{name} was not found"

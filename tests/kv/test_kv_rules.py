"""The store keeps its promises under any order of what can happen to it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from kv_rules import KvRules, LeaseRules, WatchRules

QUICK = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.contract("KV-1", "KV-4")
def test_a_replica_is_what_the_model_is():
    """Answers, compactions and snapshots, in any order."""
    run_state_machine_as_test(KvRules, settings=QUICK)


@pytest.mark.contract("KV-2")
def test_watches_hear_all_there_is():
    """With sinks that are full at times, and others coming and going."""
    run_state_machine_as_test(WatchRules, settings=QUICK)


@pytest.mark.contract("KV-3")
def test_no_lease_ends_early():
    """Whoever leads, and however late what a leader proposed comes to the log."""
    run_state_machine_as_test(LeaseRules, settings=QUICK)

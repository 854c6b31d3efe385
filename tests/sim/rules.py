"""How every rule-based test of this directory runs: the same steps each time, in seconds."""

from __future__ import annotations

from hypothesis import HealthCheck, settings


def bounded(examples: int, steps: int = 40) -> settings:
    """Settings of one machine: ``examples`` runs of ``steps`` rules, the same in every run."""
    return settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=examples,
        stateful_step_count=steps,
        suppress_health_check=list(HealthCheck),
    )

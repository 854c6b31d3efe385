"""How every rule-based test of this directory runs: the same steps each time, in seconds."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider

BACKEND = "meshsvc-rules"


class Plain(HypothesisProvider):
    """Draws as Hypothesis does, without the constants that it collects from loaded modules.

    With them another module somewhere in the project is another run of every machine, and a
    bug that was found in 300 runs is found in 500.
    """

    def _maybe_draw_constant(self, *args: Any, **kw: Any) -> None:
        return None


assert hasattr(HypothesisProvider, "_maybe_draw_constant"), "Hypothesis draws constants elsewhere"
AVAILABLE_PROVIDERS[BACKEND] = Plain


def bounded(examples: int, steps: int = 40) -> settings:
    """Settings of one machine: ``examples`` runs of ``steps`` rules, the same in every run."""
    return settings(
        backend=BACKEND,
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=examples,
        stateful_step_count=steps,
        suppress_health_check=list(HealthCheck),
    )

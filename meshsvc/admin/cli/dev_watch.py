"""What a local cluster lacks until it is formed. Pure: works on what the nodes answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answers:
    """What one node said of itself, of the others and of the mesh."""

    status: Row
    members: Sequence[Row]
    mesh: Row


def lacking(answers: Mapping[str, Answers | None]) -> dict[str, str]:
    """What each node still lacks, in a few words; empty when the cluster is formed."""
    found: dict[str, str] = {}
    for name, answer in answers.items():
        others = [other for other in answers if other != name]
        missing = "no answer yet" if answer is None else _lacking_one(answer, others)
        if missing:
            found[name] = missing
    epochs = {answer.mesh.get("epoch") for answer in answers.values() if answer is not None}
    if not found and len(epochs) > 1:
        found = {name: f"epochs differ: {', '.join(map(str, epochs))}" for name in answers}
    return found


def _lacking_one(answer: Answers, others: Sequence[str]) -> str:
    alive = {row.get("name") for row in answer.members if row.get("status") == "alive"}
    seen = sum(other in alive for other in others)
    if seen < len(others):
        return f"sees {seen} of {len(others)} others"
    epoch, state = answer.mesh.get("epoch"), answer.mesh.get("state")
    if state != "formed":
        return f"mesh {state}"
    linked = {
        row.get("peer")
        for row in answer.mesh.get("links", ())
        if row.get("state") == "up" and row.get("epoch") == epoch
    }
    up = sum(other in linked for other in others)
    if up < len(others):
        return f"{up} of {len(others)} links"
    if not answer.status.get("ready", True):
        return "; ".join(map(str, answer.status.get("reasons", ()))) or "not ready"
    return ""


def restart_delay(starts: Sequence[float], now: float) -> float:
    """Seconds to wait before a node that ended is started again.

    ``starts`` are the times of its earlier starts. One that lived for half a minute starts
    at once; one that does not waits twice as long each time, up to 10 s
    from its last start.
    """
    recent = sum(now - start < 30.0 for start in starts)
    if recent <= 1:
        return 0.0
    return max(0.0, starts[-1] + min(10.0, 0.5 * 2.0 ** min(recent - 2, 8)) - now)

"""The life of one endpoint: every state against every fact."""

from __future__ import annotations

import pytest

from meshsvc.gossip.liveness import Life, Liveness, LivenessMachine, Said
from meshsvc.gossip.members import Status

J, A, S, D, L, R = (
    *(Status.JOINING, Status.ALIVE, Status.SUSPECT),
    *(Status.DEAD, Status.LEFT, Status.REMOVED),
)
FACTS = (
    *("learned", "echoed", "vouched", "probe_failed", "refuted"),
    *("expired", "restarted", "shut_down", "removed"),
)
WAYS: dict[str, tuple[str, ...]] = {
    "unknown": (),
    "echoing": ("learned",),
    "alive": ("learned", "echoed"),
    "suspect": ("learned", "echoed", "probe_failed"),
    "dead": ("learned", "echoed", "probe_failed", "expired"),
    "left": ("learned", "echoed", "shut_down"),
    "removed": ("learned", "echoed", "removed"),
}
PROBE, ALIVE = (Said.PROBE,), (Said.ALIVE,)
ANEW = (Said.RESTARTED, Said.PROBE)
LEFT, REMOVED = (L, (Said.LEFT,)), (R, (Said.REMOVED,))
TABLE: dict[str, list[tuple[Status, tuple[Said, ...]]]] = {
    "unknown": [(J, PROBE), (J, ()), (J, ()), (J, ()), (J, ()), (J, ()), (J, ()), LEFT, REMOVED],
    "echoing": [
        *[(J, PROBE), (A, (Said.JOINED,)), (J, ()), (J, ()), (J, ())],
        *[(D, (Said.DEAD,)), (J, ANEW), LEFT, REMOVED],
    ],
    "alive": [
        *[(A, ()), (A, ()), (A, ()), (S, (Said.SUSPECT,)), (A, ())],
        *[(A, ()), (J, ANEW), LEFT, REMOVED],
    ],
    "suspect": [
        *[(S, ()), (A, ALIVE), (A, ALIVE), (S, ()), (A, ALIVE)],
        *[(D, (Said.DEAD,)), (J, ANEW), LEFT, REMOVED],
    ],
    "dead": [
        *[(D, PROBE), (A, ALIVE), (D, ()), (D, ()), (D, ())],
        *[(D, ()), (J, ANEW), LEFT, REMOVED],
    ],
    "left": [*[(L, ())] * 6, (J, ANEW), (L, ()), REMOVED],
    "removed": [(R, ())] * 9,
}


def brought_to(state: str) -> tuple[Life, Liveness]:
    life = Life()
    machine = LivenessMachine(life)
    for fact in WAYS[state]:
        getattr(machine, fact)()
    life.said.clear()
    return life, machine


@pytest.mark.parametrize("state", WAYS)
@pytest.mark.parametrize("fact", FACTS)
def test_every_fact_in_every_state(state: str, fact: str) -> None:
    """Status and what is said are those of the table."""
    life, machine = brought_to(state)
    getattr(machine, fact)()
    assert (life.status, tuple(life.said)) == TABLE[state][FACTS.index(fact)]


@pytest.mark.contract("GSP-5")
def test_a_second_life_joins_again() -> None:
    """After a restart the first echo says Joined, a later recovery says Alive."""
    life, machine = brought_to("dead")
    for fact in ("restarted", "echoed", "probe_failed", "echoed"):
        getattr(machine, fact)()
    assert life.said == [Said.RESTARTED, Said.PROBE, Said.JOINED, Said.SUSPECT, Said.ALIVE]


@pytest.mark.contract("GSP-5")
def test_what_others_say_proves_no_newcomer() -> None:
    """Vouching, refuting and news leave a node that never echoed unproven."""
    life, machine = brought_to("echoing")
    for fact in ("vouched", "refuted", "learned", "probe_failed"):
        getattr(machine, fact)()
    assert life.status is Status.JOINING
    assert not life.announced

"""Pairing: of duplicate links exactly one stays, the same on both ends (LINK-6)."""

from __future__ import annotations

from itertools import permutations, product

import pytest

from meshsvc.link.pairing import (
    Adopt,
    Candidate,
    Gone,
    LinkKey,
    Pairing,
    Retire,
    Switch,
    survivor,
)
from meshsvc.model import Incarnation, NodeId

A, B = NodeId("a" * 32), NodeId("b" * 32)
BY_A1, BY_A2 = LinkKey(A, B, 1), LinkKey(A, B, 2)
BY_B1, BY_B2 = LinkKey(B, A, 5), LinkKey(B, A, 6)


def link(key: LinkKey, incarnation: int = 1) -> Candidate[LinkKey]:
    return Candidate(key, Incarnation(incarnation), key, proven=False)


@pytest.mark.contract("LINK-6")
def test_the_survivor_does_not_depend_on_the_order() -> None:
    """survivor is symmetric, and of three it is the same whichever two meet first."""
    keys = (BY_A1, BY_A2, BY_B1, BY_B2)
    for a, b in product(keys, repeat=2):
        assert survivor(a, b) == survivor(b, a)
    winners = {survivor(survivor(a, b), c) for a, b, c in permutations((BY_A1, BY_A2, BY_B1))}
    assert winners == {BY_A2}


def test_the_smaller_dialer_and_the_later_dial_win() -> None:
    """Across dialers the smaller node id wins, whatever the counts; else the later dial."""
    assert survivor(BY_A1, BY_B2) == BY_A1
    assert survivor(BY_B1, BY_B2) == BY_B2


def test_a_better_link_takes_over_only_when_proven() -> None:
    """An unproven better link waits; its proof switches and retires the worse one."""
    pairing: Pairing[LinkKey] = Pairing()
    assert pairing.up(link(BY_B1)) == [Adopt(BY_B1)]
    assert pairing.up(link(BY_A1)) == []
    assert pairing.proven(BY_A1) == [
        Switch(BY_B1, BY_A1),
        Retire(BY_B1, "duplicate", crossed=True),
    ]


def test_a_worse_link_is_retired_when_the_better_is_proven() -> None:
    """A worse link that comes up behind a proven one goes; behind an unproven one it waits."""
    pairing: Pairing[LinkKey] = Pairing()
    pairing.up(link(BY_A1))
    assert pairing.up(link(BY_B1)) == []
    assert pairing.proven(BY_A1) == [Retire(BY_B1, "duplicate", crossed=True)]
    assert pairing.up(link(BY_B2)) == [Retire(BY_B2, "duplicate", crossed=True)]


def test_the_spare_takes_over_from_a_lost_link() -> None:
    """While another link is up, the end of the current one is no end."""
    pairing: Pairing[LinkKey] = Pairing()
    pairing.up(link(BY_A1))
    pairing.up(link(BY_B1))
    assert pairing.ended(BY_A1) == [Switch(BY_A1, BY_B1)]
    assert pairing.ended(BY_B1) == [Gone()]
    assert pairing.ended(BY_B1) == []


def test_a_redial_replaces_the_link_it_lost() -> None:
    """Of one dialer's links the later replaces the earlier, and nothing crossed."""
    pairing: Pairing[LinkKey] = Pairing()
    pairing.up(link(BY_A1))
    pairing.proven(BY_A1)
    pairing.up(link(BY_A2))
    assert pairing.proven(BY_A2) == [
        Switch(BY_A1, BY_A2),
        Retire(BY_A1, "duplicate", crossed=False),
    ]


@pytest.mark.contract("MESH-7")
def test_the_later_life_wins_at_once() -> None:
    """A later incarnation ends the earlier one; an earlier one is retired by name."""
    pairing: Pairing[LinkKey] = Pairing()
    pairing.up(link(BY_A1, incarnation=1))
    assert pairing.up(link(BY_B1, incarnation=2)) == [
        Gone(restarted=True),
        Retire(BY_A1, "restarted"),
        Adopt(BY_B1),
    ]
    assert pairing.up(link(BY_A2, incarnation=1)) == [Retire(BY_A2, "stale-incarnation")]


@pytest.mark.contract("LINK-6")
@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_order_of_ups_and_proofs_leaves_the_same_one(count: int) -> None:
    """However ups and proofs are interleaved, the best link is left and all others retired."""
    keys = (BY_B1, BY_A1, BY_B2, BY_A2)[:count]
    best = keys[0]
    for key in keys:
        best = survivor(best, key)
    facts = [(kind, key) for key in keys for kind in ("up", "proven")]
    orders = permutations(facts) if count < 4 else _some(facts)
    for order in orders:
        if any(order.index(("up", key)) > order.index(("proven", key)) for key in keys):
            continue
        assert _left_after(list(order)) == {best}


def _some(facts: list[tuple[str, LinkKey]]) -> list[tuple[tuple[str, LinkKey], ...]]:
    return [tuple(facts[n:] + facts[:n][::step]) for n in range(8) for step in (1, -1)]


def _left_after(order: list[tuple[str, LinkKey]]) -> set[LinkKey]:
    pairing: Pairing[LinkKey] = Pairing()
    retired: set[LinkKey] = set()
    for kind, key in order:
        decisions = pairing.up(link(key)) if kind == "up" else pairing.proven(key)
        retired |= {each.handle for each in decisions if isinstance(each, Retire)}
        assert pairing.current is not None
        assert pairing.current.key not in retired
    return {each.key for each in pairing.all()}

"""Delivery of one CreateMesh: repeated until acknowledged, one ask in flight a member."""

from __future__ import annotations

import pytest
from mesh_net import nodes

from meshsvc.mesh.delivery import BEHIND_S, Delivery, resend_after
from meshsvc.model import Epoch, Roster

ROSTER = Roster(Epoch(1, 1), nodes(3))
A, B, C = (member.node_id for member in ROSTER.members)


def started():
    delivery = Delivery()
    delivery.start(ROSTER, 10.0)
    return delivery


def test_every_member_is_due_at_once_and_once():
    """All members are sent to, and nobody again while an ask is in flight."""
    delivery = started()
    assert delivery.deadline() == 10.0
    assert delivery.due(10.0) == [A, B, C]
    assert delivery.due(99.0) == []
    assert delivery.deadline() is None


def test_a_failure_is_repeated_with_bounded_backoff():
    """0.1 s doubling to 2 s, without end."""
    delivery = started()
    now, waits = 10.0, []
    for _ in range(8):
        assert A in delivery.due(now)
        delivery.failed(A, now)
        waits.append(round(delivery.deadline() - now, 3))
        now = delivery.deadline()
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert resend_after(10**6) == 2.0


def test_the_last_acknowledgement_is_told_once():
    """Who is missing is known; the last to accept completes it, repeats do not again."""
    delivery = started()
    delivery.due(10.0)
    assert not delivery.acked(A, 10.1)
    assert not delivery.acked(B, 10.1)
    assert delivery.missing == (C,)
    assert delivery.acked(C, 10.1)
    assert delivery.done
    assert not delivery.acked(C, 10.2)
    assert delivery.deadline() is None


def test_a_member_shown_behind_is_asked_again_until_it_is_not():
    """A repeat every 3 s while gossip shows an older epoch, none once it has caught up."""
    delivery = started()
    delivery.due(10.0)
    for node in (A, B, C):
        delivery.acked(node, 10.0)
    delivery.shown(B, True, 20.0)
    delivery.shown(B, True, 21.0)
    assert delivery.deadline() == 20.0 + BEHIND_S
    assert delivery.due(23.0) == [B]
    delivery.shown(B, True, 23.1)
    assert delivery.deadline() is None
    delivery.acked(B, 23.2)
    assert delivery.deadline() == pytest.approx(23.2 + BEHIND_S)
    delivery.shown(B, False, 24.0)
    assert delivery.deadline() is None


def test_strangers_and_the_superseded_do_not_count():
    """Answers of nodes not in the roster, or after the end, change nothing."""
    delivery = started()
    delivery.clear()
    assert not delivery.acked(A, 11.0)
    delivery.failed(A, 11.0)
    delivery.shown(A, True, 11.0)
    assert delivery.deadline() is None
    assert delivery.due(99.0) == []

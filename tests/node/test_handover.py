"""Whose turn it is, and what is on the way."""

from __future__ import annotations

import random

import pytest

from meshsvc.model import ShardId
from meshsvc.node.handover import CAP, LATE_S, Handover
from meshsvc.node.strangers import Strangers


def handover(*shards, **kwargs):
    made = Handover(**kwargs)
    for shard in shards:
        made.join("client", ShardId(shard))
    return made


def give(made, now=0.0):
    """One connection: the shard that got it and its number."""
    shard = made.choose("client", now)
    return shard, made.sent(shard, now)


@pytest.mark.contract("SHD-3")
@pytest.mark.parametrize("shards", [1, 2, 3, 4, 7])
def test_shares_differ_by_one_whatever_the_order_of_acks(shards):
    """100 connections are spread within one, also when acks come in any order."""
    made, rng, pending = handover(*range(shards)), random.Random(1), []
    counts = dict.fromkeys(range(shards), 0)
    for _ in range(100):
        pending.append(give(made))
        counts[pending[-1][0]] += 1
        while pending and rng.random() < 0.6:
            assert made.settled(*pending.pop(rng.randrange(len(pending))))
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.contract("SHD-3")
def test_full_shard_is_passed_over():
    """A shard that takes nothing gets its cap, then others get all."""
    made = handover(0, 1)
    for _ in range(1000):
        shard, seq = give(made)
        if shard == 0:
            made.settled(shard, seq)
    assert made.on_way(ShardId(1)) == CAP
    assert not made.has_room(ShardId(1))


def test_nobody_free_means_none():
    """With all full there is no choice; one settled connection makes room for one."""
    made = handover(0, 1, cap=1)
    (first, seq), _ = give(made), give(made)
    assert made.choose("client", 0.0) is None
    assert made.settled(first, seq)
    assert give(made)[0] == first
    assert made.choose("client", 0.0) is None


def test_late_shard_waits_while_another_serves():
    """A shard whose oldest connection is overdue is used only when no other has room."""
    made = handover(0, 1, cap=2)
    assert give(made, 0.0)[0] == 0
    made.settled(*give(made, 0.0))
    late = LATE_S + 0.1
    assert [give(made, late)[0] for _ in range(3)] == [1, 1, 0]


def test_crowded_means_worth_waiting_for():
    """All full is crowded while one of them is quick; stuck shards are not waited for."""
    made = handover(0, 1, cap=1)
    assert not made.crowded("client", 0.0)
    give(made, 0.0)
    assert not made.crowded("client", 0.0)
    give(made, 1.0)
    assert made.crowded("client", LATE_S + 0.5)
    assert not made.crowded("client", 1.0 + LATE_S + 0.5)
    assert not made.crowded("unknown", 0.0)


def test_return_is_not_flooded():
    """A shard that comes back takes turns, it does not catch up."""
    made = handover(0, 1)
    made.leave(ShardId(1))
    for _ in range(50):
        made.settled(*give(made))
    made.join("client", ShardId(1))
    assert [give(made)[0] for _ in range(4)] == [1, 0, 1, 0]


def test_leaving_forgets_what_was_on_the_way():
    """After the end of a process its late acks are told apart."""
    made = handover(0)
    shard, seq = give(made)
    made.leave(shard)
    assert not made.settled(shard, seq)
    assert (made.wanted("client"), made.choose("client", 0.0)) == (False, None)
    assert made.choose("unknown", 0.0) is None


def test_joining_twice_is_joining_once():
    """A shard that asks again gets no second turn."""
    made = handover(0, 1, 0)
    assert [give(made)[0] for _ in range(4)] == [0, 1, 0, 1]
    assert made.listens("client", ShardId(1))
    assert not made.listens("client", ShardId(2))


class TestStrangers:
    """Connections that have not said who they are."""

    @pytest.mark.contract("LINK-1")
    def test_oldest_makes_room(self):
        """At the bound the one that waits longest is cut for the newcomer."""
        strangers = Strangers(most=2, patience_s=5.0)
        assert [strangers.add(name, at) for at, name in enumerate("abcd")] == [None, None, "a", "b"]
        assert strangers.take_all() == ["c", "d"]
        assert strangers.deadline() is None

    @pytest.mark.contract("LINK-1")
    def test_patience_ends(self):
        """Who is silent for the whole time is cut; who spoke is not."""
        strangers = Strangers(most=10, patience_s=5.0)
        for at, name in enumerate("abc"):
            strangers.add(name, float(at))
        strangers.remove("b")
        strangers.remove("unknown")
        assert strangers.deadline() == 5.0
        assert strangers.take_expired(4.9) == []
        assert strangers.take_expired(5.0) == ["a"]
        assert strangers.take_expired(100.0) == ["c"]

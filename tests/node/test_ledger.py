"""Counters across lives: monotone, bounded, and not confused by late reports."""

from __future__ import annotations

import pytest

from meshsvc.counters import Counters
from meshsvc.model import ShardId
from meshsvc.node.beats import BeatWatch
from meshsvc.node.ledger import MAX_SERIES, CounterLedger
from meshsvc.node.reports import ROWS_PER_MESSAGE, SUPERVISOR, node_counters
from meshsvc.wire.registry import Role, decode_message, encode_message

S1 = ShardId(1)


def rows(**totals):
    counters = Counters()
    for name, value in totals.items():
        counters.add(name, value, reason="full")
    return counters.snapshot()


def value(ledger, name, shard=S1):
    found = [row[3] for row in ledger.rows(shard) if row[1] == name]
    return found[0] if found else None


@pytest.mark.contract("SHD-10")
def test_lives_add_up():
    """The total of a restarted shard is what its lives counted together."""
    ledger = CounterLedger()
    ledger.report(S1, 1, rows(a=3))
    ledger.report(S1, 1, rows(a=5))
    ledger.ended(S1)
    assert value(ledger, "a") == 5
    ledger.report(S1, 2, rows(b=1))
    assert (value(ledger, "a"), value(ledger, "b")) == (5, 1)
    ledger.report(S1, 2, rows(a=2, b=1))
    ledger.ended(S1)
    ledger.report(S1, 3, rows(a=1))
    assert value(ledger, "a") == 8


@pytest.mark.contract("SHD-10")
def test_late_report_of_a_dead_life_counts_nothing():
    """A report of a life that ended, or of an older one, changes no total."""
    ledger = CounterLedger()
    ledger.report(S1, 1, rows(a=3))
    ledger.ended(S1)
    ledger.report(S1, 1, rows(a=4))
    assert value(ledger, "a") == 3
    ledger.report(S1, 2, rows(a=1))
    ledger.report(S1, 1, rows(a=100))
    assert value(ledger, "a") == 4


def test_newer_life_ends_the_older():
    """A report of a later life settles the earlier one, if nobody said that it ended."""
    ledger = CounterLedger()
    ledger.report(S1, 1, rows(a=3))
    ledger.report(S1, 2, rows(a=1))
    assert value(ledger, "a") == 4


def test_histograms_add_up_and_gauges_do_not():
    """Histograms are sums over lives, a gauge is that of the life that runs."""
    counters = Counters()
    counters.gauge("g", 7)
    counters.histogram("h").observe(0.002)
    ledger = CounterLedger()
    ledger.report(S1, 1, counters.snapshot())
    ledger.ended(S1)
    assert value(ledger, "g") is None
    counters.gauge("g", 8)
    ledger.report(S1, 2, counters.snapshot())
    assert value(ledger, "g") == 8
    buckets, count, total = value(ledger, "h")
    assert (sum(buckets), count, total) == (2, 2, 0.004)


def test_rows_of_an_unknown_shape_are_left_out():
    """What cannot be added up is dropped row by row, and series are bounded."""
    bad = [
        None,
        [],
        ["c"],
        ["c", "x", 5, 1],
        ["z", "x", [], 1],
        ["c", "x", [], "1"],
        ["h", "x", [], [1]],
    ]
    ledger = CounterLedger()
    ledger.report(S1, 1, [*bad, *rows(a=1)])
    assert [row[1] for row in ledger.rows(S1)] == ["a"]
    ledger.report(S1, 1, [["c", f"n{i}", [], 1] for i in range(2 * MAX_SERIES)])
    assert len(ledger.rows(S1)) == MAX_SERIES


def test_reports_fit_into_frames():
    """Counters of many shards go out in several messages that each can be sent and read."""
    ledger = CounterLedger()
    for shard in range(5):
        ledger.report(ShardId(shard), 1, [["c", f"n{i}", [], i] for i in range(1000)])
    sent = list(node_counters(ledger, rows(own=1)))
    assert len(sent) == 3
    seen = {}
    for message in sent:
        read = decode_message(encode_message(message), Role.SUPERVISOR)
        assert sum(len(counted) for _, counted in read.rows) <= ROWS_PER_MESSAGE + 1
        seen.update((shard, counted) for shard, counted in read.rows)
    assert seen[SUPERVISOR][0][1] == "own"
    assert {shard: len(counted) for shard, counted in seen.items() if shard >= 0} == dict.fromkeys(
        range(5), 1000
    )


class TestBeats:
    """Silence is counted in ticks of the supervisor."""

    @pytest.mark.contract("SHD-8")
    def test_silence_is_found_after_the_limit(self):
        """A shard is named once more ticks passed than the time-out has, and again until told."""
        watch = BeatWatch(3.0)
        watch.watch(S1)
        assert [watch.tick() for _ in range(5)] == [[], [], [], [S1], [S1]]
        watch.forget(S1)
        assert watch.tick() == []

    def test_a_beat_starts_the_count_anew(self):
        """A shard that beats is never named; others are not covered by its beats."""
        watch = BeatWatch(2.0)
        watch.watch(S1)
        watch.watch(ShardId(2))
        named = []
        for _ in range(4):
            watch.beat(S1)
            watch.beat(ShardId(9))  # not watched: ignored
            named += watch.tick()
        assert set(named) == {2}
        assert not watch.all_beat

    def test_all_beat_allows_for_jitter(self):
        """A beat that just misses two ticks is no reason to alarm systemd."""
        watch = BeatWatch(10.0)
        watch.watch(S1)
        assert [watch.tick() or watch.all_beat for _ in range(3)] == [True, True, False]
        watch.beat(S1)
        assert watch.all_beat

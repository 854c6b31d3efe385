"""Probes, time-outs, suspicions and a node's doubts about itself."""

from __future__ import annotations

import random

import pytest

from meshsvc.gossip.detector import NO, Detector, Outcome, Result
from meshsvc.gossip.effects import Echo, EchoVia
from meshsvc.gossip.health import TIMEOUT_FLOOR_S, LocalHealth, RoundTrip
from meshsvc.gossip.members import Status
from meshsvc.gossip.rotation import Rotation
from meshsvc.gossip.settings import Settings
from meshsvc.gossip.suspicion import REPROBE_S, Suspicions
from meshsvc.gossip.watch import Watch
from meshsvc.model import NodeId

X, H1, H2, H3 = (NodeId(letter * 32) for letter in "a123")


class Bench:
    """A detector with helpers, and its last effects."""

    def __init__(self, helpers: list[NodeId]) -> None:
        self.health = LocalHealth()
        self.core = Detector(1.0, self.health, lambda but, count: helpers[:count])
        self.out: list[Echo | EchoVia] = []
        self.outcomes: list[Outcome] = []

    def take(self) -> None:
        self.out, self.outcomes = self.core.take()

    def probe(self, now: float, direct_only: bool = False) -> None:
        self.core.probe(X, 7, now, direct_only=direct_only)
        self.take()

    def tick(self, now: float) -> None:
        self.core.tick(now)
        self.take()

    def done(self, answer: int | None, now: float, which: int = 0) -> None:
        token = self.out[which].token
        kept = self.out
        self.core.echo_done(token, answer, now)
        self.take()
        self.out = self.out or kept


@pytest.mark.contract("GSP-7")
def test_an_answered_echo_ends_the_probe_and_is_measured() -> None:
    """Echo, answer, round trip; nobody else is asked."""
    bench = Bench([H1])
    bench.probe(10.0)
    assert bench.out == [Echo(X, 1, 1.0)]
    bench.done(7, 10.03)
    assert bench.outcomes == [(X, 7, Result.ECHOED)]
    assert bench.core.rtt_ms(X) == pytest.approx(30)
    assert bench.core.deadline() is None


@pytest.mark.contract("GSP-7")
def test_three_others_are_asked_at_once_and_one_yes_is_enough() -> None:
    """A failed direct echo leads to three indirect ones in parallel."""
    bench = Bench([H1, H2, H3])
    bench.probe(0.0)
    bench.done(None, 0.001)
    assert [(e.helper, e.target) for e in bench.out if isinstance(e, EchoVia)] == [
        (H1, X),
        (H2, X),
        (H3, X),
    ]
    bench.done(NO, 0.002, 0)
    bench.done(7, 0.003, 1)
    assert bench.outcomes == [(X, 7, Result.VOUCHED)]


@pytest.mark.contract("GSP-7")
def test_all_noes_fail_the_probe_without_waiting() -> None:
    """When every helper says no, the probe has failed at once."""
    bench = Bench([H1, H2, H3])
    bench.probe(0.0)
    bench.done(None, 0.001)
    for which in range(3):
        bench.done(NO, 0.002, which)
    assert bench.outcomes == [(X, 7, Result.FAILED)]
    assert bench.health.score == 0


@pytest.mark.contract("GSP-8")
def test_silent_helpers_make_the_node_doubt_itself() -> None:
    """If neither the node nor any helper answers, the score rises."""
    bench = Bench([H1, H2])
    bench.probe(0.0)
    bench.tick(1.0)
    bench.tick(2.0)
    assert bench.outcomes == [(X, 7, Result.FAILED)]
    assert bench.health.score == 1


def test_a_node_that_must_prove_itself_is_not_vouched_for() -> None:
    """A direct-only probe asks nobody else."""
    bench = Bench([H1])
    bench.probe(0.0, direct_only=True)
    bench.done(0, 0.1)
    assert bench.outcomes == [(X, 7, Result.FAILED)]


def test_the_answer_of_another_life_is_no_answer() -> None:
    """A later life is reported as such, an earlier one has failed."""
    for answer, result in ((8, Result.NEWER), (6, Result.FAILED)):
        bench = Bench([])
        bench.probe(0.0)
        bench.done(answer, 0.1)
        assert bench.outcomes == [(X, 7, result)]


@pytest.mark.contract("GSP-8")
def test_a_failure_right_after_a_stall_is_not_counted() -> None:
    """The probe starts over; only a failure in good health counts."""
    bench = Bench([])
    bench.probe(0.0)
    bench.health.lagged(5.0, 6.0)
    bench.core.stalled(5.0, 6.0)
    bench.done(None, 6.0)
    assert bench.outcomes == []
    bench.tick(6.25)
    assert bench.out == [Echo(X, 2, 3.0)]
    bench.done(None, 7.5)
    assert bench.outcomes == [(X, 7, Result.FAILED)]


@pytest.mark.contract("GSP-8")
def test_a_stall_gives_probes_their_whole_time_again() -> None:
    """A deadline that passed during a stall is moved past its end by the full time-out."""
    bench = Bench([])
    bench.probe(0.0)
    bench.core.stalled(4.0, 5.0)
    assert bench.core.deadline() == 6.0


def test_a_second_probe_of_the_same_life_is_not_started() -> None:
    """One probe a node; a later life replaces the probe of the earlier one."""
    bench = Bench([])
    bench.probe(0.0)
    bench.probe(0.1)
    assert bench.out == []
    bench.core.probe(X, 8, 0.2, direct_only=False)
    bench.take()
    assert [e.token for e in bench.out] == [2]
    bench.core.echo_done(1, 7, 0.3)
    bench.take()
    assert bench.outcomes == []


@pytest.mark.contract("GSP-7")
def test_time_outs_adapt_between_a_floor_and_a_cap() -> None:
    """200 ms at least, the cap at most, in between what was measured; lag stretches them."""
    trip = RoundTrip()
    assert trip.timeout_s(1.0, 1) == 1.0
    for _ in range(20):
        trip.sample(0.001)
    assert trip.timeout_s(1.0, 1) == TIMEOUT_FLOOR_S
    assert trip.timeout_s(1.0, 2) == 2 * TIMEOUT_FLOOR_S
    for _ in range(20):
        trip.sample(0.2)
    assert TIMEOUT_FLOOR_S < trip.timeout_s(1.0, 1) < 1.0
    for _ in range(20):
        trip.sample(3.0)
    assert trip.timeout_s(1.0, 1) == 1.0


def suspicions(members: int, silent: bool = False) -> Suspicions:
    found = Suspicions(1.0, LocalHealth())
    found.start(X, 7, members, 100.0, silent=silent)
    return found


@pytest.mark.contract("GSP-7")
def test_confirmations_shorten_a_suspicion() -> None:
    """Two independent accusers halve it; the same one twice counts once."""
    running = suspicions(10)
    lengths = []
    for accuser in (H1, H1, H2, H3):
        running.accuse(X, 7, accuser, 100.0)
        lengths.append(running.get(X).deadline - 100.0)  # type: ignore[union-attr]
    assert lengths[0] == lengths[1] == pytest.approx(1.37, abs=0.01)
    assert lengths[2] == lengths[3] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("members", "silent", "length"),
    [(2, False, 1.0), (3, False, 2.0), (10, False, 2.0), (100, False, 4.0), (2, True, 2.0)],
)
def test_suspicions_grow_with_the_cluster(members: int, silent: bool, length: float) -> None:
    """1 s up to ten nodes, times log10 beyond, twice that unconfirmed or with a silent link."""
    assert suspicions(members, silent).get(X).deadline == pytest.approx(100.0 + length)  # type: ignore[union-attr]


def test_accusations_before_the_suspicion_count() -> None:
    """Those who found it first confirm it; old stories and other lives do not."""
    running = Suspicions(1.0, LocalHealth())
    running.accuse(X, 7, H1, 99.0)
    running.accuse(X, 7, H2, 80.0)
    running.accuse(X, 6, H3, 99.0)
    running.start(X, 7, 10, 100.0, silent=False)
    assert running.get(X).accusers == {H1}  # type: ignore[union-attr]


@pytest.mark.contract("GSP-8")
def test_a_stall_gives_suspects_their_time_back() -> None:
    """However long this node stood still, a suspect has a second afterwards."""
    running = suspicions(2)
    running.stalled(60.0, 161.0)
    assert running.take_due(161.0) == ([], [])
    assert running.take_due(161.0 + REPROBE_S) == ([], [X])
    assert running.take_due(162.01) == ([X], [])


@pytest.mark.contract("GSP-7")
@pytest.mark.parametrize("suspects", [1, 20, 500])
def test_many_suspects_are_echoed_less_often_each(suspects: int) -> None:
    """Four times a second each, and not over a hundred a second together."""
    running = Suspicions(100.0, LocalHealth())
    for number in range(suspects):
        node = NodeId(f"{number:032d}")
        running.start(node, 7, 1000, 100.0 + number / 1000, silent=False)
    echoed = 0
    for step in range(1, 1001):
        due = running.deadline()
        assert due is not None
        expired, again = running.take_due(100.5 + step / 100)
        assert expired == []
        echoed += len(again)
    assert echoed == pytest.approx(10 * min(4 * suspects, 80), rel=0.2)


@pytest.mark.contract("GSP-3")
@pytest.mark.parametrize("peers", [1, 3, 10, 11, 29, 57])
def test_every_peer_has_its_turn_within_ten_rounds(peers: int) -> None:
    """In any ten rounds in a row, also while peers come and go."""
    rng = random.Random(peers)
    turns = Rotation(rng, 10, 128)
    names = [NodeId(f"{n:032d}") for n in range(peers)]
    for name in names:
        turns.add(name)
    rounds = [turns.next() for _ in range(40)]
    for start in range(30):
        assert {n for r in rounds[start : start + 10] for n in r} == set(names)
    late = NodeId("f" * 32)
    turns.add(late)
    assert late in turns.next()
    turns.discard(late)
    assert late not in [n for _ in range(10) for n in turns.next()]
    turns.add(late)
    turns.discard(late)
    turns.add(late)
    for chosen in (turns.next() for _ in range(40)):
        assert len(chosen) == len(set(chosen)) <= len(turns)
    for name in [*names, late]:
        turns.discard(name)
    assert turns.next() == []
    assert len(turns) == 0


@pytest.mark.contract("GSP-8")
def test_a_stall_does_not_end_the_wait_for_a_first_echo() -> None:
    """A node that was stopped for longer than its patience lets the other answer first."""
    watch = Watch(H1, Settings(), random.Random(1), {X})
    watch.learned(X, 7, 100.0)
    watch.stalled(12.0, 112.5)
    watch.round(112.5)
    assert watch.status(X) is Status.JOINING
    watch.tick(116.0)
    watch.round(124.0)
    assert watch.status(X) is Status.DEAD


@pytest.mark.contract("GSP-8")
def test_who_was_not_echoed_in_time_is_not_given_up():
    """The wait for a first echo ends by an echo that failed, not by time alone."""
    watch = Watch(H1, Settings(), random.Random(1), {X})
    watch.learned(X, 7, 100.0)
    watch.tick(101.0)
    watch.stalled(0.2, 109.9)
    watch.round(120.0)
    assert watch.status(X) is Status.JOINING, "the failure from before the stall was counted"
    watch.tick(123.0)
    watch.round(123.5)
    assert watch.status(X) is Status.DEAD


@pytest.mark.contract("GSP-8")
def test_a_node_that_is_late_again_and_again_still_sends_echoes():
    """Late five times a second for half a minute, it tries each second and gets its answer."""
    bench = Bench([])
    bench.probe(0.0, direct_only=True)
    bench.health.lagged(0.15, 0.1)
    bench.done(None, 0.1)
    echoes = 0
    for step in range(1, 151):
        now = step * 0.2
        bench.health.lagged(0.15, now)
        bench.core.stalled(0.15, now)
        bench.tick(now)
        if bench.out:
            echoes += 1
            bench.done(None, now + 0.01)
        assert bench.outcomes == []
    assert echoes >= 30
    bench.tick(30.3)
    bench.done(7, 30.31)
    assert bench.outcomes == [(X, 7, Result.ECHOED)]

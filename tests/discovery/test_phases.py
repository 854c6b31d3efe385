"""Phases, waits and the one more check: the machine by itself, over a time that is given."""

from __future__ import annotations

import pytest

from meshsvc.discovery.phases import FIRST_PHASE_S, Check, Phases, Settled


class Walk:
    """A machine, driven by hand; what it wants is carried out at once or kept running."""

    def __init__(self):
        self.phases, self.now = Phases(), 100.0
        self.runs = []

    def start(self):
        self.phases.start(self.now)
        return self.take()

    def take(self):
        effects = self.phases.take_effects()
        self.runs += [effect.run for effect in effects if isinstance(effect, Check)]
        return effects

    def end(self, failed=False):
        assert self.phases.ended(self.runs[-1], self.now, failed=failed)
        return self.take()

    def wait(self):
        """Seconds until the next check, whatever else is due before."""
        return self.phases.due() - self.now

    def pass_time(self, seconds):
        self.now += seconds
        self.phases.tick(self.now)
        return self.take()


@pytest.fixture
def walk():
    made = Walk()
    made.start()
    return made


@pytest.mark.contract("DISC-1")
def test_the_first_check_is_at_once_and_the_waits_are_as_promised(walk):
    """After an error 1 s, in the first phase 5 s, then 5 min; an error comes before all."""
    assert walk.runs == [1]
    walk.end(failed=True)
    assert walk.wait() == 1.0
    walk.pass_time(1.0)
    walk.end()
    assert walk.wait() == 5.0
    walk.phases.peer_met(walk.now)
    assert walk.wait() == 5.0, "a wait that began is not made longer"
    walk.pass_time(5.0)
    walk.end()
    assert walk.wait() == 300.0
    walk.pass_time(300.0)
    walk.end(failed=True)
    assert walk.wait() == 1.0


@pytest.mark.contract("DISC-1")
def test_the_first_phase_ends_by_itself(walk):
    """After five minutes, also while a check runs, and whatever is waited for."""
    assert walk.phases.initial
    assert walk.phases.deadline() == walk.now + FIRST_PHASE_S
    walk.pass_time(FIRST_PHASE_S - 0.1)
    assert walk.phases.initial
    walk.pass_time(0.1)
    assert not walk.phases.initial
    assert walk.phases.deadline() is None, "nothing but the end of the check is waited for"
    walk.end()
    assert walk.wait() == 300.0


@pytest.mark.contract("DISC-1")
def test_a_peer_that_was_met_ends_the_first_phase(walk):
    """A cluster of two is past its start as soon as they have met."""
    walk.phases.peer_met(walk.now)
    walk.end()
    assert not walk.phases.initial
    assert walk.wait() == 300.0


@pytest.mark.contract("DISC-1")
def test_a_lost_node_shortens_a_wait_that_is_armed_and_only_once(walk):
    """With five minutes armed the next check is 30 s after the loss, and then regular."""
    walk.phases.peer_met(walk.now)
    walk.end()
    walk.pass_time(100.0)
    walk.phases.node_down(walk.now)
    assert walk.wait() == 30.0
    assert walk.pass_time(29.9) == []
    assert walk.pass_time(0.1) == [Check(2)]
    walk.end()
    assert walk.wait() == 300.0, "the loss is no longer recent"


@pytest.mark.contract("DISC-1")
def test_a_loss_never_makes_a_wait_longer(walk):
    """What is due sooner stays due sooner, and then another 30 s are waited."""
    walk.phases.peer_met(walk.now)
    walk.end()
    walk.pass_time(290.0)
    walk.phases.node_down(walk.now)
    assert walk.wait() == 10.0
    walk.pass_time(10.0)
    walk.end()
    assert walk.wait() == 30.0
    walk.pass_time(30.0)
    walk.end()
    assert walk.wait() == 300.0


@pytest.mark.contract("DISC-1")
def test_a_loss_during_a_check_counts_when_it_ends(walk):
    """It was noted, although there was no wait to shorten."""
    walk.phases.peer_met(walk.now)
    walk.phases.node_down(walk.now)
    walk.now += 2.0
    walk.end()
    assert walk.wait() == 30.0


@pytest.mark.contract("DISC-2")
def test_asked_for_while_one_runs_causes_exactly_one_more(walk):
    """However often it was asked; it begins in the moment the other ends."""
    for _ in range(5):
        walk.phases.check(walk.now)
    assert walk.take() == []
    assert walk.end() == [Check(2)]
    assert walk.phases.checking
    assert walk.end() == [Settled()]
    assert not walk.phases.checking
    assert walk.runs == [1, 2]


@pytest.mark.contract("DISC-2")
def test_asked_for_in_the_moment_of_the_end_is_not_lost(walk):
    """Right before the end it causes one more, right after it one at once: CETS lost these."""
    walk.phases.check(walk.now)
    assert walk.end() == [Check(2)]
    walk.end()
    walk.phases.check(walk.now)
    assert walk.take() == [Check(3)]
    walk.end()
    assert walk.wait() == 5.0
    assert walk.pass_time(5.0) == [Check(4)], "and its wait is armed all the same"


def test_the_end_of_an_earlier_check_changes_nothing(walk):
    """A backend that answers after its time-out answers nobody."""
    walk.end(failed=True)
    assert not walk.phases.ended(1, walk.now, failed=False)
    walk.pass_time(1.0)
    assert not walk.phases.ended(1, walk.now, failed=False)
    assert walk.phases.checking
    assert walk.end() == [Settled()]


def test_stopped_it_is_silent_and_starts_anew(walk):
    """Nothing is due after a stop; a start begins with the first phase again."""
    walk.phases.peer_met(walk.now)
    walk.phases.stop()
    assert walk.take() == []
    assert walk.phases.deadline() is None
    for told in (walk.phases.check, walk.phases.node_down, walk.phases.peer_met):
        told(walk.now)
    assert walk.pass_time(1000.0) == []
    assert walk.start() == [Check(2)]
    assert walk.phases.initial

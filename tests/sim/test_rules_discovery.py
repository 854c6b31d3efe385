"""Discovery's checks against a model: no wish is lost, none is kept twice, no wait too long."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from rules import bounded

from meshsvc.discovery.phases import Check, Phases, Settled

MOMENTS = st.sampled_from([0.0, 0.25, 1.0, 4.9, 5.0, 29.0, 30.0, 299.0, 300.0])


class DiscoveryRules(RuleBasedStateMachine):
    """The model: whether it runs, whether once more is wanted, and when the wait is over."""

    def __init__(self):
        super().__init__()
        self.real, self.now = Phases(), 70.0
        self.on = self.running = self.again = False
        self.initial, self.first_until = True, None
        self.due = self.down_at = self.waits_since = None
        self.runs = 0

    @initialize()
    def begin(self):
        self.start()

    # --- what the model does ---------------------------------------------------------------

    def _run(self):
        self.running, self.again, self.due = True, False, None
        self.runs += 1
        return [Check(self.runs)]

    def _wait(self, failed):
        recent = self.down_at is not None and self.now - self.down_at < 30.0
        regular = 30.0 if recent else 300.0
        self.due = self.now + (1.0 if failed else 5.0 if self.initial else regular)
        self.running, self.waits_since = False, self.now
        return [Settled()]

    def _expect(self, effects):
        assert self.real.take_effects() == effects

    # --- what happens ----------------------------------------------------------------------

    @rule()
    def start(self):
        self.real.start(self.now)
        if self.on:
            self._expect([])
            return
        self.on, self.first_until = True, self.now + 300.0
        self._expect(self._run())

    @rule(seconds=MOMENTS)
    def time_passes(self, seconds):
        """The driver ticks whenever it was asked to."""
        end = self.now + seconds
        for _ in range(4):
            at = self.real.deadline()
            if at is None or at > end:
                break
            self.now = max(self.now, at)
            self._tick()
        self.now = end

    @rule()
    def tick_for_no_reason(self):
        self._tick()

    def _tick(self):
        self.real.tick(self.now)
        if self.on and self.initial and self.now >= self.first_until:
            self.initial = False
        due = self.due is not None and self.now >= self.due
        self._expect(self._run() if due else [])

    @rule(times=st.integers(1, 3))
    def check(self, times):
        for _ in range(times):
            self.real.check(self.now)
        if not self.on:
            self._expect([])
        elif self.running:
            self.again = True
            self._expect([])
        else:
            # The first of them runs, the others ask for one more.
            wanted = self._run()
            self.again = times > 1
            self._expect(wanted)

    @precondition(lambda self: self.running)
    @rule(failed=st.booleans())
    def check_ends(self, failed):
        again = self.again
        assert self.real.ended(self.runs, self.now, failed=failed)
        self._expect(self._run() if again else self._wait(failed))

    @rule(failed=st.booleans(), late=st.integers(1, 3))
    def an_earlier_check_ends(self, failed, late):
        assert not self.real.ended(self.runs - late, self.now, failed=failed)
        self._expect([])

    @precondition(lambda self: not self.running)
    @rule(failed=st.booleans())
    def a_check_ends_twice(self, failed):
        assert not self.real.ended(self.runs, self.now, failed=failed)
        self._expect([])

    @rule()
    def node_down(self):
        self.real.node_down(self.now)
        if self.on:
            self.down_at = self.now
            if self.due is not None:
                self.due = min(self.due, self.now + 30.0)
        self._expect([])

    @precondition(lambda self: self.due is not None and not self.initial)
    @rule()
    def node_down_while_it_waits(self):
        """The five minutes that are armed are what this must shorten."""
        self.node_down()

    @rule()
    def peer_met(self):
        self.real.peer_met(self.now)
        self.initial = self.initial and not self.on
        self._expect([])

    @precondition(lambda self: self.runs > 2)
    @rule()
    def stop(self):
        self.real.stop()
        self.on = self.running = self.again = False
        self.initial, self.due, self.down_at = True, None, None
        self._expect([])

    # --- what always holds -----------------------------------------------------------------

    @invariant()
    def agrees(self):
        assert self.real.checking is self.running
        assert self.real.initial is self.initial
        assert self.real.due() == self.due

    @invariant()
    def something_is_under_way(self):
        """A started discovery runs or waits, and never longer than five minutes."""
        assert self.on is (self.running or self.due is not None)
        if self.due is not None:
            assert self.due <= self.now + 300.0

    @invariant()
    def a_loss_is_never_waited_out(self):
        """Unless a check ended 30 s or more after it: the loss was looked after then."""
        if self.due is not None and self.down_at is not None and self.waits_since is not None:
            assert self.due <= self.down_at + 30.0 or self.waits_since > self.down_at


@pytest.mark.contract("DISC-1", "DISC-2")
def test_discovery_follows_the_model():
    """Waits, runs and the one more are as the model has them after any history."""
    run_state_machine_as_test(DiscoveryRules, settings=bounded(80))

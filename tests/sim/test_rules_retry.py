"""Retry against a model: a wait that was armed ends in exactly one run, whatever else happens."""

from __future__ import annotations

import itertools

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

from meshsvc.link.dial import Abandon, Connect, Dial
from meshsvc.retry import Occasion, Retry, exponential, four_way, occasion

DELAYS = {
    # (after an error, in the first phase, after a lost node): seconds, as DISC-1 lists them
    (False, False, False): 300.0,
    (False, False, True): 30.0,
    (False, True, False): 5.0,
    (False, True, True): 5.0,
    (True, False, False): 1.0,
    (True, False, True): 1.0,
    (True, True, False): 1.0,
    (True, True, True): 1.0,
}

MOMENTS = st.sampled_from([0.0, 0.25, 1.0, 4.9, 5.0, 29.0, 60.0, 300.0])


class RetryRules(RuleBasedStateMachine):
    """The model: what is wanted, whether it runs, and what became of the runs in a row."""

    @initialize(limit=st.sampled_from([None, 0, 1, 3]), stable=st.sampled_from([0.0, 5.0, 60.0]))
    def make(self, limit, stable):
        self.now, self.limit, self.stable = 50.0, limit, stable
        self.flags = (False, True, False)
        self.state, self.row, self.good_since, self.due = "idle", 0, None, None
        self.real = Retry(four_way(self._kind), limit, stable)

    def _kind(self):
        failed, initial, node_down = self.flags
        return occasion(failed=failed, initial=initial, node_down=node_down)

    @rule(flags=st.sampled_from(sorted(DELAYS)))
    def occasion_changes(self, flags):
        self.flags = flags

    @rule(seconds=MOMENTS)
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def start(self):
        self.real.start(self.now)
        if self.state == "idle":
            self.state = "running"

    @precondition(lambda self: self.good_since is None)
    @rule()
    def succeed(self):
        self.real.succeeded(self.now)
        if self.state == "running":
            self.good_since = self.now

    @rule()
    def fail(self):
        self.real.failed(self.now)
        if self.state != "running":
            return
        lived = self.good_since is not None and self.now - self.good_since >= self.stable
        row = 1 if lived else self.row + 1
        self.good_since = None
        if self.limit is not None and row > self.limit:
            self.state, self.row = "exhausted", None
            return
        self.state, self.row = "waiting", row
        self.due = self.now + DELAYS[self.flags]

    @rule(seconds=MOMENTS)
    def hasten(self, seconds):
        """A wait may be made shorter, never longer, and none begins by it."""
        self.real.hasten(self.now + seconds)
        if self.due is not None:
            self.due = min(self.due, self.now + seconds)

    @rule()
    def stop(self):
        self.real.stop()
        self.state, self.row, self.good_since, self.due = "idle", 0, None, None

    @rule()
    def tick(self):
        runs = self.state == "waiting" and self.now >= self.due
        assert self.real.tick(self.now) is runs, "a wait ends in one run, at its time"
        if runs:
            self.state, self.due = "running", None
            assert not self.real.tick(self.now), "one wait, one run"

    @precondition(lambda self: self.state == "waiting")
    @rule()
    def tick_at_its_deadline(self):
        self.now = max(self.now, self.real.deadline())
        self.tick()
        assert self.state == "running"

    @invariant()
    def agrees(self):
        assert self.real.deadline() == self.due
        assert self.real.exhausted is (self.state == "exhausted")
        if self.row is not None:
            assert self.real.failures == self.row


class DialRules(RuleBasedStateMachine):
    """A wanted target without a link is being dialed or has a wait: nothing is forgotten."""

    def __init__(self):
        super().__init__()
        self.now = 10.0
        self.wanted = self.dialing = self.linked = False
        self.core = Dial(exponential(0.1, 2.0, 5.0, lambda: 0.5))

    def _carry_out(self):
        for effect in self.core.take_effects():
            if isinstance(effect, Connect):
                assert self.wanted, "it dialed what nobody wants"
                assert not self.dialing, "two dials to one target at once"
                assert not self.linked, "it dialed although there is a link"
                self.dialing = True
            elif isinstance(effect, Abandon):
                assert self.dialing
                self.dialing = False

    @rule(seconds=st.sampled_from([0.05, 0.5, 5.0, 61.0]))
    def time_passes(self, seconds):
        """The driver ticks whenever the core asked for it."""
        end = self.now + seconds
        for _ in range(200):
            at = self.core.deadline()
            if at is None or at > end:
                break
            self.now = max(self.now, at)
            self.core.tick(self.now)
            self._carry_out()
        self.now = end

    @rule()
    def keep(self):
        if not self.wanted:
            self.wanted, self.linked = True, False
        self.core.keep(self.now)
        self._carry_out()

    @rule()
    def forget(self):
        self.wanted = self.linked = False
        self.core.forget()
        self._carry_out()
        assert not self.dialing

    @precondition(lambda self: self.wanted and not self.linked)
    @rule()
    def link_came(self):
        """The dial under way, if any, ended in it or is made needless."""
        self.linked, self.dialing = True, False
        self.core.linked(self.now)
        self._carry_out()

    @precondition(lambda self: self.dialing)
    @rule(how=st.sampled_from(["failed", "refused", "duplicate"]))
    def dial_ends(self, how):
        self.dialing = False
        getattr(self.core, how)(self.now)
        self._carry_out()

    @precondition(lambda self: self.linked)
    @rule(heals=st.booleans())
    def link_goes(self, heals):
        self.linked = False
        self.core.link_lost(self.now, heals=heals)
        self._carry_out()
        wait = self.core.deadline()
        assert heals or (wait is not None and wait - self.now >= 59.99)

    @rule(how=st.sampled_from(["failed", "refused", "duplicate"]))
    def old_news(self, how):
        """The end of a dial that does not matter any more."""
        if not self.dialing:
            getattr(self.core, how)(self.now)
            self._carry_out()

    @invariant()
    def something_is_under_way(self):
        waiting = self.core.deadline() is not None
        assert waiting is (self.wanted and not self.dialing and not self.linked)
        if waiting:
            assert self.core.deadline() <= self.now + 60.01


@pytest.mark.contract("DISC-1")
def test_retry_follows_the_model():
    """Waits, runs and rows of failures are as the model has them after any history."""
    run_state_machine_as_test(RetryRules, settings=bounded(80))


@pytest.mark.contract("LINK-2")
def test_a_wanted_target_is_never_forgotten():
    """A target without a link is being dialed or waited for after any history of dials."""
    run_state_machine_as_test(DialRules, settings=bounded(80))


@pytest.mark.contract("DISC-1")
def test_the_four_occasions_have_their_precedence():
    """An error, then the first phase, then a lost node, then the regular time."""
    for flags in itertools.product((False, True), repeat=3):
        failed, initial, node_down = flags
        chosen = occasion(failed=failed, initial=initial, node_down=node_down)
        assert chosen.value == DELAYS[flags]
    assert len(Occasion) == 4

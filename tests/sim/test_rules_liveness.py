"""The watch over other nodes against a model of GSP-2, 5, 7, 8 and 9: who is convicted, and why.

The model knows what was asked, what was answered and what was told; from that alone it says
which verdicts are allowed. The network, the clock and the gossip are the rules.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from rules import bounded

from meshsvc.gossip.detector import NO
from meshsvc.gossip.effects import Echo, EchoVia
from meshsvc.gossip.liveness import Said
from meshsvc.gossip.members import Status
from meshsvc.gossip.settings import Settings
from meshsvc.gossip.watch import Watch
from meshsvc.model import NodeId

ME, A, B, C = (NodeId(letter * 32) for letter in "0abc")
OTHERS = [A, B, C]
SUSPICION_S, PATIENCE_S, SLACK_S = 1.0, 10.0, 1e-6
LONGEST_S = 90.0
"""The longest suspicion of a node that doubts itself as much as it can, and time to spare."""


@dataclass
class Ask:
    """An echo under way: of which life, who was asked, and when it is over."""

    node: NodeId
    generation: int
    direct: bool
    until: float


@dataclass
class Row:
    """What the model holds of one node."""

    generation: int
    status: str = "joining"
    joined: bool = False
    since: float = 0.0
    failed: bool = False
    silent: bool = False
    suspected: float = 0.0
    story: list[Said] = field(default_factory=list)


class WatchRules(RuleBasedStateMachine):
    """One watch over three nodes."""

    @initialize(seed=st.integers(0, 5))
    def make(self, seed):
        self.linked: set[NodeId] = set()
        settings = Settings(suspicion_s=SUSPICION_S)
        self.real = Watch(ME, settings, random.Random(seed), self.linked)
        self.now = 1000.0
        self.round_at = self.now + 1.0
        self.stalled_at = 0.0
        self.rows: dict[NodeId, Row] = {}
        self.asks: dict[int, Ask] = {}
        self.proof: tuple[NodeId, int, str] | None = None
        self.lapsed: set[tuple[NodeId, int]] = set()

    # --- what comes out ------------------------------------------------------------------

    def _lapse(self):
        """Echoes nobody answered in time have failed, whether the watch looked or not."""
        for ask in self.asks.values():
            if ask.direct and ask.until <= self.now + SLACK_S:
                self._unanswered(ask)

    def _unanswered(self, ask):
        row = self.rows.get(ask.node)
        if ask.direct and row is not None and row.generation == ask.generation:
            row.failed = row.silent = True

    def _take(self):
        self.odd = True
        self._lapse()
        report = self.real.take()
        for node, what, public in report.said:
            self._said(node, self.rows[node], what, public)
        for effect in report.out:
            if isinstance(effect, (Echo, EchoVia)):
                self._asked(effect)
        self.proof = None
        for node, row in self.rows.items():
            assert self.real.status(node).value == row.status
            assert self.real.joined(node) is row.joined
        self.odd = False

    def _asked(self, effect):
        direct = isinstance(effect, Echo)
        node = effect.node if direct else effect.target
        if not direct:
            assert effect.helper in self.linked
            assert effect.helper != node
            assert self.rows[effect.helper].status == "alive", "a helper that may be dead"
        row = self.rows[node]
        assert row.status not in ("left", "removed"), "it echoes what is over"
        until = self.now + effect.timeout_s
        self.asks[effect.token] = Ask(node, row.generation, direct, until)

    def _said(self, node, row, what, public):
        proof = self.proof if self.proof and self.proof[:2] == (node, row.generation) else None
        how = proof[2] if proof else ""
        before = row.status
        if what in (Said.JOINED, Said.ALIVE):
            allowed = {"suspect": ("echo", "via", "word"), "joining": ("echo",), "dead": ("echo",)}
            assert how in allowed[before], f"{what} of {before} by {how or 'nothing'}"
            assert (what is Said.ALIVE) is row.joined
            row.status, row.joined, row.failed = "alive", True, False
        elif what is Said.SUSPECT:
            assert before == "alive"
            assert row.failed, "suspected although its own echo did not fail"
            row.status, row.suspected = "suspect", self.now
        elif what is Said.DEAD:
            self._may_be_dead(row, before)
            row.status = "dead"
        elif what is Said.RESTARTED:
            assert how == "later"
            row.status, row.joined = "joining", False
        else:
            assert how == what.value
            row.status = what.value
        row.story.append(what)
        if what in (Said.JOINED, Said.ALIVE, Said.SUSPECT):
            assert public, "subscribers are not told of a node that is there"

    def _may_be_dead(self, row, before):
        assert self.now - self.stalled_at >= SUSPICION_S - SLACK_S, "convicted just after a stall"
        if before == "joining":
            assert self.now - row.since >= PATIENCE_S - SLACK_S
            assert row.silent, "given up although no echo failed since it was late itself"
        else:
            assert before == "suspect"
            assert self.now - row.suspected >= SUSPICION_S - SLACK_S, "convicted in a hurry"

    # --- gossip --------------------------------------------------------------------------

    @rule(node=st.sampled_from(OTHERS), later=st.integers(-1, 1))
    def learned(self, node, later):
        row = self.rows.get(node)
        if row is None:
            row = self.rows[node] = Row(5, since=self.now)
            generation = 5
        else:
            generation = row.generation + later
            if later > 0:
                row.generation, row.since = generation, self.now
                row.failed = row.silent = False
                self.proof = (node, generation, "later")
        self.real.learned(node, generation, self.now)
        self._take()

    @rule(accuser=st.sampled_from(OTHERS), node=st.sampled_from(OTHERS), old=st.booleans())
    def accused(self, accuser, node, old):
        """Hearsay: it may lead to an echo, and to no verdict."""
        row = self.rows.get(node)
        generation = 5 if row is None else row.generation - old
        verdicts = {n: row.status for n, row in self.rows.items()}
        self.real.accused(accuser, node, generation, self.now)
        self._take()
        assert verdicts == {n: row.status for n, row in self.rows.items()}, "hearsay convicts"

    @rule(node=st.sampled_from(OTHERS), what=st.sampled_from(["word", "left", "heard"]))
    def told(self, node, what):
        """It says that it lives, that it stops, or anything at all."""
        row = self.rows.get(node)
        if row is not None:
            self.proof = (node, row.generation, what)
        act = {"word": self.real.refuted, "left": self.real.shut_down, "heard": self.real.heard}
        act[what](node, self.now)
        self._take()

    @rule(node=st.sampled_from(OTHERS), often=st.integers(0, 5))
    def removed(self, node, often):
        if often or node not in self.rows:
            return  # seldom, because it is for good
        self.proof = (node, self.rows[node].generation, "removed")
        self.real.removed(node, self.now)
        self._take()

    # --- links and echoes ----------------------------------------------------------------

    @rule(node=st.sampled_from(OTHERS), up=st.booleans())
    def link(self, node, up):
        if up:
            self.linked.add(node)
        elif node in self.linked:
            self.linked.discard(node)
            self.real.link_lost(node, self.now)
            self._take()

    @precondition(lambda self: self.asks)
    @rule(data=st.data(), answer=st.sampled_from(["yes", "yes", "no", "none", "newer", "older"]))
    def answered(self, data, answer):
        token = data.draw(st.sampled_from(sorted(self.asks)))
        self._answer(token, answer)

    def _answer(self, token, answer):
        self._lapse()
        ask = self.asks.pop(token)
        values = {"yes": ask.generation, "no": NO, "none": None}
        values |= {"newer": ask.generation + 1, "older": ask.generation - 1}
        if answer == "yes":
            self.proof = (ask.node, ask.generation, "echo" if ask.direct else "via")
        elif answer != "newer":
            self._unanswered(ask)
        self.real.echo_done(token, values[answer], self.now)
        self._take()

    @rule(token=st.integers(10**6, 10**6 + 5))
    def answer_of_nothing(self, token):
        self.real.echo_done(token, 5, self.now)
        self._take()

    # --- time ----------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.1, 3.0]))
    def time_passes(self, seconds):
        """The driver ticks on time."""
        end = self.now + seconds
        while True:
            due = min(at for at in (self.real.deadline(), self.round_at) if at is not None)
            if due > end:
                break
            self._tick(max(due, self.now))
        self.now = end

    def _tick(self, now):
        self.now = now
        if now >= self.round_at:
            self.round_at = now + 1.0
            self.real.round(now)
            self._take()
        self.real.tick(now)
        self._take()

    @rule(seconds=st.sampled_from([0.5, 5.0, 12.0]))
    def stands_still(self, seconds):
        """SIGSTOP and SIGCONT: nothing was read, nothing was answered."""
        due = min(at for at in (self.real.deadline(), self.round_at) if at is not None)
        self.now = max(due, self.now) + seconds
        self.real.stalled(seconds, self.now)
        self.stalled_at = self.now
        for ask in self.asks.values():
            ask.until += seconds
        for row in self.rows.values():
            row.silent = False
        self._take()
        self._tick(self.now)

    def teardown(self):
        """From here on all is well, or nobody answers: every node ends as it should."""
        if getattr(self, "odd", True):
            return
        well = random.Random(len(self.rows) + int(self.now)).random() < 0.5
        self.linked.clear()
        end = self.now + LONGEST_S
        while self.now < end:
            for token in sorted(self.asks):
                if token in self.asks:
                    self._answer(token, "yes" if well else "none")
            self.time_passes(0.25)
        final = {"alive"} if well else {"dead"}
        for row in self.rows.values():
            assert row.status in final | {"left", "removed"}, row


@pytest.mark.contract("GSP-2", "GSP-5", "GSP-7", "GSP-8", "GSP-9")
def test_verdicts_follow_the_model():
    """Alive by an echo of our own, dead by our own failed echoes and time, left for good."""
    assert {status.value for status in Status} >= {"alive", "suspect", "dead", "joining"}
    run_state_machine_as_test(WatchRules, settings=bounded(200, 40))

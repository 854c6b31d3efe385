"""Two nodes that dial each other, in any order of events: one link stays at both ends (LINK-6)."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from link_net import CONTROL, Chooser, World, node
from rules import bounded


class _One(Chooser):
    """Picks the action of this number."""

    def __init__(self, number):
        super().__init__([])
        self._number = number

    def pick(self, count):
        return self._number % count


class PairRules(RuleBasedStateMachine):
    """Real link services; every chunk and connection moves when a rule says so."""

    def __init__(self):
        super().__init__()
        self.nodes = (node(1), node(2))
        self.world = World(*self.nodes)
        self.first, self.second = self.world.members
        self.first.keep(self.nodes[1].address, CONTROL, self.nodes[1].node_id)
        self.second.keep(self.nodes[0].address, CONTROL, self.nodes[0].node_id)
        self.troubled = False

    @rule(number=st.integers(0, 7))
    def something_happens(self, number):
        self.world.step(_One(number))

    @rule(numbers=st.lists(st.integers(0, 7), min_size=4, max_size=12))
    def much_happens(self, numbers):
        for number in numbers:
            self.world.step(_One(number))

    @rule(seldom=st.integers(0, 7), number=st.integers(0, 7))
    def a_connection_breaks(self, seldom, number):
        live = list(self.world.live())
        if not seldom and live:
            self.troubled = True
            live[number % len(live)].cut()

    def teardown(self):
        """Left alone for a while, there is one connection, and both ends use it."""
        self.world.settle()
        self.world.pass_time(12.0)
        links = [
            service.link(other.node_id, CONTROL)
            for service, other in zip(self.world.members, self.nodes[::-1], strict=True)
        ]
        assert all(links), "a node has no link"
        assert len(list(self.world.live())) == 2, "more than one connection, or less"
        assert links[0].dialed_by_us is not links[1].dialed_by_us
        for watcher in () if self.troubled else self.world.watchers:
            assert len(watcher.of("link_up")) == 1
            assert not watcher.of("link_down"), "a link was lost although nothing broke"
        self.world.stop()


@pytest.mark.contract("LINK-6")
def test_both_ends_keep_the_same_link():
    """However the two dials interleave: one link, never lost without a reason."""
    run_state_machine_as_test(PairRules, settings=bounded(60, 25))

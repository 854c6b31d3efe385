"""The journal against a model: crashes, full disks and failures in any order.

The model keeps, for each group, what was acknowledged and what was asked for since, in order.
After a crash a group must be at what was acknowledged, or further along what was asked for.
"""

from __future__ import annotations

import errno

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)
from modelled import Model
from rules import bounded
from writing import Rig, result_of

from meshsvc.sim.disk import PowerCut
from meshsvc.storage.failures import JournalFailed, NoSpace, NotContiguous, SnapshotGone
from meshsvc.storage.records import Append, Compact, Entry, HardState, SnapshotMeta
from meshsvc.storage.service import PROBE_S

GROUPS = st.sampled_from([1, 2])


class JournalRules(RuleBasedStateMachine):
    """Two groups of one journal; the writer does one piece of work at each ``step``."""

    def __init__(self):
        super().__init__()
        self.turn = 0
        self.acked = Model()
        self.asked = {1: [], 2: []}
        self.snapshots = {1: 0, 2: 0}
        self.saving = {1: 0, 2: 0}
        self.failing = False
        self.rig = Rig().opened()
        self.rig.disk.faults.torn = 0.9

    # --- what Raft does ------------------------------------------------------------------

    @rule(group=GROUPS, count=st.integers(1, 3), size=st.sampled_from([1, 60, 400]))
    def append(self, group, count, size):
        """Entries behind all that were asked for."""
        self.turn += 1
        first = self._last(group, self.asked[group]) + 1
        data = bytes([self.turn % 256]) * size
        new = tuple(Entry(first + i, self.turn, 0, data) for i in range(count))
        self._ask(Append(group, HardState(self.turn, group, first), new))

    @rule(group=GROUPS)
    def vote(self, group):
        """A hard state alone."""
        self.turn += 1
        self._ask(Append(group, HardState(self.turn, self.turn, 0)))

    @precondition(lambda self: not any(self.asked.values()))
    @rule(group=GROUPS, back=st.integers(0, 2))
    def replace(self, group, back):
        """A new leader's entry in the place of the last ones."""
        first = self._last(group, []) - back
        if first > max(self._state(group)[1][0], self.saving[group]):
            self.turn += 1
            self._ask(Append(group, None, (Entry(first, self.turn, 0, b"new"),)))

    @rule(group=GROUPS)
    def snapshot(self, group):
        """A snapshot of what is acknowledged, once it is durable a compaction into it."""
        last = self._last(group, [])
        if last <= self.snapshots[group] or self.asked[group]:
            return
        term = {e.index: e.term for e in self._state(group)[2]}.get(last)
        if term is None:
            return
        log = self.rig.service.group(group)
        self.saving[group] = last

        def durable(_):
            self.snapshots[group] = last
            self._ask(Compact(group, last - 1))

        log.save_snapshot(SnapshotMeta(last, term), [b"state"] * 2).addCallbacks(durable, _expected)

    @rule(group=GROUPS)
    def compact_too_far(self, group):
        """What no durable snapshot contains is not forgotten."""
        self._settle()
        last = self._last(group, [])
        if self.rig.service.alarm or last <= self.snapshots[group]:
            return
        refused = self.rig.service.group(group).compact(last)
        self._settle()
        if refused.called:  # else the power failed
            with pytest.raises(NotContiguous):
                result_of(refused)

    # --- what befalls it -----------------------------------------------------------------

    @rule()
    def step(self):
        """The writer does one piece of work."""
        if self.rig.writer.calls:
            try:
                self.rig.writer.step()
            except PowerCut:
                self.crash()
                return
        self._check_end()

    @rule()
    def settle(self):
        """The writer does all its work."""
        self._settle()

    @rule()
    def crash(self):
        """The power fails."""
        self.rig.disk.crash()
        self._begin_again()

    @rule()
    def kill(self):
        """The process is killed: what it wrote is read by the next one, though never synced."""
        self.rig.disk.processes_ended()
        self._begin_again()

    @rule(after=st.integers(0, 6), power=st.booleans())
    def killed_within(self, after, power):
        """It is killed in the middle of some work; after the next start the power may fail."""
        self.rig.disk.stop_after = after
        try:
            self.rig.writer.run()
        except PowerCut:
            self.kill()
            if power:
                self.crash()
        self.rig.disk.stop_after = None
        self._check_end()

    @rule(after=st.integers(0, 6))
    def power_will_fail(self, after):
        """It fails in the middle of some work."""
        self.rig.disk.stop_after = after

    @precondition(lambda self: self.rig.disk.faults.room is None)
    @rule(room=st.integers(0, 300))
    def disk_fills_up(self, room):
        """Little room is left."""
        self.rig.disk.faults.room = room

    @rule()
    def disk_has_room(self):
        """There is room again; soon the alarm is off."""
        self.rig.disk.faults.room = None
        self.rig.clock.advance(PROBE_S)
        self._settle()
        assert not self.rig.service.alarm, "the alarm does not clear itself"

    @precondition(lambda self: self.rig.disk.stop_after is None)
    @rule(after=st.integers(0, 3))
    def disk_fails(self, after):
        """EIO, once: the process must end with 74 and begin again."""
        self.rig.disk.fail_at = (after, errno.EIO)
        self.failing = True
        self._settle()
        if self.rig.disk.fail_at is None:
            assert self.rig.ended, "a failed disk went unnoticed"
            self.rig.disk.processes_ended()
            self._begin_again()
        self.rig.disk.fail_at = None
        self.failing = False

    def teardown(self):
        """In the end all that waits is durable."""
        self.rig.disk.stop_after = self.rig.disk.fail_at = None
        self.failing = False
        self.disk_has_room()
        assert not any(self.asked.values()), "something is never told"
        self.crash()

    # --- within --------------------------------------------------------------------------

    def _ask(self, change):
        self.asked[change.group].append(change)
        log = self.rig.service.group(change.group)
        if isinstance(change, Compact):
            done = log.compact(change.index)
        else:
            done = log.append(change.hard_state, change.entries)
        rig = self.rig

        def told(_):
            assert rig is self.rig, "a dead process told something"
            waiting = self.asked[change.group]
            same = [each for each in waiting if isinstance(each, type(change))]
            assert same[0] is change, "not in order"
            waiting.remove(change)
            self.acked.apply(change)

        done.addCallbacks(told, _expected)

    def _settle(self):
        try:
            self.rig.writer.run()
        except PowerCut:
            self.crash()
        self._check_end()

    def _check_end(self):
        for code, text in self.rig.ended:
            assert self.failing, f"it ended by itself: {text}"
            assert code == 74

    def _begin_again(self):
        self.rig.clock.calls.clear()
        self.rig.disk.stop_after = self.rig.disk.fail_at = None
        room, self.rig.disk.faults.room = self.rig.disk.faults.room, None
        self.rig = Rig(self.rig.disk).opened()
        self.rig.disk.faults.room = room
        for group in (1, 2):
            found = self.rig.service.group(group).load()
            index = found.compacted_index
            state = (found.hard_state, (index, found.compacted_term), found.entries)
            assert state in self._possible(group), "forgotten, or never asked for"
            have = found.snapshot.index if found.snapshot else 0
            assert have >= self.snapshots[group], "a durable snapshot is gone"
            self.snapshots[group] = self.saving[group] = have
            self.acked.groups[group] = state
            self.asked[group] = []

    def _possible(self, group):
        """What a group may be at: each of its compactions may have passed its appends."""
        appends = [each for each in self.asked[group] if isinstance(each, Append)]
        compactions = [each for each in self.asked[group] if isinstance(each, Compact)]
        found = []
        for some in ([], compactions):
            for count in range(len(appends) + 1):
                model = self.acked.copy()
                for change in [*some, *appends[:count]]:
                    model.apply(change)
                found.append(model.groups.get(group, (HardState(), (0, 0), ())))
        return found

    def _state(self, group):
        return self.acked.groups.get(group, (HardState(), (0, 0), ()))

    def _last(self, group, asked):
        _, compacted, entries = self._state(group)
        last = compacted[0] + len(entries)
        for change in asked:
            new = getattr(change, "entries", ())
            last = new[-1].index if new else last
        return last


def _expected(failure):
    failure.trap(JournalFailed, NoSpace, NotContiguous, SnapshotGone)


@pytest.mark.contract("LOG-1", "LOG-2", "LOG-3", "LOG-4", "SIM-2")
def test_the_journal_keeps_its_promises():
    """Whatever befalls it, what was told is kept, in order, and what waits is told in the end."""
    run_state_machine_as_test(JournalRules, settings=bounded(40))

"""Every operation on the disk is a point at which the process, or the power, can end.

A workload runs until the operation numbered N, for every N; then a crash keeps and loses
what it likes of what was not synced. The journal must open again, with all that was
acknowledged and nothing that was not asked for.
"""

from __future__ import annotations

from random import Random

import pytest
from modelled import Model, content, opened, some_changes

from meshsvc.sim.disk import PowerCut, SimDisk
from meshsvc.storage.failures import Damaged


class Life:
    """Runs batches on a disk, life after life; knows what was acknowledged and what was begun."""

    def __init__(self, disk, batches):
        self.disk = disk
        self.left = list(batches)
        self.acked = self.begun = Model()
        self.moved = 0

    def run(self):
        """Open, see that nothing is lost, commit what is left with a tidy after each batch."""
        journal = opened(self.disk)
        found = content(journal)
        assert found in (self.acked, self.begun)
        if found != self.acked:
            self.left.pop(0)  # it was durable although nobody was told
        self.acked = self.begun = found
        while self.left:
            self.begun = self.acked.copy()
            for change in self.left[0]:
                self.begun.apply(change)
            assert journal.commit(self.left[0]) == [None] * len(self.left[0])
            self.acked = self.begun
            self.left.pop(0)
            journal.tidy()
            self.moved = max(self.moved, journal.totals.moved)
        journal.close()

    def run_until_power_cut(self, after):
        """Run; the power fails after so many operations. True when it did."""
        self.disk.stop_after = after
        try:
            self.run()
        except PowerCut:
            return True
        finally:
            self.disk.crash()
        return False


def started(seed, batches, torn):
    disk = SimDisk(Random(seed))
    disk.faults.torn = torn
    return Life(disk, batches)


def operations(batches):
    """How many operations a whole run takes; it must be one that moves entries."""
    life = started(0, batches, 0.0)
    life.run()
    assert life.moved > 10
    return life.disk.operations


@pytest.mark.contract("LOG-1", "LOG-2", "LOG-4")
@pytest.mark.parametrize("torn", [0.3, 1.0])
def test_a_crash_at_any_operation_loses_nothing_that_was_acknowledged(torn):
    """After a crash at operation N the journal opens to what was acknowledged, or one more."""
    batches = some_changes(1, 60)
    more = 0
    for point in range(operations(batches)):
        life = started(point, batches, torn)
        assert life.run_until_power_cut(point)
        found = content(opened(life.disk))
        assert found in (life.acked, life.begun), point
        more += found != life.acked
    assert more


@pytest.mark.contract("LOG-1", "LOG-4")
def test_what_a_killed_process_left_is_durable_before_it_counts():
    """SIGKILL at operation N, a start that goes on from there, and then the power fails.

    The batch that was written and never synced is read by the next process; it must not
    vanish afterwards.
    """
    batches = some_changes(1, 60)
    for point in range(0, operations(batches), 3):
        life = started(point, batches, 0.5)
        life.disk.stop_after = point
        with pytest.raises(PowerCut):
            life.run()
        life.disk.processes_ended()
        life.disk.stop_after = None
        found = content(opened(life.disk))
        assert found in (life.acked, life.begun)
        life.disk.crash()
        assert content(opened(life.disk)) == found, point


@pytest.mark.contract("LOG-2")
def test_a_disk_that_misreads_while_a_journal_opens_damages_nothing():
    """What is written back is what was checked, not what another read gives."""
    refused = 0
    for seed in range(300):
        life = started(seed, some_changes(1, 20), 0.0)
        life.run()
        life.disk.faults.flip = 0.3
        try:
            assert content(opened(life.disk)) == life.acked, seed
        except Damaged:
            refused += 1
        life.disk.processes_ended()
        life.disk.faults.flip = 0.0
        assert content(opened(life.disk)) == life.acked, seed
    assert 0 < refused < 300


@pytest.mark.contract("LOG-4")
def test_a_crash_while_recovering_from_a_crash_loses_nothing():
    """The power fails again at every operation of the recovery, and again after that."""
    batches = some_changes(2, 50)
    for point in range(0, operations(batches), 9):
        for second in range(12):
            life = started(point, batches, 1.0)
            life.run_until_power_cut(point)
            life.run_until_power_cut(second)
            assert content(opened(life.disk)) in (life.acked, life.begun), (point, second)


@pytest.mark.contract("LOG-1", "LOG-4")
@pytest.mark.parametrize("seed", range(30))
def test_lives_that_end_in_a_crash_one_after_the_other(seed):
    """Each life goes on from what the last one left; none forgets what any acknowledged."""
    rng = Random(seed)
    life = started(seed, some_changes(seed, 80), 0.9)
    for _ in range(300):  # far more lives than it takes
        if not life.run_until_power_cut(rng.randrange(12, 70)):
            break
    assert not life.left
    assert content(opened(life.disk)) == life.acked

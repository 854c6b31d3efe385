"""Every operation on the disk is a point at which the process, or the power, can end.

A workload runs until the operation numbered N, for every N; then a crash keeps and loses
what it likes of what was not synced. The journal must open again, with all that was
acknowledged and nothing that was not asked for.
"""

from __future__ import annotations

import errno
from random import Random

import pytest
from modelled import FOLDER, SMALL, Model, content, opened, some_changes

from meshsvc.errors import StartError
from meshsvc.sim.disk import PowerCut, SimDisk
from meshsvc.storage.failures import JournalFailed, NoSpace


def run(disk, batches, acked, after_each=None):
    """Open, commit every batch and tidy after each; ``acked`` follows what returned."""
    journal = opened(disk)
    for batch in batches:
        acked.begun = acked.model.copy()
        for change in batch:
            acked.begun.apply(change)
        assert journal.commit(batch) == [None] * len(batch)
        acked.model = acked.begun
        journal.tidy()
    journal.close()


class Acked:
    def __init__(self):
        self.model = self.begun = Model()


def operations(batches):
    """How many operations a whole run takes."""
    disk = SimDisk(Random(0))
    run(disk, batches, Acked())
    return disk.operations


def crash_at(point, seed, batches, torn):
    """The disk as the crash left it, and what was acknowledged and begun by then."""
    disk, acked = SimDisk(Random(seed)), Acked()
    disk.faults.torn = torn
    disk.stop_after = point
    try:
        run(disk, batches, acked)
    except PowerCut:
        disk.crash()
        return disk, acked
    raise AssertionError("the point is beyond the end")


@pytest.mark.contract("LOG-1", "LOG-2", "LOG-4")
@pytest.mark.parametrize("torn", [0.0, 0.5, 1.0])
def test_a_crash_at_any_operation_loses_nothing_that_was_acknowledged(torn):
    """After a crash at operation N the journal opens to what was acknowledged, or one more."""
    batches = some_changes(1, 40)
    more = 0
    for point in range(operations(batches)):
        disk, acked = crash_at(point, point, batches, torn)
        found = content(opened(disk))
        assert found in (acked.model, acked.begun), point
        more += found != acked.model
    assert more or torn == 0.0


@pytest.mark.contract("LOG-4")
def test_a_crash_while_recovering_from_a_crash_loses_nothing():
    """The power fails again at every operation of the recovery, and again after that."""
    batches = some_changes(2, 25)
    for point in range(0, operations(batches), 3):
        for second in range(12):
            disk, acked = crash_at(point, point, batches, 1.0)
            disk.stop_after = second
            try:
                journal = opened(disk)
            except PowerCut:
                disk.crash()
                journal = opened(disk)
            assert content(journal) in (acked.model, acked.begun), (point, second)

"""A simulated disk loses, tears and refuses what a real one may, and no more."""

from __future__ import annotations

import contextlib
from random import Random

import pytest

from meshsvc.model import NO_EPOCH, Epoch
from meshsvc.sim.disk import Faults, PowerCut, SimDisk
from meshsvc.storage.counter import EpochStore
from meshsvc.storage.files import Locked, replace


def test_what_was_replaced_survives_a_crash():
    """After ``replace`` returned, a crash leaves the new content."""
    for seed in range(50):
        disk = SimDisk(Random(seed))
        replace(disk, "/d/f", b"one")
        replace(disk, "/d/f", b"two")
        disk.crash()
        assert disk.read("/d/f") == b"two"


@pytest.mark.contract("SIM-1")
def test_a_power_cut_within_a_save_leaves_the_old_or_the_new():
    """Whatever operation the power fails at, the epoch read back is one of the two, whole."""
    seen = set()
    for seed in range(200):
        disk = SimDisk(Random(seed))
        store = EpochStore(disk, "/d/epoch")
        store.save(Epoch(3, 1))
        disk.stop_after = seed % 5
        with contextlib.suppress(PowerCut):
            store.save(Epoch(3, 2))
        disk.crash()
        seen.add(store.load())
    assert seen == {Epoch(3, 1), Epoch(3, 2)}


def test_a_write_that_was_not_followed_by_sync_dir_may_be_undone():
    """A rename alone is kept by some crashes and undone by others."""
    left = set()
    for seed in range(40):
        disk = SimDisk(Random(seed))
        disk.put("/d/f", b"old")
        disk.write("/d/f.new", b"new")
        disk.rename("/d/f.new", "/d/f")
        disk.crash()
        left.add(disk.read("/d/f"))
    assert left == {b"old", b"new"}


def test_a_torn_write_leaves_whole_pages():
    """What was being written at a crash is there up to some page."""
    sizes = set()
    for seed in range(60):
        disk = SimDisk(Random(seed))
        disk.faults.torn = 1.0
        disk.stop_after = 0
        with pytest.raises(PowerCut):
            disk.write("/d/f", b"x" * 1500)
        disk.crash()
        sizes.add(len(disk.read("/d/f") or b""))
    assert sizes == {0, 512, 1024}


def test_errors_and_flipped_bits():
    """EIO fails operations, ENOSPC writes only, and a flipped bit shows in what is read."""
    disk = SimDisk(Random(1))
    disk.put("/f", b"abc")
    disk.faults = Faults(full=True)
    with pytest.raises(OSError, match="No space"):
        disk.write("/f", b"x")
    assert disk.read("/f") == b"abc"
    disk.faults = Faults(eio=1.0)
    with pytest.raises(OSError, match="Input/output"):
        disk.read("/f")
    disk.faults = Faults(flip=1.0)
    assert disk.read("/f") != b"abc"
    assert len(disk.read("/f")) == 3


def test_a_lock_ends_with_its_process():
    """A second comer is refused until the first is gone."""
    disk = SimDisk(Random(1))
    disk.lock("/l").note("17")
    with pytest.raises(Locked) as caught:
        disk.lock("/l")
    assert caught.value.holder == "17"
    disk.processes_ended()
    disk.lock("/l")


def test_nothing_saved_reads_as_nothing():
    """A fresh disk has no epoch."""
    assert EpochStore(SimDisk(Random(1)), "/d/epoch").load() == NO_EPOCH

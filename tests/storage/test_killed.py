"""A real process, a real disk, a real SIGKILL: what it said was durable is there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random, SystemRandom

import pytest
from killed import GROUPS, SETTINGS, data_of

from meshsvc.storage.files import RealFileSystem
from meshsvc.storage.store import open_store


def mint():
    return SystemRandom().getrandbits(64)


PROGRAM = Path(__file__).with_name("killed.py")


def run_until_killed(data_dir, after_s):
    """Start the process, kill it after a while of appending; the last index acknowledged."""
    process = subprocess.Popen(
        [sys.executable, PROGRAM, data_dir], stdout=subprocess.PIPE, env=os.environ
    )
    try:
        first = process.stdout.readline()  # it is appending now
        time.sleep(after_s)  # where the kill lands is what differs between lives
    finally:
        process.kill()
        rest = process.stdout.read()
        process.wait()
        process.stdout.close()
    last = dict.fromkeys(range(GROUPS), 0)
    lines = (first + rest).decode().splitlines(keepends=True)
    for line in lines:
        if line.endswith("\n"):
            group, index = map(int, line.split())
            last[group] = index
    return last


@pytest.mark.contract("LOG-1", "LOG-4")
@pytest.mark.slow
def test_sigkill_loses_nothing_that_was_acknowledged(tmp_path):
    """Five lives that end in SIGKILL at any moment: every acknowledged entry is there after."""
    data_dir, rng = str(tmp_path), Random(4)
    total = dict.fromkeys(range(GROUPS), 0)
    for _ in range(5):
        last = run_until_killed(data_dir, 0.1 + 0.3 * rng.random())
        store = open_store(RealFileSystem(), data_dir, "ab" * 16, 0, mint, SETTINGS)
        for group in range(GROUPS):
            found = store.recovered(group)
            total[group] = max(total[group], last[group])
            assert found.compacted_index + len(found.entries) >= total[group]
            for entry in found.entries:
                assert entry.data == data_of(group, entry.index)
            assert found.compacted_index <= (found.snapshot.index if found.snapshot else 0)
        store.close()
    assert min(total.values()) > 200

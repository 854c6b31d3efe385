"""Snapshots: bounded chunks, and nothing damaged, cut short or foreign is taken in."""

from __future__ import annotations

import pytest
from kv_replica import Replica, copy

from meshsvc.kv import commands
from meshsvc.kv.api import Compact, DeleteRange, Put, Txn
from meshsvc.kv.commands import BadCommand
from meshsvc.kv.driven import Driven
from meshsvc.kv.snapshot import BadSnapshot
from meshsvc.wire.codec import encode


def filled():
    replica = Replica()
    for start in range(0, 5000, 100):
        replica.do(Txn(success=tuple(Put(b"k%04d" % n, b"v" * 50) for n in
                                     range(start, start + 100))))  # fmt: skip
    replica.do(Compact(10))
    return replica


@pytest.mark.contract("KV-4")
def test_a_revision_that_changed_very_much_is_cut():
    """No chunk is large because one delete hit many keys; the revision stays one."""
    replica = filled()
    replica.do(DeleteRange(b"k", b"l"))
    replica.do(Put(b"k1", b""))
    chunks = list(replica.machine.snapshot())
    assert max(map(len, chunks)) < 512 * 1024
    restored = Replica(copy(replica.machine))
    assert restored.hash() == replica.hash()
    assert len(restored.machine.mvcc.changes(52)) == 5000


@pytest.mark.contract("KV-4")
@pytest.mark.parametrize("what", ["missing", "doubled", "flipped", "cut", "headless", "foreign"])
def test_a_bad_snapshot_is_refused(what):
    """Typed, and before it takes the place of anything."""
    replica = filled()
    chunks = list(replica.machine.snapshot())
    match what:
        case "missing":
            del chunks[-2]
        case "doubled":
            chunks[2:2] = [chunks[2]]
        case "flipped":
            position = chunks[1].index(b"vvvv")
            chunks[1] = chunks[1][:position] + b"w" + chunks[1][position + 1 :]
        case "cut":
            chunks.pop()
        case "headless":
            chunks.pop(0)
        case "foreign":
            chunks[0] = encode([[1, 99, 0, 0, 1, -1, 2, []]])
    taken = []
    driven = Driven(replica.machine, replica.machine.apply, taken.append)
    filling = driven.restore()

    def take():
        for chunk in chunks:
            filling.feed(chunk)
        filling.finish()

    with pytest.raises(BadSnapshot):
        take()
    assert not taken


@pytest.mark.contract("SIM-4")
@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", encode(1), encode([]), encode([99]), encode([1, b"k"]), encode([3, 1, 2, 3])],
)
def test_what_is_no_command_is_refused(data):
    """A damaged log must stop the replica, with an error that says so."""
    with pytest.raises(BadCommand):
        commands.decode(data)

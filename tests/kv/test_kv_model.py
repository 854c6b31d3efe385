"""The store against a naive model of etcd: every answer, every event, every past revision."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_naive import Naive, plain
from kv_replica import Replica, copy
from kv_requests import commands, ranges

from meshsvc.kv.errors import KvError
from meshsvc.kv.mvcc import flat

pruning = st.integers(0, 4)


def answer(machine, request):
    try:
        return plain(machine.range(request))
    except KvError as error:
        return type(error)


def events(machine):
    mvcc = machine.mvcc
    return {
        main: [(int(not version[3]), version) for version in mvcc.changes(main)]
        for main in range(mvcc.first_change, mvcc.revision + 1)
    }


@pytest.mark.contract("KV-1")
@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(commands, pruning, ranges), max_size=40), st.lists(ranges, max_size=10))
def test_answers_are_those_of_the_model(steps, more):
    """Whatever is done, a store answers as etcd would, however much of it was pruned so far."""
    replica, model = Replica(), Naive()
    for command, budget, request in steps:
        expected = model.do(command)
        result = replica.do(command)
        if isinstance(expected, type):
            assert type(result) is expected
        else:
            assert (plain(result), result.header.revision) == expected or result is None
        replica.machine.mvcc.prune(budget)
        assert answer(replica.machine, request) == model.range(request)
    for request in more:
        assert answer(replica.machine, request) == model.range(request)
    kept = {main: model.events[main] for main in events(replica.machine)}
    assert events(replica.machine) == kept
    assert len(replica.machine.mvcc.index) == len(model.states[model.revision])
    held = {
        lease.lease_id: {key for key, kv in model.states[model.revision].items()
                         if kv.lease == lease.lease_id}
        for lease in replica.machine.leases
    }  # fmt: skip
    assert {lease.lease_id: lease.keys for lease in replica.machine.leases} == held


@pytest.mark.contract("KV-1", "KV-4")
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.tuples(commands, pruning), max_size=40),
    st.lists(st.tuples(commands, pruning), max_size=15),
    st.lists(ranges, max_size=5),
)
def test_a_restored_replica_is_the_same(before, after, requests):
    """A snapshot carries everything: hash, answers and what later commands do are the same."""
    first = Replica()
    for command, budget in before:
        first.do(command)
        first.machine.mvcc.prune(budget)
    second = Replica(copy(first.machine))
    assert second.hash() == first.hash()
    assert events(second.machine) == events(first.machine)
    for command, budget in after:
        assert plain(second.do(command)) == plain(first.do(command))
        first.machine.mvcc.prune(budget)
    for request in requests:
        assert answer(second.machine, request) == answer(first.machine, request)
    first.prune()
    assert second.hash() == first.hash()
    second.prune()
    assert second.hash() == first.hash()
    assert {le.lease_id: le.keys for le in second.machine.leases} == {
        le.lease_id: le.keys for le in first.machine.leases
    }
    assert second.machine.mvcc.size == first.machine.mvcc.size


@pytest.mark.contract("KV-4")
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(st.lists(commands, max_size=30), st.lists(commands, max_size=30), st.data())
def test_a_snapshot_is_of_the_moment_it_began(before, meanwhile, data):
    """Writes and compactions while a snapshot is taken are not in it, and it misses nothing."""
    replica = Replica()
    for command in before:
        replica.do(command)
    at_start = replica.hash()
    chunks = replica.machine.snapshot()
    taken = []
    for command in meanwhile:
        replica.do(command)
        replica.machine.mvcc.prune(5)
        if data.draw(st.booleans()):
            taken += [chunk for chunk in [next(chunks, None)] if chunk is not None]
    taken += list(chunks)
    restore = replica.machine.restore()
    for chunk in taken:
        restore.feed(chunk)
    assert Replica(restore.machine).hash() == at_start
    replica.prune()
    assert not replica.machine.mvcc.prunable, "the snapshot gave its pin back"


def test_pruning_gives_back_all_that_nobody_can_read():
    """After a compaction and its pruning only what can still be read takes memory."""
    from meshsvc.kv.api import Compact, DeleteRange, Put

    replica = Replica()
    for number in range(100):
        replica.do(Put(b"key%d" % (number % 10), b"v" * number))
    replica.do(DeleteRange(b"key", b"kez"))
    replica.do(Put(b"last", b""))
    replica.do(Compact(replica.machine.mvcc.revision))
    replica.prune(7)
    mvcc = replica.machine.mvcc
    assert mvcc.size == len(b"last") + 160
    assert list(mvcc.index.keys((b"", None))) == [b"last"]
    assert flat(mvcc.changes(mvcc.revision)) == mvcc.changes(mvcc.revision)

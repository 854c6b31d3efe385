"""Watches: every event once, in order, whole revisions, no gaps, whatever happens meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_replica import Replica
from kv_watching import EVERYTHING, Ear, Node, Run, actions

from meshsvc.kv import api
from meshsvc.kv.api import DeleteRange, Header, Put, Txn, WatchCreate
from meshsvc.kv.watch import WatchHub


@pytest.mark.contract("KV-2")
@settings(max_examples=250, deadline=None, derandomize=True, database=None)
@given(st.lists(actions, max_size=60))
def test_a_watch_hears_everything_once_in_order(steps):
    """Through pauses, compactions, restored snapshots and other watches coming and going."""
    run = Run()
    for name, argument in steps:
        run.step(name, argument)
    run.finish()


def watching(request, **limits):
    node, ear = Node(**limits), Ear()
    stream = node.hub.stream(ear)
    stream.create(request)
    return node, stream, ear


@pytest.mark.contract("KV-2")
def test_a_hundred_watchers_share_one_batch():
    """An event is put together and encoded once, however many hear of it."""
    calls = []
    replica = Replica()
    hub = WatchHub(
        lambda: replica.machine.mvcc,
        lambda revision: Header(revision=revision),
        lambda: None,
        lambda event: calls.append(event) or b"bytes",
    )
    ears = [Ear() for _ in range(100)]
    for ear in ears:
        hub.stream(ear).create(WatchCreate(b"k", b"l"))
    replica.do(Put(b"k1", b"v"))
    hub.flush()
    batches = {id(ear.told[-1].batch) for ear in ears}
    assert len(batches) == 1
    assert len(calls) == 1
    assert ears[99].told[-1].batch.events[0].encoded == b"bytes"


@pytest.mark.contract("KV-2")
def test_a_stalled_stream_is_cut_and_costs_nobody_else():
    """Once 16 MiB have passed a full sink by, its stream is closed; others hear everything."""
    node, slow, ear = watching(EVERYTHING)
    other = Ear()
    node.hub.stream(other).create(EVERYTHING)
    slow.pause()
    for _ in range(17):
        node.do(Put(b"k", b"v" * 1024 * 1024))
        node.hub.flush()
    assert ear.closed is not None
    assert "read the keys and watch anew" in ear.closed
    assert len(other.events(0)) == 17
    assert node.hub.watches == 1


@pytest.mark.contract("KV-2")
def test_a_stalled_stream_goes_on_where_it_stopped():
    """What came while a sink was full is read from history."""
    node, stream, ear = watching(EVERYTHING)
    node.do(Put(b"a", b"1"))
    node.hub.flush()
    stream.pause()
    node.do(Put(b"a", b"2"), Put(b"a", b"3"))
    node.hub.flush()
    assert len(ear.events(0)) == 1
    woken = node.woken
    stream.resume()
    assert node.woken > woken
    node.settle()
    assert [event.kv.value for event in ear.events(0)] == [b"1", b"2", b"3"]
    assert node.hub.behind == 0


@pytest.mark.contract("KV-2")
def test_a_watch_behind_compaction_is_ended_with_the_revision():
    """It is told from where on it can watch again; a watch at exactly that revision goes on."""
    node, ear = Node(), Ear()
    node.do(*[Put(b"k", b"%d" % number) for number in range(8)], api.Compact(5))
    stream = node.hub.stream(ear)
    stream.create(WatchCreate(b"k", start_revision=4))
    stream.create(WatchCreate(b"k", start_revision=5))
    node.settle()
    created, lost = ear.of(0)
    assert created.created
    assert (lost.canceled, lost.compact_revision, lost.batch) == (True, 5, None)
    assert [event.kv.mod_revision for event in ear.events(1)] == [5, 6, 7, 8, 9]


@pytest.mark.contract("KV-2")
@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (WatchCreate(b"b", b"a"), "mvcc: watcher range is empty"),
        (WatchCreate(b"b", start_revision=-1), "etcdserver: mvcc: required revision"),
        (WatchCreate(b"b", watch_id=5), "mvcc: duplicate watch ID provided"),
    ],
)
def test_a_watch_that_cannot_be_is_refused(request_, reason):
    """It is answered with created and canceled, the reason, and no id."""
    node, stream, ear = watching(WatchCreate(b"x", watch_id=5))
    assert stream.create(request_) == api.NO_WATCH
    refused = ear.told[-1]
    assert (refused.watch_id, refused.created, refused.canceled) == (-1, True, True)
    assert refused.cancel_reason.startswith(reason)
    assert node.hub.watches == 1


@pytest.mark.contract("KV-2")
def test_a_large_revision_comes_in_fragments_for_those_who_allow_it():
    """One revision is one response otherwise; of fragments all but the last say that more comes."""
    node, stream, ear = watching(WatchCreate(b"k", b"l", fragment=True), batch=300)
    stream.create(WatchCreate(b"k", b"l"))
    node.do(Txn(success=tuple(Put(b"k%d" % number, b"v" * 100) for number in range(5))))
    node.hub.flush()
    pieces = ear.of(0)[1:]
    assert [piece.fragment for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    assert len(pieces) == 3
    assert len(ear.events(0)) == 5
    assert len(ear.of(1)[1:]) == 1


@pytest.mark.contract("KV-2")
def test_progress_is_told_only_when_everything_before_was_sent():
    """On request for the stream as a whole; by itself to who asked for it and hears nothing."""
    node, ear = Node(), Ear()
    node.do(Put(b"a", b""), Put(b"b", b""))
    stream = node.hub.stream(ear)
    stream.create(WatchCreate(b"a", start_revision=1, progress_notify=True))
    stream.request_progress()
    assert [response.created for response in ear.told] == [True]
    node.settle()
    assert (ear.told[-1].watch_id, ear.told[-1].header.revision) == (-1, 3)
    node.hub.tick(599.0)
    told = len(ear.told)
    node.do(Put(b"other", b""))
    node.hub.flush()
    node.hub.tick(601.0)
    assert len(ear.told) == told + 1
    assert (ear.told[-1].watch_id, ear.told[-1].header.revision) == (0, 4)


@pytest.mark.contract("KV-2")
def test_sinks_may_call_back():
    """A sink may end its watches, begin others, pause or close from within a response."""
    node, ear, late = Node(), Ear(), Ear()
    stream, other = node.hub.stream(ear), node.hub.stream(late)
    for _ in range(3):
        stream.create(EVERYTHING)

    def then(response):
        if response.batch is not None:
            ear.then = None
            stream.cancel(1)
            other.create(WatchCreate(b"\0", b"\0", start_revision=2))
            stream.create(EVERYTHING)
            stream.pause()

    ear.then = then
    node.do(Put(b"a", b"1"), DeleteRange(b"a"))
    node.settle()
    assert ear.events(1) == []
    assert len(late.events(0)) == 2
    stream.resume()
    node.settle()
    assert [len(ear.events(watch_id)) for watch_id in (0, 2, 3)] == [2, 2, 0]
    stream.close()
    other.close()
    assert node.hub.watches == 0
    assert stream.create(EVERYTHING) == api.NO_WATCH


@pytest.mark.contract("KV-2")
def test_ten_thousand_prefixes_are_found_by_look_up():
    """What a change costs does not grow with the number of prefixes that are watched."""
    node, ear = Node(), Ear()
    stream = node.hub.stream(ear)
    for number in range(10_000):
        stream.create(WatchCreate(b"p%05d/" % number, b"p%05d0" % number))
    interests = node.hub._synced
    assert [i.wish.interval[0] for i in interests.of(b"p00077/x")] == [b"p00077/"]
    assert not interests._others
    assert list(interests._lengths) == [7]
    node.do(Put(b"p00077/x", b""), Put(b"q", b""))
    node.hub.flush()
    assert [r.watch_id for r in ear.told if r.batch] == [77]

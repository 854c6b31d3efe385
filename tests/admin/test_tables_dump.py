"""The stream of a whole table: whole, in slices, at the pace of who reads it."""

from __future__ import annotations

import json

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from meshsvc.admin.answers import Problem
from meshsvc.admin.tables.dump import SLICE_BYTES, SLICE_ROWS, STALLED_S, Dump, DumpStream
from meshsvc.admin.tables.values import key_of, value_of
from meshsvc.model import Incarnation, NodeId, ShardId
from meshsvc.tables.replica import Replica
from meshsvc.tables.rows import Kind, Origin, Owner, Row, Schema

ORIGIN = Origin(NodeId("a" * 32), Incarnation(1), ShardId(0), Incarnation(1))


def replica(kind, rows, owner=None):
    made = Replica(Schema("t", kind), lambda owner: False)
    for number, (key, value) in enumerate(rows):
        made.put(Row(number + 1, ORIGIN, False, owner), (key,), (value,), 0)
    return made


def lines(dump):
    data = b"".join(iter(dump.slice, b""))
    return [json.loads(line) for line in data.splitlines()]


@pytest.mark.parametrize("kind", list(Kind))
def test_every_row_once_between_head_and_end(kind):
    """Also in a bag, where a key has a row for each value; bytes are base64."""
    rows = [("b", b"\x00"), (3, {"x": [1]}), (b"k", None), ("b", 7)]
    made = replica(kind, rows, Owner(NodeId("b" * 32), Incarnation(1)))
    head, *found, end = lines(Dump(made, {"name": "t"}, lambda node: node[:2]))
    assert head == {"table": {"name": "t", "keys": 3}}
    assert end == {"end": len(found)} == {"end": 4 if kind is Kind.BAG else 3}
    assert {"key": "b", "value": 7, "version": 4, "owner": "bb"} in found
    assert {"key": {"base64": "aw=="}, "value": None, "version": 3, "owner": "bb"} in found


def test_slices_are_small_and_a_deleted_row_is_left_out():
    """No slice is over its bounds by more than a row, and what is gone meanwhile is not shown."""
    made = replica(Kind.ORDERED, [(n, "x" * 100) for n in range(3000)])
    dump = Dump(made, {}, str)
    slices = [dump.slice()]
    made.put(Row(10_000, ORIGIN, True, None), (2999,), (), 0)
    slices += iter(dump.slice, b"")
    assert all(each.count(b"\n") <= SLICE_ROWS for each in slices)
    assert all(len(each) <= SLICE_BYTES + 200 for each in slices)
    assert json.loads(slices[-1].splitlines()[-1]) == {"end": 2999}


class Request:
    """The few things a stream does with a request."""

    def __init__(self):
        self.written, self.finished, self.producer = [], False, None
        self._gone = Deferred()

    def notifyFinish(self):
        return self._gone

    def registerProducer(self, producer, streaming):
        assert not streaming
        self.producer = producer
        producer.resumeProducing()

    def unregisterProducer(self):
        self.producer = None

    def write(self, data):
        self.written.append(data)

    def finish(self):
        self.finished = True
        self._gone.callback(None)


def start(rows=2000):
    clock, request, over = Clock(), Request(), []
    dump = Dump(replica(Kind.SET, [(n, n) for n in range(rows)]), {}, str)
    stream = DumpStream(dump, request, clock, lambda: over.append("over"))
    stream.start(lambda: over.append("cut"))
    return stream, clock, request, over


def test_a_slice_is_made_when_the_last_one_is_taken():
    """Memory is bounded by the client's pace; the end finishes the request."""
    stream, clock, request, over = start()
    assert len(request.written) == 1
    while not request.finished:
        clock.advance(STALLED_S - 1)
        stream.resumeProducing()
    assert over == ["over"]
    assert b"".join(request.written).endswith(b'{"end":2000}\n')
    assert not clock.getDelayedCalls()


def test_a_client_that_takes_nothing_is_cut():
    """What a dump holds is not held for ever."""
    _, clock, _, over = start()
    clock.advance(STALLED_S)
    assert over == ["over", "cut"]
    assert not clock.getDelayedCalls()


@pytest.mark.parametrize("bad", [{"base64": "!"}, {"base64": 1}, 1.5, True, None, [], {"a": 1}])
def test_what_is_no_key_is_refused(bad):
    """Typed, with what a key is."""
    with pytest.raises(Problem, match=r"base64"):
        key_of(bad)


def test_bytes_are_read_wherever_they_are():
    """In lists and objects; an object with more than base64 is an object."""
    assert value_of([{"a": {"base64": "AAE="}}]) == [{"a": b"\x00\x01"}]
    assert value_of({"base64": "AAE=", "b": 1}) == {"base64": "AAE=", "b": 1}
    deep = 1
    for _ in range(100):
        deep = [deep]
    with pytest.raises(Problem, match="deep"):
        value_of(deep)

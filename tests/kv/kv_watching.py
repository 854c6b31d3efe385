"""A node with a hub and the model beside it; streams whose watches are checked at the end."""

from __future__ import annotations

from hypothesis import strategies as st
from kv_naive import Naive, inside
from kv_replica import Replica, copy
from kv_requests import compactions, ends, keys, writes

from meshsvc.kv.api import Header, WatchCreate
from meshsvc.kv.watch import Limits, WatchHub

EVERYTHING = WatchCreate(b"\0", b"\0")


class Ear:
    """A sink that keeps what each of its watches was told."""

    def __init__(self):
        self.told = []
        self.closed = None
        self.then = None

    def watch_response(self, response):
        self.told.append(response)
        if self.then is not None:
            self.then(response)

    def watch_closed(self, reason):
        self.closed = reason

    def of(self, watch_id):
        return [response for response in self.told if response.watch_id == watch_id]

    def events(self, watch_id):
        batches = [response.batch for response in self.of(watch_id) if response.batch]
        return [event for batch in batches for event in batch.events]


class Node:
    """A replica with a hub, and the model beside it."""

    def __init__(self, **limits):
        self.replica, self.model = Replica(), Naive()
        self.woken = 0
        self.hub = WatchHub(
            lambda: self.replica.machine.mvcc,
            lambda revision: Header(1, 2, revision, 1),
            self._woken,
            limits=Limits(**limits),
        )

    def _woken(self):
        self.woken += 1

    def do(self, *commands):
        for command in commands:
            self.replica.do(command)
            self.model.do(command)

    def prune(self):
        if self.hub.revision >= self.replica.machine.mvcc.compact_revision:
            self.replica.prune()

    def settle(self):
        for _ in range(1000):
            if not (self.hub.flush() | self.hub.sync()):
                return
        raise AssertionError("the hub does not come to an end")

    def restart(self):
        self.replica.machine.adopt(copy(self.replica.machine))
        self.hub.restored()


creates = st.builds(
    WatchCreate,
    keys,
    ends,
    st.just(0) | st.integers(1, 25),
    filters=st.sampled_from([(), (), (0,), (1,), (0, 1)]),
    prev_kv=st.booleans(),
    fragment=st.booleans(),
)
actions = st.one_of(
    st.tuples(st.just("do"), writes),
    st.tuples(st.just("do"), writes),
    st.tuples(st.just("do"), writes),
    st.tuples(st.just("do"), compactions),
    st.tuples(st.just("create"), st.tuples(st.integers(0, 1), creates)),
    st.tuples(st.just("create"), st.tuples(st.integers(0, 1), creates)),
    st.tuples(st.sampled_from(["cancel"]), st.integers(0, 20)),
    st.tuples(st.sampled_from(["pause", "resume"]), st.integers(0, 1)),
    st.tuples(st.sampled_from(["flush", "sync", "prune", "restart"]), st.none()),
    st.tuples(st.sampled_from(["flush", "sync"]), st.none()),
)


class Run:
    """Two streams on one node, and what each watch on them has to hear."""

    def __init__(self):
        self.node = Node(slice_events=3, batch=120)
        self.ears = [Ear(), Ear()]
        self.streams = [self.node.hub.stream(ear) for ear in self.ears]
        self.watches = []

    def step(self, name, argument):
        hub = self.node.hub
        match name:
            case "do":
                self.node.do(argument)
            case "create":
                which, request = argument
                watch_id = self.streams[which].create(request)
                start = request.start_revision or self.node.model.revision + 1
                if watch_id >= 0:
                    self.watches.append([which, watch_id, request, start, None])
            case "cancel" if argument < len(self.watches):
                which, watch_id, *_, end = watch = self.watches[argument]
                if end is None:
                    self.streams[which].cancel(watch_id)
                    watch[4] = "canceled"
            case "pause" | "resume":
                getattr(self.streams[argument], name)()
            case "flush" | "sync":
                getattr(hub, name)()
            case "prune" | "restart":
                getattr(self.node, name)()

    def expected(self, request, start):
        model, found = self.node.model, []
        for revision in range(max(start, 2), model.revision + 1):
            for kind, kv in model.events[revision]:
                wanted = inside(kv.key, request.key, request.range_end)
                if wanted and kind not in request.filters:
                    before = model.states[revision - 1].get(kv.key)
                    found.append((kind, kv, before if request.prev_kv else None))
        return found

    def finish(self):
        for stream in self.streams:
            stream.resume()
        self.node.settle()
        for watch in self.watches:
            self.check(*watch)

    def check(self, which, watch_id, request, start, end):
        ear = self.ears[which]
        heard = [(int(e.kind), e.kv, e.prev_kv) for e in ear.events(watch_id)]
        expected = self.expected(request, start)
        responses = ear.of(watch_id)
        assert responses[0].created
        lost = responses[-1].canceled and end is None
        if lost:
            assert responses[-1].compact_revision > 0
        if end or lost:
            expected = expected[: len(heard)]
        assert [(kind, kv) for kind, kv, _ in heard] == [(kind, kv) for kind, kv, _ in expected]
        compacted = self.node.model.compacted
        for (_, kv, before), (_, _, true) in zip(heard, expected, strict=True):
            assert before == true or (before is None and kv.mod_revision <= compacted + 1)
        self.check_whole(responses)

    def check_whole(self, responses):
        ended = set()
        for response in responses:
            if response.batch is None:
                continue
            revisions = {event.kv.mod_revision for event in response.batch.events}
            assert not ended & revisions, "a revision goes on after it has ended"
            assert max(revisions) <= response.header.revision
            ended |= revisions - ({max(revisions)} if response.fragment else set())

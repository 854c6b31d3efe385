"""The same random requests to our server and to Debian's etcd: the same answers (KV-6).

What may differ is taken out of the answers: ids of cluster and member, terms, what a lease has
left. ``MESHSVC_DIFFERENTIAL`` sets how many requests (``make chaos``: 100,000) and
``MESHSVC_DIFFERENTIAL_SEED`` the seed; a difference names both.
"""

from __future__ import annotations

import os
import queue
from typing import Any

import grpc
import pytest
from aetcd.rpc import rpc_pb2 as pb
from processes import Ours, RealEtcd
from random_requests import Requests

REQUESTS = int(os.environ.get("MESHSVC_DIFFERENTIAL", "2000"))
SEED = int(os.environ.get("MESHSVC_DIFFERENTIAL_SEED", "5"))
WATCH_EVERY = 25
NODELETE = 1
ANSWER_S = 20


class Server:
    """A gRPC client of one server, with answers made comparable."""

    def __init__(self, port: int) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._methods: dict[str, Any] = {}

    def ask(self, path: str, request: Any, response_type: Any) -> tuple[int, str]:
        """(revision in the header or 0, the answer as text)."""
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = self.channel.unary_unary(
                path, type(request).SerializeToString, response_type.FromString
            )
        try:
            answer = method(request, timeout=ANSWER_S)
        except grpc.RpcError as error:
            return 0, f"{error.code().name}: {error.details()}"  # type: ignore[attr-defined]
        return answer.header.revision, comparable(answer)

    def watch(self, request: pb.WatchCreateRequest) -> Watch:
        """A watch that is in place on the server."""
        return Watch(self.channel, request)


class Watch:
    """One watch; ``seen`` is what it was told, batches taken apart."""

    def __init__(self, channel: grpc.Channel, request: pb.WatchCreateRequest) -> None:
        self._asked: queue.Queue[Any] = queue.Queue()
        self._asked.put(pb.WatchRequest(create_request=request))
        self._call = channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            pb.WatchRequest.SerializeToString,
            pb.WatchResponse.FromString,
        )(iter(self._asked.get, None), timeout=ANSWER_S)
        first = next(self._call)
        self.canceled = first.canceled
        self.seen = [f"created {first.created} {first.canceled} {first.cancel_reason}"]

    def read_to(self, revision: int) -> list[str]:
        """Read up to the events of a revision, or the cancellation."""
        try:
            while not self.canceled:
                response = next(self._call)
                if response.canceled:
                    reason = f"{response.compact_revision} {response.cancel_reason}"
                    self.seen.append(f"canceled {reason}")
                    break
                self.seen += [str(event) for event in response.events]
                if response.events and response.events[-1].kv.mod_revision >= revision:
                    break
        finally:
            self._asked.put(None)
            self._call.cancel()
        return self.seen


def comparable(answer: Any) -> str:
    """An answer without what may differ between two servers."""
    answer.header.ClearField("cluster_id")
    answer.header.ClearField("member_id")
    answer.header.ClearField("raft_term")
    if isinstance(answer, pb.LeaseTimeToLiveResponse) and answer.TTL > 0:
        answer.TTL = 1
        answer.keys[:] = sorted(answer.keys)
    if isinstance(answer, pb.LeaseLeasesResponse):
        ids = sorted(lease.ID for lease in answer.leases)
        del answer.leases[:]
        answer.leases.extend(pb.LeaseStatus(ID=each) for each in ids)
    return str(answer)


@pytest.fixture
def servers():
    ours, theirs = Ours(), RealEtcd()
    yield Server(ours.port), Server(theirs.port)
    theirs.stop()
    ours.stop()


@pytest.mark.contract("KV-6", "KV-1", "KV-2", "KV-3")
@pytest.mark.timeout(60 + REQUESTS // 50)
def test_the_same_requests_get_the_same_answers(servers) -> None:
    """Every request of a random sequence is answered alike, texts of failures included."""
    requests = Requests(SEED)
    for number in range(REQUESTS):
        path, request, response_type = requests.next()
        (revision, ours), (_, theirs) = [
            server.ask(path, request, response_type) for server in servers
        ]
        assert ours == theirs, f"seed {SEED}, request {number}: {path}\n{request}"
        requests.revision = max(requests.revision, revision)
        if number % WATCH_EVERY == 0:
            compare_watches(servers, requests, number)


def compare_watches(servers, requests: Requests, number: int) -> None:
    """The same watch on both, from the past up to a change that is made now."""
    request = requests.watch()
    watches = [server.watch(request) for server in servers]
    key = request.key or b"\x00"
    revisions = []
    for path, change, kind in (
        ("Put", pb.PutRequest(key=key, value=b"poke"), pb.PutResponse),
        ("DeleteRange", pb.DeleteRangeRequest(key=key), pb.DeleteRangeResponse),
    ):
        for server in servers:
            revision, _ = server.ask(f"/etcdserverpb.KV/{path}", change, kind)
        revisions.append(revision)
    requests.revision = revisions[-1]
    last = revisions[0] if NODELETE in request.filters else revisions[-1]
    ours, theirs = (watch.read_to(last) for watch in watches)
    assert ours == theirs, f"seed {SEED}, watch after request {number}:\n{request}"

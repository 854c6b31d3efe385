"""A store whose answers a test gives by hand, and a gRPC client made of ``h2``."""

from __future__ import annotations

from typing import Any

import h2.events
from h2peer import REQUEST, Peer
from twisted.internet.defer import Deferred

from meshsvc.counters import Counters
from meshsvc.etcd.calls import Calls
from meshsvc.etcd.grpc import pack
from meshsvc.etcd.observer import Observer
from meshsvc.kv import api, upkeep


class ScriptedStore:
    """Every request waits in ``asked`` as (name, request, Deferred)."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any, Deferred[Any]]] = []
        self.cancelled = 0
        self.leader = 1
        self.watches: list[ScriptedWatch] = []
        self.sink: Any = None

    def header(self) -> api.Header:
        return api.Header(11, 22, 33, 44)

    def watch_stream(self, sink: Any) -> ScriptedWatch:
        self.watches.append(ScriptedWatch(sink))
        return self.watches[-1]

    def snapshot(self, sink: Any) -> Deferred[None]:
        self.sink = sink
        return self._ask("snapshot", None)

    def status(self) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        done.callback(upkeep.StatusResult("3.4.23", 1, self.leader, 5, 2, header=self.header()))
        return done

    def __getattr__(self, name: str) -> Any:
        return lambda request=None: self._ask(name, request)

    def _ask(self, name: str, request: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred(self._cancel)
        self.asked.append((name, request, answer))
        return answer

    def _cancel(self, _answer: Deferred[Any]) -> None:
        self.cancelled += 1

    def answer(self, result: Any) -> None:
        """Answer the oldest request; a request that was cancelled is gone."""
        _, _, answer = self.asked.pop(0)
        if isinstance(result, Exception):
            answer.errback(result)
        else:
            answer.callback(result)


class ScriptedWatch:
    """A stream of watches that notes what it is told."""

    def __init__(self, sink: Any) -> None:
        self.sink = sink
        self.told: list[Any] = []

    def create(self, request: api.WatchCreate) -> int:
        self.told.append(request)
        return 0

    def cancel(self, watch_id: int) -> None:
        self.told.append(("cancel", watch_id))

    def request_progress(self) -> None:
        self.told.append("progress")

    def pause(self) -> None:
        self.told.append("pause")

    def resume(self) -> None:
        self.told.append("resume")

    def close(self) -> None:
        self.told.append("close")


class GrpcPeer(Peer):
    """``Peer`` with calls behind the connection."""

    def __init__(self, store: Any = None, **limits: float) -> None:
        super().__init__(**limits)
        self.store = store or ScriptedStore()
        self.faults: list[BaseException | None] = []
        self.counters = Counters()
        observer = Observer(self.counters, lambda _path, error: self.faults.append(error))
        self.later: list[Any] = []
        self.calls = Calls(
            self.server,
            self.store,
            observer,
            lambda: None,
            lambda: self.now,
            self.later.append,
            Deferred,
        )

    def exchange(self, rounds: int = 50, most: int = 1 << 20) -> None:
        """Carry bytes both ways, and events to the calls."""
        for _ in range(rounds):
            up, down = self.client.data_to_send(), self.server.take_output(most)
            if not up and not down:
                return
            if up:
                self.server.receive(up, self.now)
            self.calls.handle(self.server.take_events(), self.now)
            if down:
                self.heard += self.client.receive_data(down)
        raise AssertionError("the two never fall silent")

    def call(self, path: str, *messages: Any, end: bool = True, **fields: str) -> int:
        """Begin a call; messages are protobuf or bytes that are sent as they are."""
        headers = [(k, path if k == ":path" else v) for k, v in REQUEST]
        headers += [(name.replace("_", "-"), value) for name, value in fields.items()]
        body = b"".join(
            m if isinstance(m, bytes) else pack(m.SerializeToString()) for m in messages
        )
        sid = self.request(end=False, headers=headers)
        for at in range(0, len(body), 16_384):
            if self.open(sid):
                self.client.send_data(sid, body[at : at + 16_384])
                self.exchange()
        if end and self.open(sid):
            self.client.end_stream(sid)
        self.exchange()
        return sid

    def open(self, sid: int) -> bool:
        """Whether the server has not ended a stream."""
        stream = self.client.streams.get(sid)
        return stream is not None and not stream.closed

    def status(self, sid: int) -> tuple[int, str] | None:
        """(code, text) of a call that ended."""
        for event in self.heard:
            if getattr(event, "stream_id", None) != sid:
                continue
            if isinstance(event, h2.events.TrailersReceived | h2.events.ResponseReceived):
                found = {k.decode(): v.decode() for k, v in event.headers}
                if "grpc-status" in found:
                    return int(found["grpc-status"]), found["grpc-message"]
        return None

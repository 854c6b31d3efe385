"""The calls of one gRPC connection: stream events in, responses out.

Why it is hard: a call can end from four sides (the client resets, the store answers, time
runs out, the connection dies), in any order, and what comes after the end must meet nothing.
So a call is looked up by its stream at every step, and leaves the table when it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from meshsvc.etcd import grpc
from meshsvc.etcd.http2.connection import Connection
from meshsvc.etcd.http2.events import DataReceived, Event, StreamLost, StreamOpened, StreamWritable
from meshsvc.etcd.observer import Observer
from meshsvc.etcd.rpc import Procedure, Stream, Streaming, Unary
from meshsvc.etcd.rpcs import PROCEDURES, unknown
from meshsvc.etcd.status import FAULT, Code, RpcFailed, status_of
from meshsvc.kv.backend import KvBackend
from meshsvc.kv.errors import NoLeader
from meshsvc.kv.upkeep import StatusResult

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

BODY_TIMEOUT_S = 60.0
"""From a unary call's head to the end of its request: 1.5 MiB over a slow line takes 10 s."""

HELD_BYTES = 64 * 1024 * 1024
"""Request bytes held for calls that have not sent all, over one connection."""

LEADERLESS_LOOKS = 3
"""Sweeps without a leader after which a stream that asked for one ends: three seconds, as an
election takes one or two."""

SWEEP_S = 1.0
"""How often deadlines are looked at: a client knows its own deadline and hangs up, this only
frees what it left behind."""


class Call:
    """A call in progress."""

    __slots__ = (
        "answer",
        "body_deadline",
        "deadline",
        "gone",
        "held",
        "needs_leader",
        "outlet",
        "path",
        "procedure",
        "reader",
        "requests",
        "started_at",
        "stream",
    )

    def __init__(self, path: str, procedure: Procedure, now: float) -> None:
        self.path = path
        self.procedure = procedure
        self.started_at = now
        self.deadline: float | None = None
        self.body_deadline: float | None = None
        self.reader = grpc.MessageReader()
        self.requests: list[bytes] = []
        """Of a unary call whose end has not come."""
        self.held = 0
        """Bytes of requests that are held, whole or not."""
        self.answer: Deferred[Any] | None = None
        """Of a unary call that the store works on."""
        self.stream: Stream | None = None
        self.outlet: CallOutlet | None = None
        """These two of a streaming call."""
        self.needs_leader = False
        self.gone = False

    def overdue(self, now: float) -> bool:
        """Whether its time is up."""
        body, whole = self.body_deadline, self.deadline
        return (whole is not None and now >= whole) or (body is not None and now >= body)


class CallOutlet:
    """The way back of one streaming call."""

    __slots__ = ("_calls", "_stream_id", "started")

    def __init__(self, calls: Calls, stream_id: int) -> None:
        self._calls = calls
        self._stream_id = stream_id
        self.started = False
        """Whether the response's head was sent."""

    def send(self, message: bytes) -> bool:
        """See ``rpc.Outlet``."""
        connection = self._calls.connection
        if not self.started:
            self.started = True
            connection.headers(self._stream_id, grpc.RESPONSE_HEAD)
        more = connection.data(self._stream_id, grpc.pack(message))
        self._calls.wake()
        return more

    def finish(self, code: int = 0, text: str = "") -> None:
        """See ``rpc.Outlet``."""
        self._calls.finish(self._stream_id, code, text)

    def fail(self, error: BaseException | None) -> None:
        """See ``rpc.Outlet``."""
        self._calls.fail(self._stream_id, error)

    def deferred(self) -> Deferred[None]:
        """See ``rpc.Outlet``."""
        return self._calls.new_deferred()


class Calls:
    """All calls of one connection.

    Args:
        connection: where responses go.
        store: what serves.
        observer: is told of every end, for counters and the log.
        wake: there is output.
        clock: monotonic seconds, for how long calls took.
        later: calls a function in the next turn of the reactor.
        new_deferred: makes a Deferred.
    """

    def __init__(
        self,
        connection: Connection,
        store: KvBackend,
        observer: Observer,
        wake: Callable[[], None],
        clock: Callable[[], float],
        later: Callable[[Callable[[], None]], object],
        new_deferred: Callable[[], Deferred[None]],
    ) -> None:
        self.connection = connection
        self.wake = wake
        self.new_deferred = new_deferred
        self._store = store
        self._observer = observer
        self._calls: dict[int, Call] = {}
        self._held = 0
        self._clock = clock
        self._later = later
        self._now = clock()
        self._leaderless = 0
        self._asking: Deferred[StatusResult] | None = None

    # events

    def handle(self, events: list[Event], now: float) -> None:
        """What the connection reported."""
        self._now = now
        for event in events:
            kind = type(event)
            if kind is DataReceived:
                self._data(*event)
            elif kind is StreamOpened:
                self._opened(event)  # type: ignore[arg-type]
            elif kind is StreamLost:
                self._lost(event.stream_id)  # type: ignore[union-attr]
            elif kind is StreamWritable:
                call = self._calls.get(event.stream_id)  # type: ignore[union-attr]
                if call is not None and call.stream is not None:
                    call.stream.resume()

    def sweep(self, now: float) -> None:
        """End the calls whose time is up; call it every ``SWEEP_S`` or so."""
        self._now = now
        needs_leader = False
        for stream_id, call in list(self._calls.items()):
            needs_leader |= call.needs_leader
            if call.overdue(now):
                self.finish(stream_id, Code.DEADLINE_EXCEEDED, "context deadline exceeded")
        if not needs_leader:
            self._leaderless = 0
        elif self._asking is None:
            self._asking = self._store.status()
            self._asking.addCallbacks(self._leader_seen, self._leader_unknown)

    def end_streams(self, code: int, text: str) -> None:
        """End the streaming calls, which would else go on for ever: the server stops."""
        for stream_id, call in list(self._calls.items()):
            if call.stream is not None:
                self.finish(stream_id, code, text)

    @property
    def open(self) -> int:
        """How many calls are in progress."""
        return len(self._calls)

    def _opened(self, event: StreamOpened) -> None:
        stream_id, head = event.stream_id, grpc.read_head(event.head)
        procedure = PROCEDURES.get(head.path)
        if head.refusal is not None or procedure is None:
            text = unknown(head.path)
            refusal = head.refusal or grpc.failure_block(Code.UNIMPLEMENTED, text)
            self.connection.trailers(stream_id, refusal)
            self._observer.ended("unknown", Code.UNIMPLEMENTED, 0.0)
            return
        call = self._calls[stream_id] = Call(head.path, procedure, self._now)
        if head.timeout_s is not None:
            call.deadline = self._now + head.timeout_s
        if isinstance(procedure, Streaming):
            call.needs_leader = head.needs_leader
            call.outlet = CallOutlet(self, stream_id)
        else:
            call.body_deadline = self._now + BODY_TIMEOUT_S
        if event.ended or call.outlet is not None:
            self._data(stream_id, b"", event.ended)

    def _data(self, stream_id: int, data: bytes, ended: bool) -> None:
        call = self._calls.get(stream_id)
        if call is None:
            return
        try:
            if call.outlet is not None and call.stream is None:
                call.stream = call.procedure.open(self._store, call.outlet)  # type: ignore[union-attr]
            self._read(stream_id, call, data, ended)
        except DecodeError as error:
            text = f"grpc: error unmarshalling request: {error}"
            self.finish(stream_id, Code.INTERNAL, text)
        except Exception as error:  # whatever it is costs one call, not the connection
            self.fail(stream_id, error)

    def _read(self, stream_id: int, call: Call, data: bytes, ended: bool) -> None:
        messages = call.reader.feed(data)
        stream = call.stream
        if stream is not None:
            decode = call.procedure.request_type.FromString
            for message in messages:
                stream.message(decode(message))
        else:
            call.requests += messages
            if ended or len(call.requests) > 1:
                self._invoke(stream_id, call)
                return
        if call.gone:
            return
        self._hold(call, call.reader.buffered + sum(map(len, call.requests)))
        if ended and stream is not None:
            stream.half_closed()

    def _hold(self, call: Call, held: int) -> None:
        self._held += held - call.held
        call.held = held
        if self._held > HELD_BYTES:
            raise RpcFailed(Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests")

    def _invoke(self, stream_id: int, call: Call) -> None:
        if len(call.requests) != 1 or call.reader.buffered:
            text = f"a unary call has one request, {len(call.requests)} whole ones came"
            raise RpcFailed(Code.INTERNAL, text)
        procedure = call.procedure
        assert isinstance(procedure, Unary)
        request = procedure.request_type.FromString(call.requests.pop())
        call.body_deadline = None
        self._held -= call.held
        call.held = 0
        call.answer = answer = procedure.call(self._store, request)
        answer.addCallback(self._answered, stream_id, call, procedure)
        answer.addErrback(self._failed, stream_id, call)

    # answers

    def _answered(self, result: Any, stream_id: int, call: Call, procedure: Unary) -> None:
        if call.gone:
            return
        if procedure.pieces is not None:
            pieces = procedure.pieces(result)
            if pieces is not None:
                self._encode(stream_id, call, pieces, [])
                return
        self._respond(stream_id, call, procedure.encode(result))

    def _encode(
        self, stream_id: int, call: Call, pieces: Iterator[bytes], done: list[bytes]
    ) -> None:
        """Encode a large response, one piece a turn."""
        if call.gone:
            return
        piece = next(pieces, None)
        if piece is None:
            self._respond(stream_id, call, b"".join(done))
        else:
            done.append(piece)
            self._later(lambda: self._encode(stream_id, call, pieces, done))

    def _respond(self, stream_id: int, call: Call, body: bytes) -> None:
        del self._calls[stream_id]
        call.gone = True
        self.connection.respond(stream_id, grpc.RESPONSE_HEAD, grpc.pack(body), grpc.OK_TRAILERS)
        self.wake()
        self._observer.ended(call.path, 0, self._clock() - call.started_at)

    def _failed(self, failure: Failure, stream_id: int, call: Call) -> None:
        if not call.gone:
            call.answer = None  # it has fired: there is nothing to cancel
            self.fail(stream_id, failure.value)

    def fail(self, stream_id: int, error: BaseException | None) -> None:
        """End a call with the status that an error is."""
        call, status = self._calls.get(stream_id), status_of(error)
        if call is not None and status is None:
            self._observer.fault(call.path, error)
        self.finish(stream_id, *(status or FAULT))

    def finish(self, stream_id: int, code: int, text: str) -> None:
        """End a call with a status."""
        call = self._calls.get(stream_id)
        if call is None:
            return
        started = call.outlet is not None and call.outlet.started
        block = grpc.trailers(code, text) if started else grpc.failure_block(code, text)
        self._leave(stream_id, call, code)
        self.connection.trailers(stream_id, block)
        self.wake()

    def _lost(self, stream_id: int) -> None:
        call = self._calls.get(stream_id)
        if call is not None:
            self._leave(stream_id, call, Code.CANCELLED)

    def _leave(self, stream_id: int, call: Call, code: int) -> None:
        del self._calls[stream_id]
        call.gone = True
        self._held -= call.held
        if call.answer is not None:
            call.answer.cancel()
        if call.stream is not None:
            call.stream.close()
        self._observer.ended(call.path, code, self._clock() - call.started_at)

    # streams that want to hear when there is no leader

    def _leader_seen(self, status: StatusResult) -> None:
        self._asking = None
        self._leaderless = 0 if status.leader else self._leaderless + 1
        if self._leaderless < LEADERLESS_LOOKS:
            return
        for stream_id, call in list(self._calls.items()):
            if call.needs_leader:
                self.finish(stream_id, NoLeader.code, NoLeader.text)

    def _leader_unknown(self, _failure: Failure) -> None:
        self._asking = None

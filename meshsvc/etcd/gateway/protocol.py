"""HTTP/1.1 for JSON clients: bounded bodies, bounded time, streams as lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

from google.protobuf.message import Message
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES, HTTPChannel, Request
from zope.interface import implementer

from meshsvc.etcd.gateway.jsonpb import (
    error_body,
    join_pieces,
    parse_requests,
    stream_error,
    to_json,
)
from meshsvc.etcd.gateway.paths import AUTH, HTTP_STATUS, PATHS
from meshsvc.etcd.grpc import MAX_MESSAGE_BYTES
from meshsvc.etcd.observer import Observer
from meshsvc.etcd.rpc import Stream, Streaming, Unary
from meshsvc.etcd.status import FAULT, Code, RpcFailed, status_of
from meshsvc.kv.backend import KvBackend

MAX_BODY_BYTES = MAX_MESSAGE_BYTES * 2
"""Base64 makes four bytes of three, and names and quotes take some: a request that gRPC takes
fits."""

MAX_DISCARDED_BYTES = 64 * 1024 * 1024
"""Of a body over the limit, what is read and thrown away so that its sender sees the answer: most
clients read none before they have sent all."""

BODY_S = 60.0
"""From a request's head to the end of its body."""

IDLE_S = 120.0
"""A connection that asks nothing for this long is closed."""

SERVER_VERSION = "3.4.23"
CLUSTER_VERSION = "3.4.0"
"""The API that is spoken, as clients choose what they use by it."""

JSON = b"application/json"

NO_BROWSERS = "requests from web pages are refused: the store cannot tell whose they are"
"""etcd lets any page that a user opens write to a store on that user's machine."""


@implementer(IPushProducer)
class JsonOutlet:
    """The way back of a streaming call: a line a message."""

    def __init__(self, request: JsonRequest, response_type: type[Message]) -> None:
        self._request = request
        self._type = response_type
        self._paused = False
        self._open = True
        self.stream: Stream | None = None

    def send(self, message: bytes) -> bool:
        """See ``rpc.Outlet``."""
        if self._open:
            line = to_json(self._type.FromString(message))
            self._request.write(b'{"result":' + line.encode() + b"}\n")
        return not self._paused

    def finish(self, code: int = 0, text: str = "") -> None:
        """See ``rpc.Outlet``."""
        if self._open:
            self._open = False
            if code:
                status = HTTP_STATUS.get(code, 500)
                if not self._request.startedWriting:
                    self._request.setResponseCode(status)
                reason = RESPONSES.get(status, b"").decode()
                self._request.write(stream_error(code, text, reason))
            self._request.unregisterProducer()
            self._request.done(code)
            if self.stream is not None:
                self.stream.close()

    def fail(self, error: BaseException | None) -> None:
        """See ``rpc.Outlet``."""
        self.finish(*self._request.status_of(error))

    def lost(self) -> None:
        """The client is gone."""
        self._open = False
        if self.stream is not None:
            self.stream.close()

    def deferred(self) -> Deferred[None]:
        """See ``rpc.Outlet``."""
        return Deferred()

    def pauseProducing(self) -> None:
        """Twisted: the client does not read."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Twisted: it does again."""
        self._paused = False
        if self.stream is not None:
            self.stream.resume()

    def stopProducing(self) -> None:
        """Twisted: it never will."""


class JsonRequest(Request):
    """One request."""

    channel: JsonChannel
    content: BytesIO
    _taken = 0
    _began = 0.0
    _answer: Deferred[Any] | None = None
    outlet: JsonOutlet | None = None
    _name = "unknown"

    def gotLength(self, length: int | None) -> None:
        """Twisted: the head is there."""
        self._began = self.channel.gateway.clock.seconds()
        self.content = BytesIO()  # bounded below: never a temporary file

    def handleContentChunk(self, data: bytes) -> None:
        """Twisted: a part of the body."""
        self._taken += len(data)
        late = self.channel.gateway.clock.seconds() - self._began > BODY_S
        if self._taken > MAX_DISCARDED_BYTES or late:
            self.channel.gateway.observer.refused("body")
            self.channel.forceAbortClient()
        elif self._taken <= MAX_BODY_BYTES:
            self.content.write(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Twisted: the request is whole. Its body is JSON, whatever its type is said to be."""
        self.content.seek(0)
        self.method, self.uri, self.clientproto = command, path, version
        self.path = path.partition(b"?")[0]
        self.process()

    def process(self) -> None:
        """Serve it."""
        self.notifyFinish().addErrback(self._lost)
        try:
            if self._taken > MAX_BODY_BYTES:
                raise _too_large(self._taken)
            if self.requestHeaders.hasHeader(b"origin"):
                raise RpcFailed(Code.PERMISSION_DENIED, NO_BROWSERS)
            self._dispatch(self.path.decode("latin-1"))
        except Exception as error:  # whatever it is costs one request
            self._fail(*self.status_of(error))

    def status_of(self, error: BaseException | None) -> tuple[int, str]:
        """What an error is for the client; one of ours is logged as well."""
        status = status_of(error)
        if status is None:
            self.channel.gateway.observer.fault(self._name, error)
        return status or FAULT

    def done(self, code: int) -> None:
        """Count it and let the connection go on."""
        gateway = self.channel.gateway
        gateway.observer.ended(self._name, code, gateway.clock.seconds() - self._began)
        self.finish()

    def _dispatch(self, path: str) -> None:
        if path in PATHS:
            self._name, procedure = PATHS[path]
            if self.method != b"POST":
                self._plain(405, b"Method Not Allowed\n")
            elif isinstance(procedure, Unary):
                self._unary(procedure)
            else:
                self._stream(procedure)
        elif path.startswith(AUTH):
            raise RpcFailed(Code.UNIMPLEMENTED, "unknown service etcdserverpb.Auth")
        elif path == "/version":
            versions = {"etcdserver": SERVER_VERSION, "etcdcluster": CLUSTER_VERSION}
            self._json(200, json.dumps(versions, separators=(",", ":")).encode())
        elif path == "/health":
            self._call(self.channel.gateway.store.status(), self._health)
        else:
            self._plain(404, b"Not Found\n")

    def _unary(self, procedure: Unary) -> None:
        messages = list(parse_requests(self.content.read(), procedure.request_type))
        if len(messages) > 1:
            raise RpcFailed(Code.INVALID_ARGUMENT, "more than one request in a body")
        request = messages[0] if messages else procedure.request_type()
        _bounded(request)
        answer = procedure.call(self.channel.gateway.store, request)
        self._call(answer, self._answered, procedure)

    def _call(self, answer: Deferred[Any], done: Any, *args: Any) -> None:
        self._answer = answer
        answer.addCallback(done, *args)
        answer.addErrback(self._failed)

    def _answered(self, result: Any, procedure: Unary) -> None:
        pieces = procedure.pieces(result) if procedure.pieces is not None else None
        if pieces is not None:
            self._encode(procedure.response_type, pieces, [])
            return
        self._answer = None
        message = procedure.response_type.FromString(procedure.encode(result))
        self._json(200, to_json(message).encode())

    def _encode(self, kind: type[Message], pieces: Iterator[bytes], done: list[str]) -> None:
        """Encode a large response, one piece a turn."""
        self._answer = None
        if self._disconnected:
            return
        piece = next(pieces, None)
        if piece is None:
            self._json(200, join_pieces(done, "kvs").encode())
        else:
            done.append(to_json(kind.FromString(piece)))
            self.channel.gateway.clock.callLater(0, self._encode, kind, pieces, done)

    def _health(self, status: Any) -> None:
        self._answer = None
        healthy = bool(status.leader) and not status.errors
        body = {"health": "true" if healthy else "false"}
        if not healthy:
            body["reason"] = "; ".join(status.errors) or "RAFT NO LEADER"
        self._json(200 if healthy else 503, json.dumps(body, separators=(",", ":")).encode())

    def _stream(self, procedure: Streaming) -> None:
        messages = list(parse_requests(self.content.read(), procedure.request_type))
        outlet = JsonOutlet(self, procedure.response_type)
        stream = outlet.stream = procedure.open(self.channel.gateway.store, outlet)
        self.outlet = outlet
        self.setHeader(b"content-type", JSON)
        self.registerProducer(outlet, True)
        for message in messages:
            _bounded(message)
            stream.message(message)
        stream.half_closed()

    def _failed(self, failure: Failure) -> None:
        self._answer = None
        if self._disconnected or failure.check(CancelledError):
            return
        self._fail(*self.status_of(failure.value))

    def _lost(self, _failure: Failure) -> None:
        if self._answer is not None:
            self._answer.cancel()
        if self.outlet is not None:
            self.outlet.lost()

    def _fail(self, code: int, text: str) -> None:
        if self.outlet is not None:
            self.outlet.finish(code, text)
            return
        self._json(HTTP_STATUS.get(code, 500), error_body(code, text), code)

    def _json(self, status: int, body: bytes, code: int = 0) -> None:
        self._reply(status, JSON, body, code)

    def _plain(self, status: int, body: bytes) -> None:
        self._reply(status, b"text/plain; charset=utf-8", body, Code.UNKNOWN)

    def _reply(self, status: int, content_type: bytes, body: bytes, code: int) -> None:
        self.setResponseCode(status)
        self.setHeader(b"content-type", content_type)
        self.setHeader(b"content-length", b"%d" % len(body))
        self.write(body)
        self.done(code)


def _bounded(message: Message) -> None:
    """Hold a JSON request to the size that gRPC would take."""
    size = message.ByteSize()
    if size > MAX_MESSAGE_BYTES:
        raise _too_large(size)


def _too_large(size: int) -> RpcFailed:
    text = f"grpc: received message larger than max ({size} vs. {MAX_MESSAGE_BYTES})"
    return RpcFailed(Code.RESOURCE_EXHAUSTED, text)


class JsonChannel(HTTPChannel):
    """One connection of a JSON client."""

    requestFactory = JsonRequest  # noqa: N815 - twisted.web names it
    timeOut = IDLE_S  # type: ignore[assignment]  # noqa: N815 - twisted.web names it

    def __init__(self, gateway: JsonGateway) -> None:
        super().__init__()
        self.gateway = self.factory = gateway

    @property
    def busy(self) -> bool:
        """Whether a request is being read or served."""
        return bool(self.requests)

    def close_after_request(self) -> None:
        """The request in progress is the last; a stream ends here."""
        self.persistent = 0
        outlet = self.requests[0].outlet if self.requests else None
        if outlet is not None:
            outlet.finish(Code.UNAVAILABLE, "etcdserver: server stopped")

    def callLater(self, period: float, func: Callable[[], object]) -> IDelayedCall:
        """Twisted: a timer."""
        return self.gateway.clock.callLater(period, func)


class JsonGateway:
    """What JSON connections share. ``store`` answers, ``observer`` is told of every request."""

    def __init__(self, store: KvBackend, observer: Observer, clock: IReactorTime) -> None:
        self.store = store
        self.observer = observer
        self.clock = clock

    def channel(self) -> JsonChannel:
        """A protocol for one connection."""
        return JsonChannel(self)

    def log(self, request: Request) -> None:
        """Twisted asks for a line for each request; counters tell more."""

"""The admin HTTP side of a node: questions as JSON, calls, events, metrics, health.

Served by shard 0 on the sockets that the supervisor accepted on ``listen.admin``. It asks
for no password, hence belongs on loopback (the default) or behind something that does.
Limits: 256 connections, 30 s of silence, bodies of 1 MiB (``twisted.web`` itself takes a
body of any size), headers of 16 KiB. A body must be JSON and say so: a form on a foreign
web page cannot, so it cannot make a browser on this machine call anything.
"""

# mypy: allow-untyped-calls
# (twisted.web is not annotated; what is overridden here is)

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, HTTPFactory, Request

from meshsvc.admin.answers import Problem, host_served, problem_of, to_json
from meshsvc.admin.events import EventFeed
from meshsvc.admin.replies import Json, Raw
from meshsvc.admin.routes import ROUTES

if TYPE_CHECKING:
    from twisted.internet.interfaces import IProtocolFactory

    from meshsvc.admin.tables.dump import DumpStream
    from meshsvc.admin.view import NodeView

MAX_CONNECTIONS = 256
MAX_BODY = 1024 * 1024
IDLE_S = 30.0

LINGER_S = 2.0
LINGER_BYTES = 16 * MAX_BODY
"""How long, and how much, a refused client may go on sending before it is cut.

Closing at once would reset the connection and lose the very answer that says why.
"""

_log = Logger()


def admin_site(
    view: NodeView, hosts: Collection[str] = (), reactor: Any = None
) -> IProtocolFactory:
    """The factory to hand accepted admin sockets to.

    Args:
        view: the node.
        hosts: names, besides the node's own, that requests may be addressed to.
        reactor: for time-outs; the global one when None.
    """
    return AdminSite(view, hosts, reactor)


class AdminRequest(Request):
    """One request: checks its head, then lets a route answer."""

    channel: AdminChannel
    received = 0

    def gotLength(self, length: int | None) -> None:
        """Refuse a body that says it is too long, before any of it is read."""
        super().gotLength(length)
        if length is not None and length > MAX_BODY:
            self.channel.refuse(_too_large())

    def handleContentChunk(self, data: bytes) -> None:
        """Refuse a body that turns out too long."""
        self.received += len(data)
        if self.channel.refused:
            return
        if self.received > MAX_BODY:
            self.channel.refuse(_too_large())
            return
        super().handleContentChunk(data)

    def process(self) -> None:
        """Answer, whatever happens on the way."""
        if self.channel.refused:
            return
        try:
            answer = self._route()
        except Exception as error:
            self.fail(error)
            return
        if answer is not None:
            self.answer(answer)

    def _route(self) -> Json | Raw | None:
        site: AdminSite = self.channel.factory
        host = self.getHeader("host")
        if not host_served(host, site.names()):
            text = f"this node is not called {host!r}: use an IP, localhost or its own name"
            raise Problem(403, "HostRefused", f"{text}, or list the name in admin.hosts")
        path = self.path.decode("ascii", "replace")
        methods = ROUTES.get(path)
        if methods is None:
            raise Problem(404, "NotFound", f"there is no {path}; try /v1/status")
        method = self.method.decode("ascii", "replace")
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            self.setHeader("allow", ", ".join(methods))
            text = f"{path} takes {', '.join(methods)}, not {method}"
            raise Problem(405, "MethodNotAllowed", text)
        return route(site, self)

    def answer(self, answer: Json | Raw) -> None:
        """Send an answer, unless the client has gone."""
        if self._disconnected or self.finished:
            return
        raw = (
            Raw(to_json(answer.value) + b"\n", status=answer.status)
            if isinstance(answer, Json)
            else answer
        )
        self.setResponseCode(raw.status)
        self.setHeader("content-type", raw.content_type)
        self.setHeader("content-length", str(len(raw.body)))
        self.setHeader("cache-control", "no-store")
        self.setHeader("x-content-type-options", "nosniff")
        self.write(raw.body)
        self.finish()

    def fail(self, error: BaseException) -> None:
        """Send an error; one that nobody expected is logged too."""
        problem = problem_of(error)
        if problem is None:
            _log.failure("admin request {path} failed", Failure(error), path=self.path)
            text = f"{type(error).__name__}: {error}; the node's log has more"
            problem = Problem(500, "Internal", text)
        self.answer(Raw(problem.body() + b"\n", status=problem.status))


class AdminChannel(HTTPChannel):
    """One connection."""

    requestFactory = AdminRequest  # noqa: N815 (twisted.web's name)
    factory: AdminSite
    transport: Any
    refused = False
    drained = 0
    _lingering: Any = None

    def connectionMade(self) -> None:
        """Serve, or say that there are too many."""
        self.factory.channels.add(self)
        if len(self.factory.channels) > MAX_CONNECTIONS:
            self.refuse(Problem(503, "TooManyConnections", f"at most {MAX_CONNECTIONS} at once"))
            return
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """Take data, or drop it once the client was refused."""
        if not self.refused:
            super().dataReceived(data)
            return
        self.drained += len(data)
        if self.drained > LINGER_BYTES:
            self.transport.abortConnection()

    def lineReceived(self, line: bytes) -> None:
        """A head line; dropped after a refusal in the same read."""
        if not self.refused:
            super().lineReceived(line)

    def rawDataReceived(self, data: bytes) -> None:
        """A piece of body; dropped after a refusal in the same read."""
        if not self.refused:
            super().rawDataReceived(data)

    def refuse(self, problem: Problem) -> None:
        """Answer outside of any request, and cut the client a little later."""
        if self.refused:
            return
        self.refused = True
        self.setTimeout(None)
        body = problem.body() + b"\n"
        head = (
            f"HTTP/1.1 {problem.status} {problem.kind}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self._lingering = self.callLater(LINGER_S, self.transport.abortConnection)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Forget the connection."""
        self.factory.channels.discard(self)
        if self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
        super().connectionLost(reason)


class AdminSite(HTTPFactory):
    """All admin connections of a node."""

    protocol = AdminChannel  # type: ignore[assignment]
    noisy = False

    def __init__(self, view: NodeView, hosts: Collection[str], reactor: Any) -> None:
        super().__init__(timeout=IDLE_S, reactor=reactor)
        self.view = view
        self.hosts = hosts
        self.channels: set[AdminChannel] = set()
        self.feed = EventFeed()
        self.dumps: set[DumpStream] = set()
        self._unlisten = view.add_event_listener(self.feed.publish)

    def startFactory(self) -> None:
        """No access log, hence none of its once-a-second clock."""

    def stopFactory(self) -> None:
        """The counterpart of ``startFactory``."""

    def names(self) -> set[str]:
        """The names that requests may be addressed to."""
        return {str(self.view.status().get("name", "")), *self.hosts}

    def close(self) -> None:
        """End the event streams and drop every connection."""
        self._unlisten()
        self.feed.close()
        for channel in tuple(self.channels):
            channel.transport.abortConnection()


def _too_large() -> Problem:
    return Problem(413, "BodyTooLarge", f"a body has at most {MAX_BODY} bytes")

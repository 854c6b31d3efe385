"""The door: a page, JSON of who is on-line, and a WebSocket that is on-line while it is open.

GET /online[?prefix=a]   {"online": {user: where}, "count": n}, at most 1,000 users
GET /online/USER         where that user is, or 404
GET /ws?user=USER        a WebSocket: {"type": "hello", ...} when signed in, close code 4001
                         when the same user signed in elsewhere, 4002 to try again later
"""

from __future__ import annotations

import json
from importlib.resources import files
from itertools import islice
from urllib.parse import unquote

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data
from twisted.web.websocket import WebSocketResource

from presence.registry import SignInFailed

KICKED, TRY_AGAIN, BAD_USER = 4001, 4002, 4003
"""Close codes; 4000 and up are an application's own."""

MAX_USER = 64
MAX_SHOWN = 1000
"""Users in one answer: a list of all is for pages of it, by prefix."""

PING_S = 20.0
"""A browser that is gone without a word is noticed after two of these."""

IDLE_S = 60

log = Logger()


def user_of(text: str) -> str | None:
    """The name of a user, None when it is none."""
    name = text.strip()
    return name if 0 < len(name) <= MAX_USER and name.isprintable() else None


class Connection:
    """One WebSocket: on-line from its sign-in to its end."""

    def __init__(self, registry, clock, user: str | None) -> None:
        self._registry, self._clock, self._user = registry, clock, user
        self._row = None
        self._open = True
        self._ponged = True
        self._pinging = None

    def negotiationStarted(self, transport) -> None:
        """Called with the transport."""
        self._transport = transport

    def negotiationFinished(self) -> None:
        """Called when messages can be sent."""
        if self._user is None:
            self._close(BAD_USER, f"say who you are: /ws?user=NAME, 1 to {MAX_USER} characters")
            return
        self._pinging = self._clock.callLater(PING_S, self._ping)
        signing = Deferred.fromCoroutine(self._sign_in(self._user))
        signing.addErrback(lambda failure: log.failure("signing {user} in", failure))

    async def _sign_in(self, user: str) -> None:
        try:
            row = await self._registry.sign_in(user, self._kicked)
        except SignInFailed as error:
            self._close(TRY_AGAIN, str(error)[:100])
            return
        if not self._open:  # the browser left meanwhile
            await self._registry.sign_out(user, row)
            return
        self._row = row
        hello = {"type": "hello", "user": user, **row, "online": len(self._registry)}
        self._transport.sendTextMessage(json.dumps(hello))

    def _kicked(self) -> None:
        self._row = None
        self._close(KICKED, "signed in elsewhere")

    def _ping(self) -> None:
        if not self._ponged:
            self._close(1011, "no answer to a ping")
            return
        self._ponged = False
        self._transport.ping(b"")
        self._pinging = self._clock.callLater(PING_S, self._ping)

    def _close(self, code: int, text: str) -> None:
        if self._open:
            self._open = False
            self._transport.loseConnection(code, text)

    def pongReceived(self, payload: bytes) -> None:
        """The browser is there."""
        self._ponged = True

    def textMessageReceived(self, message: str) -> None:
        """What is said is nobody's business here: it is said back."""
        self._transport.sendTextMessage(json.dumps({"type": "echo", "text": message[:MAX_USER]}))

    def bytesMessageReceived(self, data: bytes) -> None:
        """Not used."""

    def connectionLost(self, reason) -> None:
        """The browser is gone: so is the session."""
        self._open = False
        if self._pinging is not None and self._pinging.active():
            self._pinging.cancel()
        row, self._row = self._row, None
        if row is not None:
            leaving = Deferred.fromCoroutine(self._registry.sign_out(self._user, row))
            leaving.addErrback(lambda failure: log.failure("signing out", failure))


class Connections:
    """Builds a ``Connection`` for each WebSocket."""

    def __init__(self, registry, clock) -> None:
        self._registry, self._clock = registry, clock

    def buildProtocol(self, request) -> Connection:
        """Called with the request that asks for the upgrade."""
        given = request.args.get(b"user", [b""])[0].decode("utf-8", "replace")
        return Connection(self._registry, self._clock, user_of(given))


class Online(Resource):
    """``/online`` and ``/online/USER``: answered from this shard's copy of the table."""

    isLeaf = True  # noqa: N815

    def __init__(self, registry) -> None:
        super().__init__()
        self._registry = registry

    def render_GET(self, request) -> bytes:
        """All, those of a prefix, or one."""
        user = unquote(b"/".join(request.postpath).decode("ascii", "replace"))
        if user:
            row = self._registry.where(user)
            return _json(request, 200 if row else 404, row or {"error": f"{user} is not on-line"})
        prefix = request.args.get(b"prefix", [b""])[0].decode("utf-8", "replace")
        shown = dict(islice(self._registry.online(prefix), MAX_SHOWN))
        return _json(request, 200, {"online": shown, "count": len(self._registry)})


class QuietSite(Site):
    """A site without an access log."""

    def log(self, request) -> None:
        """Called for each finished request."""


def site(registry, clock) -> Site:
    """The factory to listen with."""
    root = Resource()
    page = files("presence").joinpath("page.html").read_bytes()
    root.putChild(b"", Data(page, "text/html; charset=utf-8"))
    root.putChild(b"online", Online(registry))
    root.putChild(b"ws", WebSocketResource(Connections(registry, clock)))
    return QuietSite(root, parsePOSTFormSubmission=False, timeout=IDLE_S, reactor=clock)


def _json(request, code: int, body: object) -> bytes:
    request.setResponseCode(code)
    request.setHeader(b"content-type", b"application/json")
    return json.dumps(body, ensure_ascii=False).encode() + b"\n"

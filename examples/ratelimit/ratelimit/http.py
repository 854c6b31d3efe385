"""The door: ``POST /allow/<key>`` answers 200, 429 with Retry-After, 400 or 503."""

from __future__ import annotations

import json
from urllib.parse import unquote_to_bytes

from twisted.internet.defer import ensureDeferred
from twisted.logger import Logger
from twisted.web.http import HTTPFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from ratelimit.buckets import retry_after

MAX_KEY = 256
"""Bytes of a key once its percent escapes are decoded."""

MAX_BODY = 64 * 1024
"""A body means nothing here, but a client may send one; the library itself sets no limit."""

IDLE_S = 60
"""An idle keep-alive connection is closed after this."""

TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

PHRASES = {429: b"Too Many Requests"}
"""What the library has no phrase for."""

log = Logger()


class BadKey(Exception):
    """The key in the path is not one."""


def parse_key(path: bytes) -> str:
    """The key in ``/allow/<key>``; slashes within it are part of it.

    Raises:
        BadKey: when it is empty, too long, or not UTF-8.
    """
    key = unquote_to_bytes(path.removeprefix(b"/allow").removeprefix(b"/"))
    if not 0 < len(key) <= MAX_KEY:
        raise BadKey(f"a key has 1 to {MAX_KEY} bytes, this one has {len(key)}: POST /allow/<key>")
    try:
        return key.decode()
    except UnicodeDecodeError as error:
        raise BadKey(f"the key is not UTF-8: {error}") from None


class OwnerUnreachable(Exception):
    """Nobody who may count for the key could be reached; trying again later can help."""


class SmallRequest(Request):
    """A request whose body is limited, whether its length is announced or not."""

    _seen = 0

    def handleContentChunk(self, data: bytes) -> None:
        """Called with each piece of the body."""
        self._seen += len(data)
        if self._seen <= MAX_BODY:
            super().handleContentChunk(data)
        elif self._seen - len(data) <= MAX_BODY:
            self.channel.transport.write(TOO_LARGE)
            self.channel.transport.loseConnection()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Called when the body is complete; one that was too large is answered already."""
        if self._seen <= MAX_BODY:
            super().requestReceived(command, path, version)


class QuietSite(Site):
    """A site without an access log: a line for each decision would cost more than deciding."""

    def log(self, request: Request) -> None:
        """Called for each finished request."""


class Allow(Resource):
    """``/allow/<key>``."""

    isLeaf = True  # noqa: N815

    def __init__(self, limiter) -> None:
        super().__init__()
        self._limiter = limiter

    def render(self, request: Request):
        """Take a token."""
        if request.method != b"POST":
            request.setHeader(b"allow", b"POST")
            return answer(request, 405, {"error": "only POST takes a token"})
        try:
            key = parse_key(request.path)
        except BadKey as error:
            return answer(request, 400, {"error": str(error)})
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)
        work = ensureDeferred(self._limiter.allow(key))
        work.addCallbacks(lambda d: decided(request, d), lambda f: failed(request, f))
        work.addCallback(lambda body: gone or finish(request, body))
        work.addErrback(lambda f: log.failure("answering {path}", f, path=request.path))
        return NOT_DONE_YET


class Missing(Resource):
    """Every other path."""

    isLeaf = True  # noqa: N815

    def render(self, request: Request) -> bytes:
        """Say what there is."""
        return answer(request, 404, {"error": "there is only POST /allow/<key>"})


class Root(Resource):
    """What is at the top."""

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Called for a path that was not put here."""
        return Missing()


def decided(request: Request, decision) -> bytes:
    """The body for a decision, with the status set."""
    body = {"allowed": decision.allowed, "remaining": decision.remaining}
    if decision.allowed:
        return answer(request, 200, body)
    request.setHeader(b"retry-after", str(retry_after(decision)).encode())
    return answer(request, 429, body)


def failed(request: Request, failure) -> bytes:
    """The body when nobody could decide."""
    if failure.check(OwnerUnreachable) is None:
        log.failure("POST {path}", failure, path=request.path)
    request.setHeader(b"retry-after", b"1")
    return answer(request, 503, {"error": failure.getErrorMessage()})


def answer(request: Request, code: int, body: object) -> bytes:
    """Set status and type; return the encoded body."""
    request.setResponseCode(code, PHRASES.get(code))
    request.setHeader(b"content-type", b"application/json")
    return json.dumps(body).encode() + b"\n"


def finish(request: Request, body: bytes) -> None:
    """Send the body of a request that was answered later."""
    request.setHeader(b"content-length", str(len(body)).encode())
    request.write(body)
    request.finish()


def site(limiter, clock) -> HTTPFactory:
    """The factory to listen with; ``limiter.allow(key)`` decides."""
    root = Root()
    root.putChild(b"allow", Allow(limiter))
    return QuietSite(
        root,
        requestFactory=SmallRequest,
        parsePOSTFormSubmission=False,
        timeout=IDLE_S,
        reactor=clock,
    )

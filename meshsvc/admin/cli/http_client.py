"""Asking a node over HTTP for JSON, without Twisted.

Every failure is a ``CliError`` with the exit code that fits. A connection is kept between
requests; one that the node closed meanwhile is opened again once.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.exits import CliError

TIMEOUT_S = 5.0
"""For an answer; a node that is well takes milliseconds."""

HEARTBEATS_MISSED_S = 35.0
"""Two heartbeats of the event stream and some: the node, or the way to it, is gone."""

KEPT_S = 10.0
"""How long a connection is kept between requests. Nodes close idle ones after 30 s at the
earliest; one that a node is just closing loses what is sent on it."""

_MAX_ANSWER = 64 * 1024 * 1024
"""The largest payload there is; more is not an answer."""


class JsonClient:
    """One address that answers JSON; subclasses say what it is and read its errors."""

    what = "an address"
    advice = "name another"

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self.url = url if "://" in url else f"http://{url}"
        self.timeout_s = timeout_s
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname, parts.port or 80
        except ValueError:
            host, port, parts = None, 0, urlsplit("")
        if parts.scheme != "http" or not host or parts.path not in ("", "/"):
            text = f"{url!r} is not {self.what}: write http://HOST:PORT"
            raise CliError(exits.USAGE, text)
        self._at = (host, port)
        self._connection: http.client.HTTPConnection | None = None
        self._used_at = 0.0
        self._changes = False

    def __del__(self) -> None:
        """The verbs ask once and forget it: close what is kept, as sockets should be."""
        with suppress(AttributeError):  # made with an address that is none
            self.close()

    def get(self, path: str, accept: tuple[int, ...] = (200,)) -> Any:
        """The JSON of a path; ``accept`` lists the statuses that carry one.

        Raises:
            CliError: unreachable, or ``Answered`` for another status.
        """
        return self._ask("GET", path, None, self.timeout_s, accept)

    def post(self, path: str, body: object, timeout_s: float | None = None) -> Any:
        """The JSON that a POST of JSON is answered with; raises as ``get``."""
        data = json.dumps(body).encode()
        return self._ask("POST", path, data, timeout_s or self.timeout_s, (200,))

    def lines(
        self, path: str, body: object = None, silence_s: float | None = HEARTBEATS_MISSED_S
    ) -> Iterator[Any]:
        """The objects of a stream of JSON lines, as they come, until it ends.

        ``body`` is POSTed when there is one. ``silence_s`` is how long nothing may come; None
        for a stream without heartbeats.
        """
        data = None if body is None else json.dumps(body).encode()
        response = self._send("GET" if data is None else "POST", path, data, silence_s)
        if response.status != 200:
            raise self._error(response.status, self._read(response))
        while True:
            try:
                line = response.readline()
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(error) from None
            if not line:
                return
            yield self._json(line)

    def close(self) -> None:
        """Let go of the kept connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(
        self, method: str, path: str, body: bytes | None, timeout_s: float, accept: tuple[int, ...]
    ) -> Any:
        response = self._send(method, path, body, timeout_s)
        data = self._read(response)
        if response.status not in accept:
            raise self._error(response.status, data)
        return self._json(data)

    def _send(
        self, method: str, path: str, body: bytes | None, timeout_s: float | None
    ) -> http.client.HTTPResponse:
        now = time.monotonic()
        if now - self._used_at > KEPT_S:
            self.close()
        self._used_at = now
        self._changes = method != "GET"
        kept = self._connection is not None
        connection = self._connection or http.client.HTTPConnection(*self._at)
        connection.timeout = timeout_s
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        self._connection = connection
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            connection.request(method, path, body, headers)
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            # Only a question may be repeated: a call could have run before the connection went.
            if kept and method == "GET" and not isinstance(error, TimeoutError):
                return self._send(method, path, body, timeout_s)
            raise self._unreachable(error) from None

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        try:
            data = response.read(_MAX_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._unreachable(error) from None
        if response.will_close:
            self.close()
        return data

    def _json(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            text = f"{self.url} does not answer like a meshsvc node: is it another service's port?"
            raise CliError(exits.UNREACHABLE, text) from None

    def _error(self, status: int, data: bytes) -> CliError:
        try:
            return self.error_in(status, json.loads(data))
        except (ValueError, KeyError, TypeError, RecursionError):
            text = f"{self.url} answered {status} and no reason: is it another service's port?"
            return CliError(exits.UNREACHABLE, text)

    def error_in(self, status: int, answer: Any) -> CliError:
        """The error that an answer says; may raise what a wrong shape raises."""
        raise KeyError("error")

    def _unreachable(self, error: BaseException) -> CliError:
        if isinstance(error, TimeoutError):
            text = f"no answer in time from {self.url}: whoever listens there is stopped, or busy"
            if self._changes:
                text += "; what was asked may have been done or not"
            return CliError(exits.UNREACHABLE, text)
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        advice = self.advice
        if isinstance(error, ConnectionResetError | http.client.HTTPException):
            advice = f"is that {self.what}, and not another port of the node?"
        return CliError(exits.UNREACHABLE, f"cannot reach a node at {self.url}: {why}; {advice}")

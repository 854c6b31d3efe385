"""Watchers that cost next to nothing: gRPC watch streams read as bytes, over a few connections.

Each stream has as good as endless flow-control windows, and is done when the marker has come
over it. Just enough of HTTP/2 is spoken for that: literal headers, SETTINGS and PING answered.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from dataclasses import dataclass, field

WATCH = b"/etcdserverpb.Watch/Watch"
ENDLESS = 2**31 - 1
DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
ACK, END_HEADERS = 1, 4


@dataclass
class _Connection:
    sock: socket.socket
    waiting: set[int]
    rest: bytearray = field(default_factory=bytearray)
    tails: dict[int, bytes] = field(default_factory=dict)


class Watchers:
    """``count`` watches of all keys below ``prefix`` at one address."""

    def __init__(self, at: str, prefix: bytes, count: int, marker: bytes, connections: int = 10):
        self._marker = marker
        self._selector = selectors.DefaultSelector()
        self._connections: list[_Connection] = []
        host, _, port = at.rpartition(":")
        for number in range(connections):
            streams = range(1, 2 * len(range(number, count, connections)), 2)
            sock = socket.create_connection((host, int(port)), 5)
            sock.sendall(_opening(at.encode()) + b"".join(_watch(s, prefix) for s in streams))
            connection = _Connection(sock, set(streams))
            self._connections.append(connection)
            self._selector.register(sock, selectors.EVENT_READ, connection)

    def settle(self, seconds: float) -> None:
        """Let the watches be created."""
        self._read_until(time.monotonic() + seconds)

    def wait(self, timeout_s: float) -> float:
        """Read until every watch saw the marker; the monotonic moment of the last."""
        left = self._read_until(time.monotonic() + timeout_s)
        if left:
            raise SystemExit(f"{left} watches did not see the last event in {timeout_s:g} s")
        return time.monotonic()

    def close(self) -> None:
        """End all."""
        for connection in self._connections:
            connection.sock.close()
        self._selector.close()

    def _read_until(self, deadline: float) -> int:
        while left := sum(len(each.waiting) for each in self._connections):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return left
            for key, _ in self._selector.select(remaining):
                self._read(key.data)
        return 0

    def _read(self, connection: _Connection) -> None:
        data = connection.sock.recv(1 << 20)
        if not data:
            raise SystemExit("the server closed a connection with watches")
        rest = connection.rest
        rest += data
        at = 0
        while len(rest) - at >= 9:
            size = int.from_bytes(rest[at : at + 3], "big")
            if len(rest) - at < 9 + size:
                break
            kind, flags = rest[at + 3], rest[at + 4]
            stream = int.from_bytes(rest[at + 5 : at + 9], "big")
            self._frame(connection, kind, flags, stream, bytes(rest[at + 9 : at + 9 + size]))
            at += 9 + size
        del rest[:at]

    def _frame(self, on: _Connection, kind: int, flags: int, stream: int, body: bytes) -> None:
        if kind == DATA:
            seen = on.tails.get(stream, b"") + body
            if self._marker in seen:
                on.waiting.discard(stream)
            on.tails[stream] = seen[-len(self._marker) :]
        elif kind == SETTINGS and not flags & ACK:
            on.sock.sendall(_frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            on.sock.sendall(_frame(PING, ACK, 0, body))
        elif kind == GOAWAY:
            raise SystemExit(f"the server said goodbye: {body!r}")


def _opening(host: bytes) -> bytes:
    settings = struct.pack(">HI", 4, ENDLESS)
    window = struct.pack(">I", ENDLESS - 65535)
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + _frame(SETTINGS, 0, 0, settings)
        + _frame(WINDOW_UPDATE, 0, 0, window)
    )


def _watch(stream: int, prefix: bytes) -> bytes:
    headers = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", WATCH),
        (b":authority", b"bench"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
    block = b"".join(_literal(name, value) for name, value in headers)
    end = prefix[:-1] + bytes([prefix[-1] + 1])
    create = _field(1, prefix) + _field(2, end)
    message = _field(1, create)
    body = b"\0" + struct.pack(">I", len(message)) + message
    return _frame(HEADERS, END_HEADERS, stream, block) + _frame(DATA, 0, stream, body)


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    head = len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + body


def _literal(name: bytes, value: bytes) -> bytes:
    """A header field that is not to be indexed; parts shorter than 127 bytes."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2, len(data)]) + data

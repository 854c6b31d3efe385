"""The ``h2`` library as the client of a ``Connection``: a peer that was not written by us."""

from __future__ import annotations

from dataclasses import replace

import h2.config
import h2.connection
import h2.events

from meshsvc.etcd.http2.connection import Connection
from meshsvc.etcd.http2.events import DataReceived, Event, StreamOpened
from meshsvc.etcd.http2.headers import literal_block
from meshsvc.etcd.http2.limits import Limits

REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/etcdserverpb.KV/Put"),
    (":authority", "127.0.0.1:2379"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]
HEAD = literal_block([(":status", "200"), ("content-type", "application/grpc")])
TRAILERS = literal_block([("grpc-status", "0")])


class Peer:
    """A client and a server with a wire of bytes between them."""

    def __init__(self, now: float = 0.0, **limits: float) -> None:
        self.now = now
        self.server = Connection(replace(Limits(), **limits), now)  # type: ignore[arg-type]
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.client.initiate_connection()
        self.seen: list[Event] = []
        self.heard: list[h2.events.Event] = []

    def exchange(self, rounds: int = 50, most: int = 1 << 20) -> None:
        """Carry bytes both ways until both are silent."""
        for _ in range(rounds):
            up, down = self.client.data_to_send(), self.server.take_output(most)
            if not up and not down:
                return
            if up:
                self.server.receive(up, self.now)
                self.seen += self.server.take_events()
            if down:
                self.heard += self.client.receive_data(down)
        raise AssertionError("the two never fall silent")

    def request(self, body: bytes = b"", end: bool = True, headers=REQUEST) -> int:
        """Open a stream."""
        sid = self.client.get_next_available_stream_id()
        self.client.send_headers(sid, headers, end_stream=end and not body)
        if body:
            self.client.send_data(sid, body, end_stream=end)
        return sid

    def told(self, kind: type) -> list:
        """What the client heard, of one type."""
        return [event for event in self.heard if isinstance(event, kind)]

    def events(self, kind: type) -> list:
        """What the server reported, of one type."""
        return [event for event in self.seen if isinstance(event, kind)]

    def bodies(self) -> dict[int, bytes]:
        """Body by stream, as the server saw it."""
        found: dict[int, bytes] = {e.stream_id: b"" for e in self.events(StreamOpened)}
        for event in self.events(DataReceived):
            found[event.stream_id] += event.data
        return found

    def answer(self, sid: int) -> bytes:
        """The body of a response, as the client saw it; its windows are opened again."""
        body = b""
        for event in self.told(h2.events.DataReceived):
            if event.stream_id == sid:
                body += event.data
        return body

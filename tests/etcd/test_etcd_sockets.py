"""Real sockets: clients that vanish or do not read, and what they cost the others."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from aetcd.rpc import rpc_pb2 as pb
from h2peer import REQUEST
from processes import Ours

from meshsvc.etcd.grpc import pack

pytestmark = [pytest.mark.contract("KV-9"), pytest.mark.slow]

WAIT_S = 20.0


@pytest.fixture
def ours():
    server = Ours()
    yield server
    server.stop()


class RawClient:
    """``h2`` on a socket that is read only when a test says so."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.http.initiate_connection()
        self.events: list[h2.events.Event] = []

    def begin(self, path: str, body: bytes, end: bool) -> int:
        """Begin a call and send ``body``."""
        sid = self.http.get_next_available_stream_id()
        headers = [(k, path if k == ":path" else v) for k, v in REQUEST]
        self.http.send_headers(sid, headers)
        self.http.send_data(sid, body, end_stream=end)
        self.socket.sendall(self.http.data_to_send())
        return sid

    def read_until(self, wanted: type) -> h2.events.Event:
        """Read and acknowledge until an event of a type comes."""
        self.socket.settimeout(WAIT_S)
        while not any(isinstance(event, wanted) for event in self.events):
            data = self.socket.recv(1 << 16)
            assert data, f"closed before {wanted.__name__}: {self.events[-3:]}"
            for event in self.http.receive_data(data):
                self.events.append(event)
                if isinstance(event, h2.events.DataReceived):
                    with contextlib.suppress(h2.exceptions.ProtocolError):
                        self.http.acknowledge_received_data(
                            event.flow_controlled_length, event.stream_id
                        )
            self.socket.sendall(self.http.data_to_send())
        return next(event for event in self.events if isinstance(event, wanted))


def stub(port: int, path: str, response_type: type):
    """A plain client of one method, and its channel."""
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    return channel, channel.unary_unary(
        path, lambda m: m.SerializeToString(), response_type.FromString
    )


def descriptors(server: Ours) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def resident_mib(server: Ours) -> float:
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_five_hundred_clients_vanish_at_once(ours: Ours) -> None:
    """In the middle of a request, of a body, of a watch: nothing is left, others are served."""
    channel, put = stub(ours.port, "/etcdserverpb.KV/Put", pb.PutResponse)
    put(pb.PutRequest(key=b"a"), timeout=WAIT_S)
    before = descriptors(ours)
    clients = [RawClient(ours.port) for _ in range(500)]
    for number, client in enumerate(clients):
        if number % 3 == 0:
            client.begin("/etcdserverpb.KV/Put", b"\x00\x00\x00\x10\x00half", end=False)
        elif number % 3 == 1:
            client.begin("/etcdserverpb.Watch/Watch", pack(b""), end=False)
        else:
            client.socket.sendall(b"POST /v3/kv/put HTTP/1.1\r\ncontent-length: 100\r\n\r\n{")
    for client in clients:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.socket.close()
    until = time.monotonic() + WAIT_S
    while descriptors(ours) > before and time.monotonic() < until:
        put(pb.PutRequest(key=b"a"), timeout=WAIT_S)
    assert descriptors(ours) <= before
    channel.close()


@pytest.mark.contract("KV-2")
def test_a_watcher_that_does_not_read_is_cut(ours: Ours) -> None:
    """Others write on at once, memory stays bounded, and the watcher is told when it reads."""
    channel, put = stub(ours.port, "/etcdserverpb.KV/Put", pb.PutResponse)
    create = pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"w"))
    watchers = [RawClient(ours.port) for _ in range(3)]
    for watcher in watchers:
        watcher.begin("/etcdserverpb.Watch/Watch", pack(create.SerializeToString()), end=False)
        watcher.read_until(h2.events.DataReceived)
    value = os.urandom(500_000)
    start = resident_mib(ours)
    slowest = 0.0
    for _ in range(60):
        began = time.monotonic()
        put(pb.PutRequest(key=b"w", value=value), timeout=WAIT_S)
        slowest = max(slowest, time.monotonic() - began)
    grown = resident_mib(ours) - start
    assert slowest < 2.0
    # Each version is kept once in the group's list of entries and once in the history.
    assert grown < 2 * 30 + 60, f"{grown:.0f} MiB"
    for watcher in watchers:
        ended = watcher.read_until(h2.events.TrailersReceived)
        fields = dict(ended.headers)  # type: ignore[attr-defined]
        assert fields[b"grpc-status"] == b"14"
    channel.close()


def test_a_json_watcher_that_does_not_read_is_cut(ours: Ours) -> None:
    """The same over JSON: the stream ends with an error once it is read."""
    channel, put = stub(ours.port, "/etcdserverpb.KV/Put", pb.PutResponse)
    body = json.dumps({"create_request": {"key": "dw=="}}).encode()
    watcher = socket.create_connection(("127.0.0.1", ours.port))
    head = f"POST /v3/watch HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n"
    watcher.sendall(head.encode() + body)
    assert watcher.recv(10)
    value = os.urandom(500_000)
    for _ in range(60):
        put(pb.PutRequest(key=b"w", value=value), timeout=WAIT_S)
    watcher.settimeout(WAIT_S)
    tail = b""
    while b"grpc_code" not in tail:
        data = watcher.recv(1 << 16)
        assert data, "closed without an error"
        tail = tail[-1000:] + data
    watcher.close()
    channel.close()


def test_a_flood_of_pings_is_not_answered_for_ever(ours: Ours) -> None:
    """A peer that floods is cut, quickly, with a reason."""
    client = RawClient(ours.port)
    client.socket.sendall(client.http.data_to_send())
    ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8)
    with contextlib.suppress(OSError):
        for _ in range(60):
            client.socket.sendall(ping * 10_000)
    client.socket.settimeout(WAIT_S)
    received = b""
    with contextlib.suppress(OSError):
        while data := client.socket.recv(1 << 16):
            received += data
    assert len(received) < 100_000

"""The pyzmq side of ``messaging.py``: each role is one process on one CPU.

Both ends do what a service does with a verb: encode [verb, payload] with cbor2, decode it,
look the verb up and call a function. Frames go over TCP on loopback, as between nodes.

    python zmq_roles.py ROLE CPU ENDPOINT COUNT KIND DEPTH
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from time import perf_counter

from cbor2 import dumps, loads
from figures import percentile

sys.path.insert(0, str(Path(__file__).resolve().parent / "benchapp"))
from benchapp.payload import payload as payload_of


def push(zmq, endpoint: str, count: int, kind: str, _: int) -> dict[str, float]:
    """Send one-way verbs."""
    socket = zmq.Context().socket(zmq.PUSH)
    socket.connect(endpoint)
    data = payload_of(kind)
    send = socket.send
    for _ in range(count):
        send(dumps(["bench.sink", data]))
    socket.close(linger=10_000)
    return {}


def pull(zmq, endpoint: str, count: int, _kind: str, _: int) -> dict[str, float]:
    """Take one-way verbs; the rate from the first to the last."""
    socket = zmq.Context().socket(zmq.PULL)
    socket.bind(endpoint)
    seen = [0]

    def sink(_: object) -> None:
        seen[0] += 1

    verbs = {"bench.sink": sink}
    recv = socket.recv
    verb, payload = loads(recv())
    begun = perf_counter()
    verbs[verb](payload)
    while seen[0] < count:
        verb, payload = loads(recv())
        verbs[verb](payload)
    return {"per_s": count / (perf_counter() - begun)}


def router(zmq, endpoint: str, count: int, _kind: str, _: int) -> dict[str, float]:
    """Answer asks."""
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(endpoint)
    verbs = {"bench.echo": lambda payload: payload}
    for _ in range(count):
        who, body = socket.recv_multipart()
        number, verb, payload = loads(body)
        socket.send_multipart([who, dumps([number, verbs[verb](payload)])])
    socket.close(linger=10_000)
    return {}


def dealer(zmq, endpoint: str, count: int, kind: str, depth: int) -> dict[str, float]:
    """Ask, with ``depth`` asks in flight."""
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(endpoint)
    data, pending, took = payload_of(kind), {}, []
    begun, sent = perf_counter(), 0
    while len(took) < count:
        while sent < count and len(pending) < depth:
            sent += 1
            pending[sent] = perf_counter()
            socket.send(dumps([sent, "bench.echo", data]))
        number, _ = loads(socket.recv())
        took.append(perf_counter() - pending.pop(number))
    seconds = perf_counter() - begun
    p50, p99 = (1e6 * percentile(took, share) for share in (0.5, 0.99))
    return {"per_s": count / seconds, "p50": p50, "p99": p99}


def main() -> None:
    """Run one role and print its figures as JSON."""
    role, cpu, endpoint, count, kind, depth = sys.argv[1:]
    os.sched_setaffinity(0, {int(cpu)})  # before zmq starts its I/O thread
    import zmq

    roles = {"push": push, "pull": pull, "router": router, "dealer": dealer}
    print(json.dumps(roles[role](zmq, endpoint, int(count), kind, int(depth))))


main()

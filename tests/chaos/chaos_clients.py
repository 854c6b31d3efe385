"""Clients of a real cluster, in threads: over gRPC and over JSON, keeping what they were told."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from dataclasses import dataclass

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict

from meshsvc.etcd.proto import kv_pb2 as pb
from meshsvc.kv import api
from meshsvc.sim.store.clients import Call, answered, note_unknown
from meshsvc.sim.store.ledger import StoreLedger

TIMEOUT_S = 3.0
KEYS = 5
ROTATE_S = 15.0
"""Keys are left alone after that: what a search costs grows with the history of a key."""

REPLIES = {"Range": pb.RangeResponse, "Put": pb.PutResponse, "Txn": pb.TxnResponse}


class Unanswered(Exception):
    """Nobody knows what became of a call."""


class Grpc:
    """One method call at a time, over gRPC."""

    name = "grpc"

    def __init__(self, port):
        options = [("grpc.max_reconnect_backoff_ms", 300), ("grpc.min_reconnect_backoff_ms", 100)]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)

    def call(self, method, request):
        stub = self.channel.unary_unary(
            f"/etcdserverpb.KV/{method}",
            lambda m: m.SerializeToString(),
            REPLIES[method].FromString,
        )
        try:
            return stub(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            raise Unanswered(error.code()) from None

    def close(self):
        self.channel.close()


class Json:
    """The same over JSON."""

    name = "json"

    def __init__(self, port):
        self.port, self.http = port, None

    def call(self, method, request):
        where = {"Range": "range", "Put": "put", "Txn": "txn"}[method]
        body = json.dumps(MessageToDict(request, preserving_proto_field_name=True))
        try:
            if self.http is None:
                self.http = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
            self.http.request("POST", f"/v3/kv/{where}", body)
            answer = self.http.getresponse()
            text = answer.read()
            if answer.status != http.HTTPStatus.OK:
                raise Unanswered(answer.status)
            return ParseDict(json.loads(text), REPLIES[method](), ignore_unknown_fields=True)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise Unanswered(repr(error)) from None

    def close(self):
        if self.http is not None:
            self.http.close()
            self.http = None


@dataclass(frozen=True)
class Where:
    """Names a node and a way to it, as a life does in the simulator."""

    life: str


def result_of(reply):
    """A reply as ``meshsvc.kv.api`` has it."""
    header = api.Header(revision=reply.header.revision)
    if isinstance(reply, pb.PutResponse):
        return api.PutResult(header=header)
    if isinstance(reply, pb.RangeResponse):
        kvs = tuple(
            api.KeyValue(k.key, k.create_revision, k.mod_revision, k.version, k.value)
            for k in reply.kvs
        )
        return api.RangeResult(kvs, False, reply.count, header)
    inner = tuple(result_of(getattr(r, r.WhichOneof("response"))) for r in reply.responses)
    return api.TxnResult(reply.succeeded, inner, header)


class Client(threading.Thread):
    """Puts, gets and swaps at random nodes until it is told to stop."""

    def __init__(self, ports, ledger: StoreLedger, lock, number):
        super().__init__(daemon=True)
        self.rng = random.Random(number)
        self.ledger, self.lock, self.number = ledger, lock, number
        kind = Grpc if number % 2 else Json
        self.ways = {name: kind(port) for name, port in ports.items()}
        self.began = time.monotonic()
        self.stopping = False

    def run(self):
        while not self.stopping:
            if not self.one():
                time.sleep(0.05)
        for way in self.ways.values():
            way.close()

    def one(self):
        """One call; whether it was answered."""
        name = self.rng.choice(list(self.ways))
        way = self.ways[name]
        age = int((time.monotonic() - self.began) / ROTATE_S)
        key = b"k%d/%d" % (self.rng.randrange(KEYS), age)
        with self.lock:
            method, request, row = self.request(key)
            what = row[0]
            where = Where(f"{name} by {way.name}")
            now = time.monotonic()
            call = Call(self.ledger.next_number(), what, where, key, self.ledger.newest, now, row)
        try:
            result = result_of(way.call(method, request))
        except Unanswered as error:
            with self.lock:
                self.ledger.count(f"{what} {error}"[:40])
                note_unknown(self.ledger, call)
            return False
        with self.lock:
            self.ledger.count(f"{what} ok")
            answered(self.ledger, call, result, time.monotonic())
        return True

    def request(self, key):
        """(method, message, row of the history)."""
        kind = self.rng.random()
        if kind < 0.4:
            return "Range", pb.RangeRequest(key=key), ("get",)
        value = b"%d" % self.ledger.next_number()
        put = pb.PutRequest(key=key, value=value)
        if kind < 0.7:
            return "Put", put, ("put", value)
        old = self.ledger.last_seen.get(key)
        compare = pb.Compare(key=key, target=pb.Compare.VERSION, version=0)
        if old is not None:
            compare = pb.Compare(key=key, target=pb.Compare.VALUE, value=old)
        request = pb.TxnRequest(
            compare=[compare],
            success=[pb.RequestOp(request_put=put)],
            failure=[pb.RequestOp(request_range=pb.RangeRequest(key=key))],
        )
        return "Txn", request, ("cas", old, value)

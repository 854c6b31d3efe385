"""What a connection reports. Named tuples: two are made for every request."""

from __future__ import annotations

from typing import NamedTuple

from meshsvc.etcd.http2.frames import ErrorCode
from meshsvc.etcd.http2.headers import RequestHead


class StreamOpened(NamedTuple):
    """A request began; ``ended`` when it has no body."""

    stream_id: int
    head: RequestHead
    ended: bool


class DataReceived(NamedTuple):
    """Bytes of a request's body; ``ended`` with the last, which may be empty."""

    stream_id: int
    data: bytes
    ended: bool


class StreamLost(NamedTuple):
    """A stream ended before its response did: nobody waits for it any more."""

    stream_id: int
    code: ErrorCode
    text: str


class StreamWritable(NamedTuple):
    """A stream that had too much waiting has room again."""

    stream_id: int


class ConnectionEnded(NamedTuple):
    """Nothing more is received: write the output that is left, then close."""

    code: ErrorCode
    text: str


Event = StreamOpened | DataReceived | StreamLost | StreamWritable | ConnectionEnded

"""Watch: one stream of requests, any number of watches, one stream of responses.

Events are encoded once, whoever watches them: a batch keeps its bytes, and a response is a
few fields of its own before them, as protobuf lets a message be written in pieces.
"""

from __future__ import annotations

from functools import lru_cache

from meshsvc.etcd.proto import kv_pb2 as pb
from meshsvc.etcd.rpc import Outlet, Procedure, Streaming
from meshsvc.etcd.rpcs_kv import fill_header, key_value
from meshsvc.etcd.status import Code
from meshsvc.kv import api
from meshsvc.kv.backend import KvBackend

ONE_BYTE = 128
"""Numbers below take one byte in protobuf."""


class WatchCall:
    """One Watch call: the store's ``WatchSink`` and the carrier's ``Stream``."""

    def __init__(self, store: KvBackend, outlet: Outlet) -> None:
        self._outlet = outlet
        self._paused = False
        self._closed = False
        self._watches = store.watch_stream(self)

    # what the carrier calls

    def message(self, request: pb.WatchRequest) -> None:
        """Create, cancel, or ask how far the watches are."""
        if self._closed:
            return
        kind = request.WhichOneof("request_union")
        if kind == "create_request":
            self._watches.create(watch_create(request.create_request))
        elif kind == "cancel_request":
            self._watches.cancel(request.cancel_request.watch_id)
        elif kind == "progress_request":
            self._watches.request_progress()

    def half_closed(self) -> None:
        """The watches go on: a client need not keep its side open (the JSON gateway does not)."""

    def resume(self) -> None:
        """The client reads again."""
        if self._paused and not self._closed:
            self._paused = False
            self._watches.resume()

    def close(self) -> None:
        """The client is gone."""
        if not self._closed:
            self._closed = True
            self._watches.close()

    # what the store calls

    def watch_response(self, response: api.WatchResponse) -> None:
        """Encode and send; ask the store to wait when the client does not keep up."""
        if self._closed:
            return
        if not self._outlet.send(watch_response(response)) and not self._paused:
            self._paused = True
            self._watches.pause()

    def watch_closed(self, reason: str) -> None:
        """The store ended it. Clients take UNAVAILABLE as a reason to resume elsewhere."""
        if not self._closed:
            self._closed = True
            self._outlet.finish(Code.UNAVAILABLE, reason)


def watch_create(m: pb.WatchCreateRequest) -> api.WatchCreate:
    """A new watch in the store's words."""
    return api.WatchCreate(
        key=m.key,
        range_end=m.range_end,
        start_revision=m.start_revision,
        progress_notify=m.progress_notify,
        filters=tuple(m.filters),
        prev_kv=m.prev_kv,
        watch_id=m.watch_id,
        fragment=m.fragment,
    )


def watch_response(response: api.WatchResponse) -> bytes:
    """A response, encoded."""
    batch = response.batch
    if batch is None or not batch.events:
        return _fields(response)
    if batch.encoded is None:
        batch.encoded = b"".join(map(_event, batch.events))
    special = response.created or response.canceled or response.fragment
    if special or not 0 <= response.watch_id < ONE_BYTE:
        return _fields(response) + batch.encoded
    # What nearly all responses are: a header that other watchers get as well, the id, events.
    return b"%b\x10%c%b" % (_header_field(response.header), response.watch_id, batch.encoded)


def _fields(response: api.WatchResponse) -> bytes:
    m = pb.WatchResponse(
        watch_id=response.watch_id,
        created=response.created,
        canceled=response.canceled,
        compact_revision=response.compact_revision,
        cancel_reason=response.cancel_reason,
        fragment=response.fragment,
    )
    fill_header(m.header, response.header)
    return m.SerializeToString()


@lru_cache(maxsize=16)
def _header_field(header: api.Header) -> bytes:
    """A header as a field of a response; those served in one turn share it."""
    m = pb.WatchResponse()
    fill_header(m.header, header)
    return m.SerializeToString()


def _event(event: api.Event) -> bytes:
    """An event as a field of a response, tag and length included."""
    if event.encoded is None:
        m = pb.Event(type=int(event.kind), kv=key_value(event.kv))  # type: ignore[arg-type]
        if event.prev_kv is not None:
            m.prev_kv.CopyFrom(key_value(event.prev_kv))
        event.encoded = pb.WatchResponse(events=[m]).SerializeToString()
    return event.encoded


WATCH: dict[str, Procedure] = {
    "Watch": Streaming(pb.WatchRequest, pb.WatchResponse, WatchCall),
}

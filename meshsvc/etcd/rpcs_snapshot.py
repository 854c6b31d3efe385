"""Snapshot: the store's snapshot as a stream that clients save as a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshsvc.etcd.proto import upkeep_pb2 as pb
from meshsvc.etcd.rpc import Outlet
from meshsvc.etcd.rpcs_kv import fill_header
from meshsvc.kv import upkeep
from meshsvc.kv.backend import KvBackend

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure


class SnapshotCall:
    """One Snapshot call: the store's ``SnapshotSink`` and the carrier's ``Stream``."""

    def __init__(self, store: KvBackend, outlet: Outlet) -> None:
        self._store = store
        self._outlet = outlet
        self._running: Deferred[Any] | None = None
        self._room: Deferred[None] | None = None
        self._closed = False

    def message(self, _request: pb.SnapshotRequest) -> None:
        """Begin."""
        self._running = self._store.snapshot(self)
        self._running.addCallbacks(self._done, self._failed)

    def half_closed(self) -> None:
        """The one request is all there is to say."""

    def resume(self) -> None:
        """The client reads again: let the store go on."""
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    def close(self) -> None:
        """The client is gone: the store need not go on."""
        if not self._closed:
            self._closed = True
            if self._running is not None:
                self._running.cancel()

    def snapshot_chunk(self, chunk: upkeep.SnapshotChunk) -> Deferred[None] | None:
        """Send one chunk; with a Deferred when the client has to catch up first."""
        if self._closed or self._send(chunk):
            return None
        self._room = self._outlet.deferred()
        return self._room

    def _send(self, chunk: upkeep.SnapshotChunk) -> bool:
        m = pb.SnapshotResponse(remaining_bytes=chunk.remaining, blob=chunk.blob)
        fill_header(m.header, chunk.header)
        return self._outlet.send(m.SerializeToString())

    def _done(self, _result: None) -> None:
        if not self._closed:
            self._closed = True
            self._outlet.finish()

    def _failed(self, failure: Failure) -> None:
        if not self._closed:
            self._closed = True
            self._outlet.fail(failure.value)

"""What a front such as the etcd API calls, and what it has to provide for watches.

Every Deferred ends within the store's time-outs: in a result, or in one of ``errors``. A
request is checked here, not in the front: empty keys, sizes, duplicate keys and so on fail
the same way whichever front they come through. Cancelling a Deferred stops waiting; a write
that is on its way may still happen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from meshsvc.kv import api, upkeep

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


class WatchSink(Protocol):
    """The front's end of a watch stream."""

    def watch_response(self, response: api.WatchResponse) -> None:
        """Take one response to encode and write. Must not raise, and may call the stream."""

    def watch_closed(self, reason: str) -> None:
        """The stream ended from the store's side (it stops, or the sink was too slow)."""


class WatchStream(Protocol):
    """The store's end of a watch stream: any number of watches that share one sink.

    While paused it sends nothing; what changes meanwhile is read from history on ``resume``.
    A stream whose backlog passes 16 MiB while it is paused is closed.
    """

    def create(self, request: api.WatchCreate) -> int:
        """Begin a watch; ``created`` (or ``canceled`` as well, if refused) is sent at once.

        Returns:
            the watch's id, ``NO_WATCH`` when it was refused.
        """

    def cancel(self, watch_id: int) -> None:
        """End a watch; ``canceled`` is sent, unless there is no such watch."""

    def request_progress(self) -> None:
        """Send one response without events for all watches, once all are up to date."""

    def pause(self) -> None:
        """The sink's buffer is full."""

    def resume(self) -> None:
        """The sink can take more."""

    def close(self) -> None:
        """End all watches; nothing more is sent."""


class SnapshotSink(Protocol):
    """Where a snapshot stream goes."""

    def snapshot_chunk(self, chunk: upkeep.SnapshotChunk) -> Deferred[None] | None:
        """Take a chunk; the next one comes when the Deferred, if one is returned, fires."""


class KvBackend(Protocol):
    """The store as a front sees it."""

    def range(self, request: api.Range) -> Deferred[api.RangeResult]:
        """Read; linearizable unless the request says serializable."""

    def put(self, request: api.Put) -> Deferred[api.PutResult]:
        """Write one key."""

    def delete_range(self, request: api.DeleteRange) -> Deferred[api.DeleteRangeResult]:
        """Delete keys."""

    def txn(self, request: api.Txn) -> Deferred[api.TxnResult]:
        """Compare, then do one branch or the other in one revision."""

    def compact(self, request: api.Compact) -> Deferred[api.CompactResult]:
        """Forget history."""

    def lease_grant(self, request: api.LeaseGrant) -> Deferred[api.LeaseGrantResult]:
        """Create a lease."""

    def lease_revoke(self, request: api.LeaseRevoke) -> Deferred[api.LeaseRevokeResult]:
        """End a lease."""

    def lease_keepalive(self, request: api.LeaseKeepAlive) -> Deferred[api.LeaseKeepAliveResult]:
        """Renew a lease."""

    def lease_time_to_live(
        self, request: api.LeaseTimeToLive
    ) -> Deferred[api.LeaseTimeToLiveResult]:
        """How long a lease has."""

    def leases(self) -> Deferred[api.LeasesResult]:
        """All leases."""

    def watch_stream(self, sink: WatchSink) -> WatchStream:
        """Open a stream of watches."""

    def member_list(self, request: upkeep.MemberList) -> Deferred[upkeep.MembersResult]:
        """The members."""

    def member_add(self, request: upkeep.MemberAdd) -> Deferred[upkeep.MembersResult]:
        """Add a member."""

    def member_remove(self, request: upkeep.MemberRemove) -> Deferred[upkeep.MembersResult]:
        """Remove a member."""

    def member_update(self, request: upkeep.MemberUpdate) -> Deferred[upkeep.MembersResult]:
        """Change a member's addresses."""

    def member_promote(self, request: upkeep.MemberPromote) -> Deferred[upkeep.MembersResult]:
        """Make a learner a voter."""

    def status(self) -> Deferred[upkeep.StatusResult]:
        """How this replica is."""

    def alarm(self, request: upkeep.AlarmRequest) -> Deferred[upkeep.AlarmResult]:
        """List, raise or clear alarms."""

    def defragment(self) -> Deferred[upkeep.DefragmentResult]:
        """Give back what memory can be given back."""

    def hash(self) -> Deferred[upkeep.HashResult]:
        """Hash everything this replica holds."""

    def hash_kv(self, request: upkeep.HashKv) -> Deferred[upkeep.HashKvResult]:
        """Hash keys and their history."""

    def snapshot(self, sink: SnapshotSink) -> Deferred[None]:
        """Stream a snapshot into the sink; cancel to stop."""

    def move_leader(self, request: upkeep.MoveLeader) -> Deferred[upkeep.MoveLeaderResult]:
        """Transfer leadership."""

    def header(self) -> api.Header:
        """As of now: for answers that the front makes up itself."""

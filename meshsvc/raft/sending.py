"""A leader's side of snapshots: one chunk at a time to each member that needs one.

The bytes are on the disk, so the core asks its driver for a chunk (``ChunkWanted``) and is
given it. The member answers with the number it wants next, once the one before is written.
That is all there is to flow control, and to going on after a loss: a chunk that is not
answered is sent again, from where the member last said.
"""

from __future__ import annotations

from meshsvc.raft.core import Core
from meshsvc.raft.messages import SnapshotChunk, SnapshotReply
from meshsvc.raft.progress import NEVER, Mode, Progress
from meshsvc.raft.quorum import Member
from meshsvc.raft.ready import ChunkWanted


class SnapshotSending:
    """The snapshots that one leader sends."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @property
    def retry_s(self) -> float:
        """How long a chunk may stay unanswered: the disk at the other end has its time."""
        return self._core.settings.election_s

    def begin(self, member: Member, progress: Progress) -> None:
        """Send the newest snapshot to a member whose next entry is compacted away."""
        snapshot = self._core.snapshot
        assert snapshot is not None, "the log was compacted and there is no snapshot"
        progress.snapshot(snapshot)

    def feed(self, member: Member, progress: Progress) -> None:
        """Fetch the next chunk unless one is under way."""
        core, sent = self._core, progress.sent
        if sent.fetching or core.now < sent.sent_at + self.retry_s or progress.sending is None:
            return
        sent.fetching = True
        core.wanted.append(ChunkWanted(member, progress.sending, sent.number))

    def fetched(self, wanted: ChunkWanted, progress: Progress, data: bytes, done: bool) -> None:
        """Send a chunk that was fetched, if it is still wanted."""
        core, sent = self._core, progress.sent
        if progress.sending != wanted.meta or wanted.number != sent.number or not sent.fetching:
            return
        sent.fetching, sent.sent_at = False, core.now
        message = SnapshotChunk(core.term, wanted.meta, wanted.number, data, done)
        core.tell(wanted.to, message)

    def failed(self, wanted: ChunkWanted, progress: Progress) -> None:
        """A chunk cannot be fetched: begin with the newest snapshot, a while later."""
        if progress.sending == wanted.meta and self._core.snapshot is not None:
            progress.snapshot(self._core.snapshot)
            progress.sent.sent_at = self._core.now

    def reply(self, progress: Progress, reply: SnapshotReply) -> None:
        """The member says which bytes it wants."""
        progress.heard_at = self._core.now
        meta, sent = progress.sending, progress.sent
        if progress.mode is not Mode.SNAPSHOT or meta is None or reply.index != meta.index:
            return
        if reply.number != sent.number:
            sent.number, sent.sent_at, sent.fetching = reply.number, NEVER, False

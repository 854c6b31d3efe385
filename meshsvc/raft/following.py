"""A follower's side of replication: appends, heartbeats, snapshots, and what it passes on."""

from __future__ import annotations

from meshsvc.raft.core import Core
from meshsvc.raft.log import Unsafe
from meshsvc.raft.messages import (
    Append,
    AppendReply,
    Committed,
    Heartbeat,
    HeartbeatReply,
    SnapshotChunk,
    SnapshotReply,
)
from meshsvc.raft.quorum import Member, decode_config
from meshsvc.raft.ready import ChunkReceived
from meshsvc.storage.records import SnapshotMeta


class Following:
    """What a member does with what its leader sends."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._incoming: tuple[Member, SnapshotMeta] | None = None
        self._next = 0
        self._writing = False

    def append(self, leader: Member, message: Append) -> None:
        """Take entries if they follow what is here; else say where we may agree."""
        core, log = self._core, self._core.log
        if message.prev_index < log.commit:
            self._accepted(leader, log.commit)
        elif log.matches(message.prev_index, message.prev_term):
            core.accept(message.entries)
            last = message.prev_index + len(message.entries)
            self._commit(min(message.commit, last))
            self._accepted(leader, last)
        else:
            self._rejected(leader, message)

    def _accepted(self, leader: Member, index: int) -> None:
        self._core.promise(leader, AppendReply(self._core.term, False, index, 0, 0))

    def _rejected(self, leader: Member, message: Append) -> None:
        core, log = self._core, self._core.log
        hint = log.last_not_after(message.prev_index, message.prev_term)
        hint_term = log.term_at(hint) or 0
        core.answer(leader, AppendReply(core.term, True, message.prev_index, hint, hint_term))

    def _commit(self, index: int) -> None:
        core = self._core
        core.log.commit_to(index)
        current = core.configs.current
        gone = core.configs.index <= core.log.commit and core.me not in current.members
        core.removed = gone and bool(current.voters)

    def heartbeat(self, leader: Member, message: Heartbeat) -> None:
        """Confirm that it leads.

        Raises:
            Unsafe: when it counts on entries that this member had acknowledged and has not.
        """
        core = self._core
        if message.commit > core.log.last_index:
            raise Unsafe(
                f"entries up to {message.commit} were acknowledged by this replica, and its log"
                f" ends at {core.log.last_index}: its disk lost data; remove it and add it anew"
            )
        self._commit(message.commit)
        core.answer(leader, HeartbeatReply(core.term, message.round))

    def committed(self, leader: Member, message: Committed) -> None:
        """Take the news; what is missed here comes with a heartbeat."""
        if self._core.log.matches(message.commit, message.commit_term):
            self._commit(message.commit)

    def chunk(self, leader: Member, message: SnapshotChunk) -> None:
        """Take a chunk of a snapshot if it is the one wanted next.

        It is answered when it is written (``kept``), so a slow disk slows its leader down.
        """
        core, meta = self._core, message.meta
        decode_config(meta.config)  # a bad one is refused before anything is kept
        if self._is_needless(meta):
            self._incoming = None
            self._accepted(leader, core.log.commit)
            return
        if self._incoming != (leader, meta):
            self._incoming, self._next, self._writing = (leader, meta), 0, False
        if self._writing:
            return
        if message.number == self._next:
            self._writing = True
            core.received.append(ChunkReceived(meta, message.number, message.data, message.done))
        else:
            core.answer(leader, SnapshotReply(core.term, meta.index, self._next))

    def kept(self, chunk: ChunkReceived, written: bool) -> None:
        """A chunk was written, or could not be: then the snapshot begins anew."""
        core = self._core
        if self._incoming is None or self._incoming[1] != chunk.meta:
            return
        if not self._writing or chunk.number != self._next:
            return
        leader, meta = self._incoming
        self._writing, self._next = False, self._next + 1 if written else 0
        if not (chunk.done and written):
            core.answer(leader, SnapshotReply(core.term, meta.index, self._next))
            return
        self._incoming = None
        if not self._is_needless(meta):
            core.restore(meta)
        self._accepted(leader, core.log.commit)

    def _is_needless(self, meta: SnapshotMeta) -> bool:
        """Whether this log has all that a snapshot stands for; then that is committed.

        To install it all the same would drop the entries after it, and this member may have
        acknowledged those: the snapshot may be late, and appends have overtaken it.
        """
        log = self._core.log
        if meta.index > log.commit and log.matches(meta.index, meta.term):
            self._commit(meta.index)
        return meta.index <= log.commit

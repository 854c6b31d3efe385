"""The disk side of a replica: what its core wants durable, snapshots in and out.

All of it waits for the journal's thread and none of it blocks. A snapshot's chunks are marked
with a byte, ``S`` for sessions and ``M`` for the state machine's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from meshsvc.errors import WireError
from meshsvc.raft.core import CONFIG, FRESH_TERM
from meshsvc.raft.quorum import Config
from meshsvc.raft.ready import ChunkReceived, ChunkWanted, Ready
from meshsvc.raft.sessions import Sessions
from meshsvc.storage.records import Entry, HardState, Recovered, SnapshotMeta

if TYPE_CHECKING:
    from meshsvc.raft.protocol import StateMachine
    from meshsvc.storage.protocol import ReplicaLog, SnapshotSink, SnapshotSource

SESSIONS, MACHINE = b"S", b"M"
"""What a chunk of a snapshot on disk begins with: whose it is."""


def is_empty(recovered: Recovered) -> bool:
    """Whether a disk has never held anything of the group."""
    nothing = recovered.snapshot is None and not recovered.entries
    return nothing and recovered.hard_state == HardState()


async def found(log: ReplicaLog, config: Config) -> Recovered:
    """Write the first entry of a new group; every founding member writes the same one."""
    hard = HardState(FRESH_TERM, 0, 1)
    first = Entry(1, FRESH_TERM, CONFIG, config.encoded())
    await log.append(hard, (first,))
    return Recovered(hard, None, 0, 0, (first,))


async def restored(log: ReplicaLog, machine: StateMachine) -> Sessions:
    """Fill the state machine from the newest durable snapshot.

    Raises:
        WireError: a chunk is neither sessions nor state.
    """
    sessions = Sessions()
    source = await log.open_snapshot()
    if source is None:
        return sessions
    filling = machine.restore()
    try:
        for number in range(source.chunks):
            chunk = await source.chunk(number)
            if chunk[:1] == SESSIONS:
                sessions.feed(chunk[1:])
            elif chunk[:1] == MACHINE:
                filling.feed(chunk[1:])
            else:
                raise WireError(f"chunk {number} of snapshot {source.meta.index} is of no kind")
    finally:
        await source.close()
    filling.finish()
    return sessions


class Disk:
    """One replica's writes of all kinds."""

    def __init__(self, log: ReplicaLog) -> None:
        self._log = log
        self._sink: SnapshotSink | None = None
        self._sink_meta: SnapshotMeta | None = None
        self._sources: dict[int, SnapshotSource] = {}

    async def persist(self, ready: Ready) -> None:
        """Make durable what a ``Ready`` asks for."""
        if ready.snapshot is not None:
            assert self._sink is not None
            assert self._sink_meta == ready.snapshot
            sink, self._sink = self._sink, None
            await sink.finish()
            await self._log.reset(ready.snapshot)
        await self._log.append(ready.hard_state, ready.entries)

    # --- snapshots in --------------------------------------------------------------------

    async def keep(self, chunk: ChunkReceived) -> None:
        """Write a chunk of an incoming snapshot."""
        if chunk.number == 0:
            await self._abandon()
            self._sink = await self._log.begin_snapshot(chunk.meta)
            self._sink_meta = chunk.meta
        if self._sink is None or self._sink_meta != chunk.meta:
            raise WireError(f"chunk {chunk.number} of a snapshot that was not begun")
        await self._sink.add(chunk.data)

    async def _abandon(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            await sink.abandon()

    # --- snapshots out -------------------------------------------------------------------

    async def fetch(self, wanted: ChunkWanted) -> tuple[bytes, bool] | None:
        """A chunk for a member, and whether it is the last; None when it is gone."""
        source = self._sources.get(wanted.to)
        if source is None or source.meta != wanted.meta:
            if source is not None:
                await self._sources.pop(wanted.to).close()
            source = await self._log.open_snapshot()
            if source is None:
                return None
            if source.meta != wanted.meta:
                await source.close()
                return None
            self._sources[wanted.to] = source
        done = wanted.number + 1 >= source.chunks
        data = await source.chunk(wanted.number)
        return data, done

    async def let_go(self, keep: set[int]) -> None:
        """Close the snapshots that members outside ``keep`` were sent."""
        for member in [each for each in self._sources if each not in keep]:
            await self._sources.pop(member).close()

    async def close(self) -> None:
        """Close everything; what is incomplete is given up."""
        await self._abandon()
        await self.let_go(set())

    # --- snapshots of our own ------------------------------------------------------------

    async def save(self, meta: SnapshotMeta, chunks: Marked, keep_after: int) -> None:
        """Write a snapshot, then forget the log up to ``keep_after``."""
        try:
            await self._log.save_snapshot(meta, chunks)
        finally:
            chunks.close()
        if keep_after > 0:
            await self._log.compact(keep_after)


class Marked(Iterator[bytes]):
    """The chunks of a snapshot as of now. A class, since a generator that never ran would
    not give back what the state machine holds on to meanwhile.
    """

    def __init__(self, sessions: Sessions, machine: StateMachine) -> None:
        self._rows = list(sessions.chunks())
        self._state = machine.snapshot()

    def __next__(self) -> bytes:
        if self._rows:
            return SESSIONS + self._rows.pop(0)
        return MACHINE + next(self._state)

    def close(self) -> None:
        """It is not needed any more, complete or not."""
        close = getattr(self._state, "close", None)
        if close is not None:
            close()

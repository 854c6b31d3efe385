"""A member with a disk and a state machine: it does the duties that its core hands out.

It starts what takes time with ``host.run`` and goes on when that is done, so it needs no
reactor. Whoever owns it says when to ``drain``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from meshsvc.raft.core import COMMAND
from meshsvc.raft.disk import Disk, Marked, found, is_empty, restored
from meshsvc.raft.messages import Message, encode_message
from meshsvc.raft.quorum import Config, Member
from meshsvc.raft.raft import Raft
from meshsvc.raft.ready import ChunkReceived, ChunkWanted, Outgoing, Ready
from meshsvc.raft.sessions import Command, Sessions, Verdict, decode_command
from meshsvc.storage.records import Entry, SnapshotMeta

if TYPE_CHECKING:
    from random import Random

    from meshsvc.raft.protocol import StateMachine
    from meshsvc.raft.settings import Settings
    from meshsvc.storage.protocol import ReplicaLog

Then = Callable[[Any, "Exception | None"], None]
"""Called with the result of some work, or with what it failed with."""


MAX_READIES = 1000
"""Done in one turn; far more than there ever are, so that a fault cannot hold the reactor."""


class Host(Protocol):
    """Who owns a replica."""

    def now(self) -> float:
        """Seconds on the clock of the core."""

    def soon(self) -> None:
        """Call ``go_on`` in another turn of the reactor."""

    def run(self, work: Coroutine[Any, Any, Any], then: Then) -> None:
        """Do work that waits for the disk."""

    def send(self, to: Member, data: bytes) -> None:
        """Send a message; it leaves when the turn ends, or with ``flush``."""

    def flush(self) -> None:
        """Let what was sent leave now."""

    def read_known(self, read: int, index: int) -> None:
        """A read may be served from an index on."""

    def command_done(self, command: Command, verdict: Verdict, answer: Any) -> None:
        """A command of anybody's has come by; the answer is None unless it was applied."""

    def snapshot_installed(self) -> None:
        """State and sessions are those of a snapshot: commands were applied unseen."""

    def drained(self) -> None:
        """All duties are done for now."""

    def failed(self, error: Exception) -> None:
        """The replica must not go on."""

    def warn(self, text: str) -> None:
        """Something went wrong that will be tried again."""


class Limits:
    """When a replica makes a snapshot of its own."""

    entries = 100_000
    """Entries between two: a restart applies them again in a second or two."""

    size = 64 * 1024 * 1024
    """Or so many bytes of them, which are in memory."""

    keep = 10_000
    """Entries kept before it, so that a member that was away for a moment needs none."""


class Replica:
    """One member, from its start on; ``raft`` is there once it has started, and ``applied`` is
    the last entry that its state machine has done.
    """

    raft: Raft

    def __init__(
        self, host: Host, log: ReplicaLog, machine: StateMachine, settings: Settings
    ) -> None:
        self._host, self._log, self._machine = host, log, machine
        self._settings = settings
        self._disk = Disk(log)
        self.sessions = Sessions()
        self.limits = Limits()
        self.started = self.stopped = False
        self._draining = self._saving = self._more = False
        self._slice = settings.apply_entries
        self.applied, self._term_applied, self._bytes = 0, 0, 0
        self._encoded: tuple[Message | None, bytes] = (None, b"")
        self._outgoing: list[Outgoing] = []

    async def start(self, founding: Config | None, rng: Random) -> None:
        """Take up what the disk holds; see ``RaftGroup.start``."""
        recovered = self._log.load()
        if founding is not None and is_empty(recovered):
            recovered = await found(self._log, founding)
        self.sessions = await restored(self._log, self._machine)
        snapshot = recovered.snapshot
        if snapshot is not None:
            self.applied, self._term_applied = snapshot.index, snapshot.term
        stored = (recovered.hard_state, snapshot, recovered.entries)
        self.raft = Raft(self._log.replica, stored, self._settings, rng, self._host.now())
        self.started = True

    async def stop(self) -> None:
        """Do nothing more."""
        self.stopped = True
        await self._disk.close()

    # --- duties --------------------------------------------------------------------------

    def drain(self) -> None:
        """Do all duties that there are."""
        if self._draining:
            return
        self._draining = True
        try:
            self._do_all()
        except Exception as error:
            self._host.failed(error)
        finally:
            self._draining = False
        if not self.stopped:
            self._host.drained()

    def _do_all(self) -> None:
        try:
            for _ in range(MAX_READIES):
                if self.stopped or (ready := self.raft.ready()) is None:
                    return
                self._do(ready)
            self._host.soon()
        finally:
            self._speak()

    def go_on(self) -> None:
        """Another turn: apply the next slice, if one waits, and do what else there is."""
        if self._more:
            self._more = False
            self._report_applied()
        self.drain()

    def _do(self, ready: Ready) -> None:
        for chunk in ready.chunks:
            self._keep(chunk)
        if not ready.durable:
            self._outgoing += ready.after
        self._outgoing += ready.messages
        if ready.durable:
            self._speak()
            self._host.flush()  # so that the others write while this disk does
            self._host.run(self._disk.persist(ready), lambda _, error: self._written(ready, error))
        for read in ready.reads:
            self._host.read_known(read.read, read.index)
        self._apply(ready.committed)
        for wanted in ready.wanted:
            self._fetch(wanted)

    def _speak(self) -> None:
        """Send what was put off until what is committed is applied: who proposed comes first."""
        if self._outgoing:
            outgoing, self._outgoing = self._outgoing, []
            self._send(outgoing)

    def _send(self, outgoing: Sequence[Outgoing]) -> None:
        for to, message in outgoing:
            known, data = self._encoded
            if known is not message:  # two members at one place get the same object
                data = encode_message(message)
                self._encoded = (message, data)
            self._host.send(to, data)

    def _written(self, ready: Ready, error: Exception | None) -> None:
        if self.stopped:
            return
        if error is not None:
            self._host.failed(error)
        elif ready.snapshot is not None:
            self._host.run(self._install(ready), lambda _, error: self._installed(error))
        else:
            self._persisted(ready)

    def _persisted(self, ready: Ready) -> None:
        self._send(ready.after)
        self._host.flush()
        self.raft.persisted(ready, self._host.now())
        self.drain()

    async def _install(self, ready: Ready) -> None:
        assert ready.snapshot is not None
        self.sessions = await restored(self._log, self._machine)
        self.applied, self._term_applied = ready.snapshot.index, ready.snapshot.term
        self._bytes = 0
        if not self.stopped:
            self._host.snapshot_installed()
            self._persisted(ready)

    def _installed(self, error: Exception | None) -> None:
        if error is not None and not self.stopped:
            self._host.failed(error)

    # --- applying ------------------------------------------------------------------------

    def _apply(self, entries: tuple[Entry, ...]) -> None:
        if not entries:
            return
        done = [self._apply_command(entry) for entry in entries if entry.kind == COMMAND]
        self._bytes += sum(len(entry.data) for entry in entries)
        self.applied, self._term_applied = entries[-1].index, entries[-1].term
        if len(entries) < self._slice:
            self._report_applied()
        else:
            self._more = True  # a log full of them: not all in one turn
            self._host.soon()
        for command, verdict, answer in done:
            self._host.command_done(command, verdict, answer)

    def _report_applied(self) -> None:
        self.raft.applied(self.applied)
        self._save_snapshot()

    def _apply_command(self, entry: Entry) -> tuple[Command, Verdict, Any]:
        command = decode_command(entry.data)
        verdict = self.sessions.admit(command, entry.index)
        if verdict is not Verdict.APPLY:
            return command, verdict, None
        return command, verdict, self._machine.apply(command.data, entry.index, entry.term)

    # --- snapshots -----------------------------------------------------------------------

    def _keep(self, chunk: ChunkReceived) -> None:
        def written(_: Any, error: Exception | None) -> None:
            if self.stopped:
                return
            if error is not None:
                self._host.warn(f"a snapshot that was received could not be kept: {error}")
            self.raft.kept(chunk, error is None, self._host.now())
            self.drain()

        self._host.run(self._disk.keep(chunk), written)

    def _fetch(self, wanted: ChunkWanted) -> None:
        def fetched(result: Any, error: Exception | None) -> None:
            if self.stopped:
                return
            data, done = (None, False) if error is not None or result is None else result
            self.raft.chunk(wanted, data, done, self._host.now())
            self.drain()

        self._host.run(self._disk.fetch(wanted), fetched)

    def _save_snapshot(self) -> None:
        """Begin a snapshot of our own when the log has grown enough."""
        grown = self.applied - self.raft.log_base
        enough = grown >= self.limits.entries + self.limits.keep or self._bytes >= self.limits.size
        if self._saving or not enough:
            return
        self._saving, self._bytes = True, 0
        config = self.raft.config_at(self.applied).encoded()
        meta = SnapshotMeta(self.applied, self._term_applied, config)
        keep_after = max(self.raft.log_base, meta.index - self.limits.keep)

        def saved(_: Any, error: Exception | None) -> None:
            self._saving = False
            if error is not None:
                self._host.warn(f"no snapshot was made, the log goes on growing: {error}")
            elif not self.stopped:
                self.raft.compacted(meta, keep_after)

        chunks = Marked(self.sessions, self._machine)
        self._host.run(self._disk.save(meta, chunks, keep_after), saved)

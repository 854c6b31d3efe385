"""What a member owes its driver, put together as one ``Ready``, and what is settled of it.

One write is under way at a time: while it is, nothing else that must be durable is handed
out, and neither are the promises that wait for it.
"""

from __future__ import annotations

from meshsvc.raft.core import Core
from meshsvc.raft.ready import Outgoing, Ready
from meshsvc.storage.records import Entry, HardState, SnapshotMeta


class Duties:
    """The duties of one member."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._saving = False

    def ready(self) -> Ready | None:
        """What is to be done now, None when there is nothing."""
        core = self._core
        limits = core.settings
        committed = core.log.take_committed(limits.apply_bytes, limits.apply_entries)
        snapshot, hard, entries, after = self._to_persist()
        said = core.received or core.free or core.reads or core.wanted
        if not (said or committed or after or entries or hard or snapshot):
            return None
        ready = Ready(
            tuple(core.received),
            snapshot,
            hard,
            entries,
            after,
            tuple(core.free),
            committed,
            tuple(core.reads),
            tuple(core.wanted),
        )
        for taken in (core.received, core.free, core.reads, core.wanted):
            taken.clear()
        self._saving = self._saving or ready.durable
        return ready

    def _to_persist(
        self,
    ) -> tuple[SnapshotMeta | None, HardState | None, tuple[Entry, ...], tuple[Outgoing, ...]]:
        core = self._core
        if self._saving:
            return None, None, (), ()
        snapshot, entries = core.installing, core.log.hand_out()
        after = tuple(core.promises)
        core.promises.clear()
        hard: HardState | None = HardState(core.term, core.vote, core.log.commit)
        saved = core.saved
        must = (core.term, core.vote) != (saved.term, saved.vote)
        # How far is committed can be learned again, so it goes along but asks for no write.
        if not must and not snapshot and (not entries or core.log.commit == saved.commit):
            hard = None
        return snapshot, hard, entries, after

    def persisted(self, ready: Ready) -> None:
        """What a ``Ready`` asked to be durable is durable."""
        core = self._core
        self._saving = False
        if ready.hard_state is not None:
            core.saved = ready.hard_state
        if ready.snapshot is not None:
            core.snapshot = ready.snapshot
            core.log.persisted(ready.snapshot.index, ready.snapshot.term)
            if core.installing == ready.snapshot:
                core.installing = None
        if ready.entries:
            core.log.persisted(ready.entries[-1].index, ready.entries[-1].term)

    def applied(self, index: int) -> None:
        """The state machine has applied the entries that ``Ready.committed`` ended with."""
        log = self._core.log
        if index == log.applying:
            log.applied = index

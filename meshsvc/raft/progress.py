"""What a leader knows of one other member, and how much it may send there.

``PROBE``: where the logs agree is unknown; one append at a time, the next after an answer or a
heartbeat. ``REPLICATE``: appends follow one another without waiting, up to the window.
``SNAPSHOT``: the member lacks entries that are compacted away and gets a snapshot.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum

from meshsvc.raft.settings import Settings
from meshsvc.storage.records import SnapshotMeta

NEVER = float("-inf")


class Mode(IntEnum):
    """How a member is being fed."""

    PROBE = 0
    REPLICATE = 1
    SNAPSHOT = 2


class Progress:
    """One member, as its leader sees it.

    ``match`` is the last entry known to be durable there, ``next`` the first to be sent,
    ``heard_at`` when it last answered in this term, ``acked_round`` the last heartbeat round
    it confirmed.
    """

    __slots__ = (
        *("acked_round", "commit_sent", "heard_at", "inflight", "inflight_bytes", "match"),
        *("mode", "moved_at", "next", "poke", "sending", "sent", "waiting"),
    )

    def __init__(self, next_index: int, now: float) -> None:
        self.mode = Mode.PROBE
        self.match = 0
        self.next = next_index
        self.heard_at = now
        self.moved_at = now
        self.acked_round = 0
        self.commit_sent = 0
        self.poke = True
        self.waiting = False
        self.inflight: deque[tuple[int, int]] = deque()
        self.inflight_bytes = 0
        self.sending: SnapshotMeta | None = None
        self.sent = Sending()

    def may_send(self, settings: Settings) -> bool:
        """Whether the window has room."""
        if self.mode is Mode.PROBE:
            return not self.waiting
        return self.mode is Mode.REPLICATE and (
            len(self.inflight) < settings.window_messages
            and self.inflight_bytes < settings.window_bytes
        )

    def appended(self, last: int, size: int, commit: int, now: float) -> None:
        """An append was sent whose last entry (or the one before it, if empty) is ``last``."""
        self.poke = False
        self.commit_sent = max(self.commit_sent, min(commit, last))
        if self.mode is Mode.PROBE:
            self.waiting = True
        elif last >= self.next:
            self.next = last + 1
            if not self.inflight:
                self.moved_at = now
            self.inflight.append((last, size))
            self.inflight_bytes += size

    def accepted(self, index: int, now: float) -> bool:
        """The member has everything up to ``index``; True when that is news."""
        while self.inflight and self.inflight[0][0] <= index:
            self.inflight_bytes -= self.inflight.popleft()[1]
        self.waiting = False
        news = index > self.match
        if news:
            self.moved_at = now
        self.match = max(self.match, index)
        self.next = max(self.next, self.match + 1)
        if self.mode is Mode.PROBE or (self.mode is Mode.SNAPSHOT and self._snapshot_done(index)):
            self.replicate()
        return news

    def _snapshot_done(self, index: int) -> bool:
        return self.sending is not None and index >= self.sending.index

    def rejected(self, index: int, hint: int) -> bool:
        """The member lacks the entry before an append, ``index``; ``hint`` is where it may
        agree. False when this answers something that is settled since.
        """
        if self.mode is Mode.REPLICATE:
            if index <= self.match:
                return False
            self.probe()
            self.next = max(self.match + 1, min(index, hint + 1))
            return True
        if self.mode is Mode.SNAPSHOT or self.next - 1 != index:
            return False
        self.next = max(self.match + 1, min(index, hint + 1))
        self.waiting = False
        self.poke = True
        return True

    def lost(self) -> None:
        """What is under way may not arrive: send nothing until a heartbeat is answered.

        Another append at once would be lost as well, and reported, and so on for ever.
        """
        if self.mode is Mode.REPLICATE:
            self.probe()
        self.waiting = True

    def nudge(self, now: float, patience_s: float) -> None:
        """A heartbeat was answered: the way is open, so whatever is unanswered may be lost.

        An append that pokes finds out. A full window leaves no room for one, and may be full
        because the disk at the other end is slow, so it is given ``patience_s``.
        """
        self.waiting = False
        self.poke = True
        if self.inflight and now - self.moved_at > patience_s:
            self.probe()

    def probe(self) -> None:
        """Go back to one append at a time, from what is certain."""
        self._enter(Mode.PROBE)
        self.next = self.match + 1
        self.poke = True

    def replicate(self) -> None:
        """Where the logs agree is known: stream."""
        self._enter(Mode.REPLICATE)
        self.next = self.match + 1

    def snapshot(self, meta: SnapshotMeta) -> None:
        """Send this snapshot, from its start."""
        self._enter(Mode.SNAPSHOT)
        self.sending = meta

    def _enter(self, mode: Mode) -> None:
        self.mode = mode
        self.waiting = False
        self.inflight.clear()
        self.inflight_bytes = 0
        self.sending = None
        self.sent = Sending()


class Sending:
    """How far a snapshot is on its way: ``number`` is the chunk the member wants next."""

    __slots__ = ("fetching", "number", "sent_at")

    def __init__(self) -> None:
        self.number = 0
        self.fetching = False
        self.sent_at = NEVER

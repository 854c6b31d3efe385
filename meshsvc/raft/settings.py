"""Times and limits of a Raft group, each with its reason. All members use the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor


@dataclass(frozen=True, slots=True)
class Settings:
    """Times in seconds, sizes in bytes.

    Args:
        election_s: how long a voter that heard its leader denies its vote to others. Whoever
            hears nothing campaigns after one to two of these, drawn at random.
        heartbeat_s: how often a leader speaks when it has nothing to say; see ``next_beat``.
        lease_share: the part of ``election_s`` for which a leader trusts a quorum's answer
            without asking again. The rest covers clocks that run at different rates.
        append_bytes: entries in one append; below the frame of a mebibyte with room for
            what carries it. A single larger entry still travels, alone.
        append_entries: entries in one append: what a follower takes in a few milliseconds.
        window_messages: appends under way to one follower before the first is answered.
        window_bytes: bytes under way to one follower: a round trip of 10 ms at 800 MB/s.
        uncommitted_bytes: proposals a leader holds that are not committed; beyond it new
            ones are refused, or a leader without a quorum would fill its memory.
        apply_bytes: committed entries handed out at once; applying them is one slice of
            the reactor's time.
        apply_entries: the same, as a number: a few milliseconds of applying.
        reads: read requests a leader holds until a quorum has confirmed it.
        forwards: proposals a follower passes on in one message.
        promote_lag: entries a learner may lack and still become a voter. A voter that
            lacks more could stall every commit while it catches up (thesis, 4.2.1).
    """

    election_s: float = 1.0
    heartbeat_s: float = 0.1
    lease_share: float = 0.8
    append_bytes: int = 512 * 1024
    append_entries: int = 1024
    window_messages: int = 64
    window_bytes: int = 8 * 1024 * 1024
    uncommitted_bytes: int = 64 * 1024 * 1024
    apply_bytes: int = 1024 * 1024
    apply_entries: int = 512
    reads: int = 16384
    forwards: int = 1024
    promote_lag: int = 1024

    @property
    def lease_s(self) -> float:
        """How long a quorum's answer lets a leader serve reads, from when it asked."""
        return self.election_s * self.lease_share

    def next_beat(self, now: float) -> float:
        """When a leader that speaks now speaks next: a whole multiple of ``heartbeat_s``.

        So all groups that one process leads speak in the same turn, and their messages to one
        node, and its answers, share a frame. Half an interval to one and a half from now.
        """
        return (floor(now / self.heartbeat_s + 0.5) + 1) * self.heartbeat_s

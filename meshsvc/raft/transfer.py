"""Handing leadership over on purpose: for a stop without failed writes, or by an operator.

The leader takes no proposals meanwhile, brings the heir's log up to its own, and tells it to
campaign at once (thesis, 3.10). An heir that does not make it within an election time is
given up; the leader then goes on.
"""

from __future__ import annotations

from meshsvc.raft.core import Core
from meshsvc.raft.messages import TimeoutNow
from meshsvc.raft.quorum import NOBODY, Member
from meshsvc.raft.reads import Reads


class Transfer:
    """The transfer of one leader's term; at most one is under way."""

    def __init__(self, core: Core, reads: Reads) -> None:
        self._core = core
        self._reads = reads
        self.heir: Member = NOBODY
        self.until = float("inf")
        self._told = False

    @property
    def running(self) -> bool:
        """Whether one is under way: then nothing is proposed."""
        return self.heir != NOBODY

    def begin(self, heir: Member, match: int) -> bool:
        """Start, or start over with another heir; False when it is no voter but oneself."""
        core = self._core
        if heir == core.me or heir not in core.configs.current.voters:
            return False
        if heir != self.heir:
            self.heir, self._told = heir, False
            self.until = core.now + core.settings.election_s
        self.advance(match, heir)
        return True

    def advance(self, match: int, member: Member) -> None:
        """The heir's log has grown: once it has everything, let it campaign."""
        core = self._core
        if member != self.heir or self._told or match < core.log.last_index:
            return
        self._told = True
        self.hand_to(member)

    def hand_to(self, member: Member) -> None:
        """Tell a member to campaign. From now on this leader's lease means nothing."""
        self._reads.lease_off = True
        self._core.tell(member, TimeoutNow(self._core.term))

    def tick(self) -> None:
        """Give up when it takes too long."""
        if self.running and self._core.now >= self.until:
            self.heir, self.until = NOBODY, float("inf")

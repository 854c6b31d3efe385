"""Reads that see every write acknowledged before them, without an entry in the log.

Two ways, both only after the leader has committed an entry of its own term, or its commit
index may lag behind what an earlier leader acknowledged (thesis, 6.4):

- *ReadIndex*: remember the commit index, have a quorum confirm in a heartbeat round begun
  later that this is still the leader, then read once that index is applied. All reads that
  wait share a round.
- *Lease*: a quorum confirmed a round that began at T, and each of its members denies its vote
  for an election time after it heard of that round, hence until T + election at least. Until
  T + ``lease_s`` nobody else can lead, if clocks run at rates that differ by less than
  ``lease_share`` allows. Once this leader has told another to campaign, that is no longer
  so, as such a campaign is exempt: then the lease is off for the rest of the term.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from meshsvc.raft.core import Core
from meshsvc.raft.messages import ReadReply
from meshsvc.raft.quorum import Member
from meshsvc.raft.ready import ReadState


class _Waiting(NamedTuple):
    asker: Member
    read: int
    after: int
    round: int


class Reads:
    """The reads of one leader's term."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._early: deque[tuple[Member, int]] = deque()
        self._waiting: deque[_Waiting] = deque()
        self._began: deque[tuple[int, float]] = deque()
        self.round = 0
        self.confirmed = 0
        self.lease_until = float("-inf")
        self.lease_off = False

    def __len__(self) -> int:
        return len(self._early) + len(self._waiting)

    def begin_round(self) -> int:
        """Number a heartbeat round that is sent now."""
        self.round += 1
        self._began.append((self.round, self._core.now))
        return self.round

    def ask(self, asker: Member, read: int, committed_in_term: bool) -> bool:
        """Enter a read; one too many is dropped, and its asker asks again.

        Returns:
            whether a round is to be begun for it.
        """
        if len(self) >= self._core.settings.reads:
            return False
        if not committed_in_term:
            self._early.append((asker, read))
            return False
        index = self._core.log.commit
        if self._core.now < self.lease_until and not self.lease_off:
            self._serve(asker, read, index)
            return False
        self._waiting.append(_Waiting(asker, read, index, self.round + 1))
        return self.confirmed == self.round

    def committed_in_term(self) -> bool:
        """Reads that came too early can be entered; True when a round is wanted."""
        early, self._early = self._early, deque()
        wanted = [self.ask(asker, read, True) for asker, read in early]
        return any(wanted)

    def confirm(self, round: int) -> bool:
        """A quorum confirmed a round; True when reads wait for another one."""
        if round > self.confirmed:
            self.confirmed = round
            while self._began and self._began[0][0] <= round:
                self.lease_until = self._began.popleft()[1] + self._core.settings.lease_s
        while self._waiting and self._waiting[0].round <= round:
            waiting = self._waiting.popleft()
            self._serve(waiting.asker, waiting.read, waiting.after)
        return bool(self._waiting) and self.confirmed == self.round

    def _serve(self, asker: Member, read: int, index: int) -> None:
        core = self._core
        if asker == core.me:
            core.reads.append(ReadState(read, index))
        else:
            core.answer(asker, ReadReply(core.term, read, index))

"""When what callers asked is handed to Raft, and when it is handed over again.

Nothing on its way is safe: there may be no leader, the leader may refuse, be deposed, or
never get it. So a proposal is offered until it is applied or its caller gives up, which is
harmless as it has an id; a read is asked for anew, under a new number. Both are offered at
once when a new leader is known, and otherwise again after an election time.
"""

from __future__ import annotations

from collections.abc import Callable

from meshsvc.raft.quorum import NOBODY
from meshsvc.raft.raft import Admission, Raft
from meshsvc.raft.sessions import Command, Sessions, Verdict, encode_command, encode_open
from meshsvc.raft.waits import NEVER, Proposal, Proposals, ReadWaits

LOOK_S = 0.1
"""How often what was refused is offered again: as often as a leader speaks."""


class Asking:
    """What callers of one replica ask.

    Args:
        patience_s: after how long something is taken for lost.
        mint: gives the id of a session that nobody else has.
    """

    def __init__(self, patience_s: float, mint: Callable[[], bytes]) -> None:
        self._patience_s, self._mint = patience_s, mint
        self.proposals = Proposals(mint())
        self.reads = ReadWaits()
        self._look_at, self._opened_at = NEVER, NEVER

    def __len__(self) -> int:
        return len(self.proposals) + self.reads.count

    @property
    def look_at(self) -> float:
        """When ``look`` is next wanted; infinity when there is nothing to look after."""
        return self._look_at if len(self) or not self.proposals.opened else float("inf")

    def fresh(self, raft: Raft, now: float) -> None:
        """Hand over what was asked since the last time."""
        self._submit(raft, self.proposals.fresh(), now)
        self._ask(raft, now)

    def look(self, raft: Raft, now: float) -> None:
        """Hand over again what was refused, or is taken for lost."""
        self._look_at = now + LOOK_S
        self._open(raft, now)
        self._submit(raft, self.proposals.unsent_since(now - self._patience_s), now)
        self.reads.again(now - self._patience_s)
        self._ask(raft, now)

    def new_leader(self) -> None:
        """It may not have what the last one was sent."""
        self._look_at = self._opened_at = NEVER
        for proposal in self.proposals.pending.values():
            proposal.sent_at = NEVER
        self.reads.again(float("inf"))

    def _open(self, raft: Raft, now: float) -> None:
        table = self.proposals
        if table.opened or raft.leader == NOBODY or now < self._opened_at + self._patience_s:
            return
        if raft.propose([encode_open(table.session)], now) is Admission.ACCEPTED:
            self._opened_at = now

    def _submit(self, raft: Raft, proposals: list[Proposal], now: float) -> None:
        table = self.proposals
        if not proposals or not table.opened:
            return
        session, low = table.session, table.low
        batch = [encode_command(session, each.sequence, low, each.data) for each in proposals]
        if raft.propose(batch, now) is Admission.ACCEPTED:
            for each in proposals:
                each.sent_at = now

    def _ask(self, raft: Raft, now: float) -> None:
        if self.reads.fresh:
            number = raft.read_index(now)
            if number is not None:
                self.reads.asked(number, now)

    # --- what comes back -----------------------------------------------------------------

    def done(self, command: Command, verdict: Verdict) -> Proposal | None:
        """A command has come by; the proposal that it answers, if any of ours."""
        table = self.proposals
        if command.session != table.session:
            return None
        if command.sequence == 0:
            table.opened, self._look_at = True, NEVER
        elif verdict is Verdict.UNKNOWN_SESSION:
            table.renew(self._mint())
            self._opened_at = NEVER
        elif verdict is Verdict.APPLY:
            return table.end(command.sequence)
        return None

    def unseen(self, sessions: Sessions) -> list[Proposal]:
        """Those that a snapshot has applied: they are done, and their answers are not known."""
        table = self.proposals
        table.opened = table.session in sessions
        applied = [n for n in table.pending if sessions.was_applied(table.session, n)]
        return [found for n in applied if (found := table.end(n)) is not None]

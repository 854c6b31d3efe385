"""Votes: who gets mine, and what a campaign of my own has come to.

A campaign has two rounds. In the *pre-vote* nothing changes anywhere: members say whether
they would vote, so one that was cut off cannot depose a leader that the others hear (thesis,
9.6). Only when a quorum would, the term rises and votes are cast. A member that heard its
leader less than an election time ago denies its vote in both rounds, on which leases rest;
exempt is a candidate that the leader itself has asked to campaign.
"""

from __future__ import annotations

from meshsvc.raft.core import Core, Role
from meshsvc.raft.messages import VoteReply, VoteRequest
from meshsvc.raft.quorum import NOBODY, Member, Tally, tally


class Election:
    """One member's part in elections."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._votes: dict[Member, bool] = {}

    # --- my own campaign -----------------------------------------------------------------

    def prepare(self) -> None:
        """Ask whether a campaign would succeed; changes no term."""
        core = self._core
        core.role, core.leader = Role.PRE_CANDIDATE, NOBODY
        core.postpone_campaign()
        if core.begins_the_group:
            # The others may start a moment later, and nobody else is meant to ask them.
            core.campaign_at = core.now + 2 * core.settings.heartbeat_s
        self._votes = {core.me: True}
        self._ask(core.term + 1, pre=True, forced=False)

    def campaign(self, forced: bool) -> None:
        """Raise the term and ask for votes. One's own counts once it is durable."""
        core = self._core
        core.role, core.leader = Role.CANDIDATE, NOBODY
        core.term, core.vote = core.term + 1, core.me
        core.postpone_campaign()
        self._votes = {}
        self._ask(core.term, pre=False, forced=forced)

    def _ask(self, term: int, pre: bool, forced: bool) -> None:
        core, log = self._core, self._core.log
        request = VoteRequest(term, log.last_index, log.last_term, pre, forced)
        send = core.tell if pre else core.promise
        for voter in core.configs.current.all_voters:
            if voter != core.me:
                send(voter, request)

    def saved(self) -> None:
        """Term and vote are durable now."""
        core = self._core
        if core.role is Role.CANDIDATE and core.saved.vote == core.me:
            self._votes[core.me] = True

    def counted(self, source: Member, reply: VoteReply) -> None:
        """A vote came in. A member's first word counts: replies can be doubled."""
        core = self._core
        same_kind = reply.pre == (core.role is Role.PRE_CANDIDATE) and self.running
        for_term = core.term + (reply.pre and reply.granted)
        if same_kind and reply.term == for_term:
            self._votes.setdefault(source, reply.granted)
        core.removed = core.removed or reply.removed

    @property
    def running(self) -> bool:
        """Whether a campaign is under way."""
        return self._core.role in (Role.PRE_CANDIDATE, Role.CANDIDATE)

    def outcome(self) -> Tally:
        """What the votes have come to."""
        return tally(self._core.configs.current, self._votes)

    # --- votes for others ----------------------------------------------------------------

    def asked(self, source: Member, request: VoteRequest) -> None:
        """Answer a request whose term is mine, or, in a pre-vote, whatever it is."""
        core = self._core
        granted = self._grants(source, request)
        term = request.term if granted else core.term
        reply = VoteReply(term, granted, request.pre, False)
        if request.pre or not granted:
            core.answer(source, reply)
            return
        core.vote = source
        core.postpone_campaign()
        core.promise(source, reply)

    def _grants(self, source: Member, request: VoteRequest) -> bool:
        core = self._core
        if not core.log.up_to_date(request.last_index, request.last_term):
            return False
        if request.pre:
            return request.term > core.term
        free = core.vote == NOBODY and core.leader == NOBODY
        return request.term == core.term and (free or core.vote == source)

    def denied_out_of_loyalty(self, source: Member, request: VoteRequest) -> bool:
        """Whether to stay silent, because I hear my leader. A leader tells one that it
        removed.
        """
        core = self._core
        if request.forced or request.term <= core.term or not core.loyal:
            return False
        current = core.configs.current
        known = source in current.members or core.configs.index > core.log.commit
        if core.role is Role.LEADER and not known:
            core.answer(source, VoteReply(core.term, False, request.pre, True))
        return True

"""Follower, candidate, leader: who this member is, and which part of it a message is for.

Everything that is true only while it leads lives in ``Leading``, which is dropped with the
role, so nothing of an old term can be taken for something of the new one. Terms and roles
change here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

from meshsvc.raft.core import COMMAND, FRESH_TERM, Core, Role
from meshsvc.raft.election import Election
from meshsvc.raft.following import Following
from meshsvc.raft.leading import Leading
from meshsvc.raft.log import Unsafe
from meshsvc.raft.messages import (
    Append,
    AppendReply,
    Committed,
    Heartbeat,
    HeartbeatReply,
    Message,
    Propose,
    ReadReply,
    ReadRequest,
    SnapshotChunk,
    SnapshotReply,
    TimeoutNow,
    TransferRequest,
    VoteReply,
    VoteRequest,
)
from meshsvc.raft.quorum import NOBODY, Member, Tally
from meshsvc.raft.ready import ReadState


class Admission(IntEnum):
    """What became of a proposal. Accepted is no promise: it may still be lost on its way."""

    ACCEPTED = 0
    NO_LEADER = 1
    FULL = 2
    TRANSFERRING = 3


_FROM_LEADER = (Append, Committed, Heartbeat, SnapshotChunk)


class Roles:
    """The role of one member, and its messages."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.election = Election(core)
        self.following = Following(core)
        self.leading: Leading | None = None
        self._steps: dict[type, Callable[[Member, Any], None]] = {
            VoteRequest: self.election.asked,
            VoteReply: self._vote_reply,
            Append: self.following.append,
            Heartbeat: self.following.heartbeat,
            Committed: self.following.committed,
            SnapshotChunk: self.following.chunk,
            AppendReply: self._append_reply,
            HeartbeatReply: self._heartbeat_reply,
            SnapshotReply: self._snapshot_reply,
            Propose: self._forwarded,
            ReadRequest: self._read_request,
            ReadReply: self._read_reply,
            TimeoutNow: self._timeout_now,
            TransferRequest: self._transfer_request,
        }
        self._wake(core.now)

    def _wake(self, now: float) -> None:
        """Begin as a follower that may have promised its loyalty just before it stopped."""
        core = self._core
        if core.term > FRESH_TERM:
            core.heard_at = now
        core.postpone_campaign()
        if core.configs.current.all_voters == (core.me,) or core.begins_the_group:
            core.campaign_at = now  # nobody else could lead, or be meant to

    def step(self, source: Member, message: Message) -> None:
        """A message from another member.

        Raises:
            WireError: when the message makes no sense; nothing was changed then.
            Unsafe: when this replica must not go on.
        """
        core = self._core
        kind = type(message)
        if kind is VoteRequest and self.election.denied_out_of_loyalty(source, message):  # type: ignore[arg-type]
            return
        if message.term < core.term:
            self._from_the_past(source, message)
            return
        if message.term > core.term and not _is_hypothetical(message):
            self._follow(message.term, NOBODY)
        if kind in _FROM_LEADER:
            self._heard(source)
        self._steps[kind](source, message)
        self.settle()

    def tick(self) -> None:
        """Do what is due."""
        core = self._core
        now = core.now
        if self.leading is not None:
            if now >= self.leading.deposed_at:
                self._follow(core.term, NOBODY)
            else:
                self.leading.tick()
        elif now >= core.campaign_at:
            self._campaign()

    def saved(self) -> None:
        """More is durable here: count it, for the log and for one's own campaign."""
        if self.leading is not None:
            self.leading.saved()
        self.election.saved()
        self.tally()
        self.settle()

    def deadline(self) -> float:
        """When ``tick`` is next wanted."""
        if self.leading is not None:
            leading = self.leading
            return min(leading.heartbeat_at, leading.check_at, leading.transfer.until)
        return self._core.campaign_at

    # --- changing roles ------------------------------------------------------------------

    def _follow(self, term: int, leader: Member) -> None:
        core = self._core
        if term > core.term:
            core.term, core.vote = term, NOBODY
        if core.role is not Role.FOLLOWER:
            core.role = Role.FOLLOWER
            core.postpone_campaign()
        core.leader = leader
        self.leading = None

    def _heard(self, leader: Member) -> None:
        core = self._core
        if core.role is Role.LEADER:
            raise Unsafe(
                f"members {core.me:x} and {leader:x} both lead in term {core.term}: a disk forgot"
                " a vote; remove the member that lost data and add it anew"
            )
        self._follow(core.term, leader)
        core.heard_leader()

    def _campaign(self) -> None:
        core = self._core
        if not core.may_campaign or core.removed or core.installing is not None:
            core.postpone_campaign()
            return
        self.election.prepare()
        self.tally()

    def tally(self) -> None:
        """See what a campaign has come to, if one is under way."""
        core = self._core
        if not self.election.running:
            return
        outcome = self.election.outcome()
        if outcome is Tally.LOST:
            self._follow(core.term, NOBODY)
        elif outcome is Tally.WON and core.role is Role.PRE_CANDIDATE:
            self.election.campaign(forced=False)
        elif outcome is Tally.WON:
            self._lead()

    def _lead(self) -> None:
        core = self._core
        core.role, core.leader = Role.LEADER, core.me
        core.campaign_at = float("inf")
        self.leading = Leading(core)
        self.leading.beat()

    def settle(self) -> None:
        """A leader that the group has done without: hand over and step down."""
        leading = self.leading
        if leading is None or not leading.finished:
            return
        heir = leading.best_heir()
        leading.feed()
        if heir is not None:
            leading.transfer.hand_to(heir)
        self._core.removed = self._core.me not in self._core.configs.current.members
        self._follow(self._core.term, NOBODY)

    # --- messages ------------------------------------------------------------------------

    def _from_the_past(self, source: Member, message: Message) -> None:
        """One that leads or asks in an old term must learn of the new one."""
        core = self._core
        if isinstance(message, _FROM_LEADER):
            core.answer(source, AppendReply(core.term, True, 0, 0, 0))
        elif isinstance(message, VoteRequest):
            core.answer(source, VoteReply(core.term, False, message.pre, False))

    def _vote_reply(self, source: Member, reply: VoteReply) -> None:
        self.election.counted(source, reply)
        self.tally()

    def _append_reply(self, source: Member, reply: AppendReply) -> None:
        if self.leading is not None:
            self.leading.append_reply(source, reply)

    def _heartbeat_reply(self, source: Member, reply: HeartbeatReply) -> None:
        if self.leading is not None:
            self.leading.heartbeat_reply(source, reply)

    def _snapshot_reply(self, source: Member, reply: SnapshotReply) -> None:
        known = self.leading and self.leading.progress.get(source)
        if self.leading is not None and known:
            self.leading.snapshots.reply(known, reply)

    def admit(self, proposals: tuple[bytes, ...]) -> Admission:
        """Take proposals as the leader."""
        assert self.leading is not None
        if self.leading.transfer.running:
            return Admission.TRANSFERRING
        if self.leading.full:
            return Admission.FULL
        self.leading.propose(COMMAND, proposals)
        return Admission.ACCEPTED

    def _forwarded(self, source: Member, message: Propose) -> None:
        # Not passed on a second time: two that take each other for the leader would play
        # it to each other for ever. Whoever proposed asks again when nothing comes of it.
        if self.leading is not None:
            self.admit(message.proposals)

    def _read_request(self, source: Member, message: ReadRequest) -> None:
        if self.leading is not None:
            self.leading.read(source, message.read)

    def _read_reply(self, source: Member, message: ReadReply) -> None:
        self._core.reads.append(ReadState(message.read, message.index))

    def _timeout_now(self, source: Member, message: TimeoutNow) -> None:
        core = self._core
        if core.role is Role.FOLLOWER and core.may_campaign:
            self.election.campaign(forced=True)
            self.tally()

    def _transfer_request(self, source: Member, message: TransferRequest) -> None:
        self.hand_over(message.to)

    def hand_over(self, to: Member) -> bool:
        """Begin to hand leadership to a voter; False when that cannot be."""
        known = self.leading and self.leading.progress.get(to)
        if self.leading is None or not known:
            return False
        return self.leading.transfer.begin(to, known.match)


def _is_hypothetical(message: Message) -> bool:
    """Whether a message speaks of a term that nobody has entered."""
    if isinstance(message, VoteRequest):
        return message.pre
    return isinstance(message, VoteReply) and message.pre and message.granted

"""What every role of a member shares: term, vote, log, configurations, and the way out.

Messages leave in one of two ways. *Free* ones ask or tell and promise nothing about this
member's disk: they may leave at once. *Promises* (votes, acknowledgements, anything in a term
that is not on the disk yet) wait until what they promise is durable.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

from meshsvc.raft.log import RaftLog
from meshsvc.raft.membership import Configs
from meshsvc.raft.messages import Message
from meshsvc.raft.quorum import NOBODY, Member, decode_config
from meshsvc.raft.ready import ChunkReceived, ChunkWanted, Outgoing, ReadState
from meshsvc.raft.settings import Settings
from meshsvc.storage.records import Entry, HardState, SnapshotMeta

if TYPE_CHECKING:
    from random import Random

NOOP, COMMAND, CONFIG = 0, 1, 2
"""Kinds of entries: a leader's first one of its term, what was proposed, a ``Config``."""

FIRST_TURN, TURN = 1.05, 0.1
"""When members campaign whose way to their leader is cut, in election times after they heard
it: one after the other, the first when no loyalty is left even where a heartbeat came late.
A turn is some heartbeats long, so the one before has won by then, or cannot."""

FRESH_TERM = 1
"""The term that a new group starts with; nobody ever leads in it."""


class Role(IntEnum):
    """What a member is at the moment."""

    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3


class Core:
    """The state that is common to all roles; who changes role or term is ``Raft``."""

    def __init__(self, me: Member, settings: Settings, rng: Random) -> None:
        self.me = me
        self.settings = settings
        self.rng = rng
        self.role = Role.FOLLOWER
        self.leader: Member = NOBODY
        self.term = 0
        self.vote: Member = NOBODY
        self.log = RaftLog()
        self.configs = Configs()
        self.snapshot: SnapshotMeta | None = None
        """The newest snapshot that is durable here, to be sent to members that need one."""
        self.now = 0.0
        self.heard_at = float("-inf")
        self.campaign_at = float("inf")
        self.removed = False

        self.saved = HardState()
        self.installing: SnapshotMeta | None = None
        self.free: list[Outgoing] = []
        self.promises: list[Outgoing] = []
        self.reads: list[ReadState] = []
        self.wanted: list[ChunkWanted] = []
        self.received: list[ChunkReceived] = []

    # --- loading -------------------------------------------------------------------------

    def load(
        self, hard: HardState, snapshot: SnapshotMeta | None, entries: Sequence[Entry]
    ) -> None:
        """Take up what a disk holds. The state machine must be as of the snapshot."""
        self.term, self.vote, self.saved = hard.term, hard.vote, hard
        log = self.log
        if snapshot is not None:
            self.snapshot = snapshot
            log.restore(snapshot.index, snapshot.term)
            self.configs.restore(snapshot.index, decode_config(snapshot.config))
        log.stable = log.base_index
        self.accept([entry for entry in entries if entry.index > log.base_index])
        log.stable = log.handed = log.last_index
        log.commit = max(log.commit, min(hard.commit, log.last_index))

    # --- the log and the configurations in it --------------------------------------------

    def accept(self, entries: Sequence[Entry]) -> None:
        """Add entries that are not here yet, replacing what conflicts with them."""
        configs = [
            (each.index, decode_config(each.data)) for each in entries if each.kind == CONFIG
        ]
        first = self.log.accept(entries)
        if first is None:
            return
        self.configs.truncate(first - 1)
        for index, config in configs:
            if index >= first:
                self.configs.add(index, config)

    def restore(self, meta: SnapshotMeta) -> None:
        """A received snapshot takes the place of the log."""
        self.log.restore(meta.index, meta.term)
        self.configs.restore(meta.index, decode_config(meta.config))
        self.installing = meta

    # --- time ----------------------------------------------------------------------------

    def heard_leader(self) -> None:
        """A leader spoke: deny others one's vote for a while."""
        self.heard_at = self.now
        self.postpone_campaign()

    def postpone_campaign(self) -> None:
        """Campaign one to two election times from now, unless something happens."""
        self.campaign_at = self.now + self.settings.election_s * (1 + self.rng.random())

    def campaign_in_turn(self) -> None:
        """The way to the leader is cut, and it may be dead: do not wait for longer than needed.

        The turn is the member's place among the voters, so that no two campaign at once. If
        the leader lives, the others hear it and deny the pre-vote.
        """
        others = [each for each in self.configs.current.all_voters if each != self.leader]
        if self.me in others:
            turn = FIRST_TURN + TURN * others.index(self.me)
            at = self.heard_at + self.settings.election_s * turn
            self.campaign_at = min(self.campaign_at, at)

    @property
    def begins_the_group(self) -> bool:
        """Whether this member is meant to lead first: of a new group, the first voter."""
        return self.term <= FRESH_TERM and self.me in self.configs.current.all_voters[:1]

    @property
    def loyal(self) -> bool:
        """Whether this member must deny its vote, because its leader may count on it."""
        if self.role is Role.LEADER:
            return True
        return self.now - self.heard_at < self.settings.election_s

    @property
    def may_campaign(self) -> bool:
        """Whether this member may have to lead."""
        return self.configs.may_campaign(self.me, self.log.commit)

    # --- out -----------------------------------------------------------------------------

    def tell(self, to: Member, message: Message) -> None:
        """Send a message that promises nothing about this member's disk."""
        self.free.append(Outgoing(to, message))

    def answer(self, to: Member, message: Message) -> None:
        """Send a message that holds in this term only: free once the term is durable."""
        settled = self.saved.term == self.term and self.installing is None
        (self.free if settled else self.promises).append(Outgoing(to, message))

    def promise(self, to: Member, message: Message) -> None:
        """Send a message that may leave only when all that is known here is durable."""
        self.promises.append(Outgoing(to, message))

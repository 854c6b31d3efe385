"""A leader's term: feeding the others, counting what they have, staying the leader.

Why it is hard: the leader is one voter among others and counts itself only for what is
durable here; it counts only entries of its own term, as one of an older term may be replaced
although a majority has it (Raft paper, figure 8); and it may be leading a group that it is no
longer part of.
"""

from __future__ import annotations

from meshsvc.raft.core import CONFIG, NOOP, Core
from meshsvc.raft.log import ENTRY_OVERHEAD
from meshsvc.raft.membership import ChangeRefused, plan
from meshsvc.raft.messages import Append, AppendReply, Committed, Heartbeat, HeartbeatReply
from meshsvc.raft.progress import Mode, Progress
from meshsvc.raft.quorum import Config, Member, reached
from meshsvc.raft.reads import Reads
from meshsvc.raft.sending import SnapshotSending
from meshsvc.raft.transfer import Transfer


class Leading:
    """All that is true only while this member leads, from the election on."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.progress: dict[Member, Progress] = {}
        self._leaving: dict[Member, int] = {}
        self.reads = Reads(core)
        self.transfer = Transfer(core, self.reads)
        self.snapshots = SnapshotSending(core)
        self.heartbeat_at = core.now
        self.check_at = self._checked_from = core.now
        """When to look whether a quorum still answers: not after that could have ceased."""
        self._uncommitted = 0
        self._adopt(core.log.last_index + 1)
        self._first = self._append(NOOP, b"")

    # --- the log -------------------------------------------------------------------------

    @property
    def committed_in_term(self) -> bool:
        """Whether an entry of this term is committed: then the commit index is current."""
        return self._core.log.commit >= self._first

    @property
    def applied_earlier(self) -> bool:
        """Whether all that was committed in earlier terms is applied here."""
        return self._core.log.applied >= self._first

    @property
    def full(self) -> bool:
        """Whether more proposals would be too much to hold."""
        return self._uncommitted >= self._core.settings.uncommitted_bytes

    def propose(self, kind: int, proposals: tuple[bytes, ...]) -> None:
        """Append entries."""
        for data in proposals:
            self._append(kind, data)

    def _append(self, kind: int, data: bytes) -> int:
        core = self._core
        self._uncommitted += len(data) + ENTRY_OVERHEAD
        return core.log.append(core.term, kind, data).index

    def saved(self) -> None:
        """More of the log is durable here."""
        self._count()

    def _have(self, member: Member) -> float:
        core = self._core
        if member == core.me:
            return core.log.stable
        known = self.progress.get(member)
        return known.match if known is not None else 0

    def _count(self) -> None:
        """Commit what a quorum has made durable, from this term's first entry on."""
        core, log = self._core, self._core.log
        before = self.committed_in_term
        index = int(min(reached(core.configs.current, self._have), log.last_index))
        first = log.commit + 1
        if index < self._first or not log.commit_to(index):
            return
        freed = sum(len(each.data) + ENTRY_OVERHEAD for each in log.span(first, index))
        self._uncommitted = max(0, self._uncommitted - freed)
        if not before and self.reads.committed_in_term():
            self.beat()
        self._config_committed()

    # --- members -------------------------------------------------------------------------

    def change(self, voters: set[Member], learners: set[Member]) -> None:
        """Begin to change the members; see ``membership`` for the rules.

        Raises:
            ChangeRefused: when that cannot be begun now.
        """
        core = self._core
        if not self.committed_in_term:
            raise ChangeRefused("this leader has committed nothing yet: try again in a moment")
        if core.configs.index > core.log.commit:
            raise ChangeRefused("the last change of members is not committed: try again later")
        new = plan(core.configs.current, voters, learners)
        for member in sorted(voters - set(core.configs.current.voters)):
            self._check_caught_up(member)
        self._configure(new)

    def _check_caught_up(self, member: Member) -> None:
        core = self._core
        known = self.progress.get(member)
        lacks = core.log.commit - known.match if known is not None else core.log.commit
        if lacks > core.settings.promote_lag:
            raise ChangeRefused(
                f"member {member:x} lacks {lacks} entries: add it as a learner, and make it a"
                f" voter when it lacks at most {core.settings.promote_lag}"
            )

    def _configure(self, config: Config) -> None:
        core = self._core
        core.configs.add(self._append(CONFIG, config.encoded()), config)
        self._adopt(core.log.last_index)

    def _adopt(self, next_index: int) -> None:
        """Keep progress of exactly the members; one that goes is fed until that is committed."""
        core = self._core
        members = core.configs.current.members
        for member in members:
            self._leaving.pop(member, None)
            if member != core.me and member not in self.progress:
                self.progress[member] = Progress(next_index, core.now)
        for member in self.progress:
            if member not in members:
                self._leaving.setdefault(member, core.configs.index)

    def _config_committed(self) -> None:
        core = self._core
        current = core.configs.current
        if core.configs.index > core.log.commit:
            return
        for member in [each for each, at in self._leaving.items() if at <= core.log.commit]:
            self._feed(member)  # the news that it is out
            del self._leaving[member], self.progress[member]
        if current.joint:
            self._configure(current.left())

    @property
    def finished(self) -> bool:
        """Whether a configuration without this member as a voter is committed."""
        core = self._core
        out = not core.configs.current.votes(core.me)
        return out and core.configs.index <= core.log.commit

    def best_heir(self, behind: bool = False) -> Member | None:
        """The voter with most of the log, of those that answered of late; None for none.

        Args:
            behind: whether it may lack some of it, to be brought up to date first.
        """
        core = self._core
        have = [
            (self.progress[member].match, member)
            for member in core.configs.current.voters
            if member in self.progress
            and core.now - self.progress[member].heard_at < core.settings.election_s
        ]
        match, heir = max(have, default=(0, None))
        return heir if behind or match == core.log.last_index else None

    # --- answers -------------------------------------------------------------------------

    def append_reply(self, source: Member, reply: AppendReply) -> None:
        """A member took entries, or lacks what comes before them."""
        core = self._core
        progress = self.progress.get(source)
        if progress is None or reply.index > core.log.last_index:
            return
        progress.heard_at = core.now
        if reply.rejected:
            hint = core.log.last_not_after(reply.hint_index, reply.hint_term)
            progress.rejected(reply.index, hint)
        elif progress.accepted(reply.index, core.now):
            self._count()
        self.transfer.advance(progress.match, source)

    def heartbeat_reply(self, source: Member, reply: HeartbeatReply) -> None:
        """A member confirmed that this is the leader."""
        core = self._core
        progress = self.progress.get(source)
        if progress is None or reply.round > self.reads.round:
            return
        progress.heard_at = core.now
        progress.acked_round = max(progress.acked_round, reply.round)
        if progress.match < core.log.last_index:
            progress.nudge(core.now, core.settings.election_s)
        self._confirm()

    def _acked(self, member: Member) -> float:
        if member == self._core.me:
            return self.reads.round
        known = self.progress.get(member)
        return known.acked_round if known is not None else 0

    def _confirm(self) -> None:
        confirmed = int(min(reached(self._core.configs.current, self._acked), self.reads.round))
        if self.reads.confirm(confirmed):
            self.beat()

    # --- reads ---------------------------------------------------------------------------

    def read(self, asker: Member, read: int) -> None:
        """A member, or this one, wants to read."""
        if self.reads.ask(asker, read, self.committed_in_term):
            self.beat()

    # --- time ----------------------------------------------------------------------------

    def beat(self) -> None:
        """Begin a heartbeat round."""
        core = self._core
        self.heartbeat_at = core.settings.next_beat(core.now)
        number = self.reads.begin_round()
        for member, progress in self.progress.items():
            commit = min(progress.match, core.log.commit)
            progress.commit_sent = max(progress.commit_sent, commit)
            core.tell(member, Heartbeat(core.term, commit, number))
        self._confirm()

    @property
    def deposed_at(self) -> float:
        """When this leader must give up, unless it hears from a quorum before."""
        core = self._core
        return self.heard_quorum_at + core.settings.election_s

    @property
    def heard_quorum_at(self) -> float:
        """Since when a quorum has not all been silent."""
        core = self._core

        def heard(member: Member) -> float:
            if member == core.me:
                return core.now
            known = self.progress.get(member)
            return known.heard_at if known is not None else self._checked_from

        return reached(core.configs.current, heard)

    def tick(self) -> None:
        """Speak when that is due."""
        self.check_at = self.deposed_at
        if self._core.now >= self.heartbeat_at:
            self.beat()
        self.transfer.tick()

    # --- feeding -------------------------------------------------------------------------

    def feed(self) -> None:
        """Send each member what it lacks, as far as its window allows."""
        made: dict[tuple[int, int], Append] = {}
        for member in self.progress:
            self._feed(member, made)

    def _feed(self, member: Member, made: dict[tuple[int, int], Append] | None = None) -> None:
        core, progress = self._core, self.progress[member]
        while progress.may_send(core.settings):
            lacks = progress.next <= core.log.last_index
            if not (lacks or progress.poke):
                self._tell_commit(member, progress)
                return
            if progress.next <= core.log.base_index:
                self.snapshots.begin(member, progress)
                break
            append = self._append_message(progress, {} if made is None else made)
            core.tell(member, append)
            size = sum(len(each.data) + ENTRY_OVERHEAD for each in append.entries)
            last = append.prev_index + len(append.entries)
            progress.appended(last, size, append.commit, core.now)
        if progress.mode is Mode.SNAPSHOT:
            self.snapshots.feed(member, progress)

    def _tell_commit(self, member: Member, progress: Progress) -> None:
        """Tell how far the log is committed; the next append would, but may be long in coming."""
        core, log = self._core, self._core.log
        index = min(log.commit, progress.next - 1)
        if progress.mode is not Mode.REPLICATE or progress.commit_sent >= index:
            return
        term = log.term_at(index)
        if term is not None:  # else it is compacted away: heartbeats tell
            progress.commit_sent = index
            core.tell(member, Committed(core.term, index, term))

    def _append_message(self, progress: Progress, made: dict[tuple[int, int], Append]) -> Append:
        """An append from ``next`` on; members at the same place get the same object."""
        core, log = self._core, self._core.log
        key = (progress.next, log.commit)
        found = made.get(key)
        if found is None:
            limits = core.settings
            entries = log.slice(progress.next, limits.append_bytes, limits.append_entries)
            prev = progress.next - 1
            prev_term = log.term_at(prev)
            assert prev_term is not None
            found = made[key] = Append(core.term, prev, prev_term, log.commit, entries)
        return found

"""What a member shows of itself: for status pages, for tests, for whoever waits for quorum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshsvc.raft.core import Core, Role
from meshsvc.raft.progress import Mode
from meshsvc.raft.quorum import NOBODY, Config, Member

if TYPE_CHECKING:
    from meshsvc.raft.leading import Leading


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One member as its leader sees it; ``silent_s`` is how long it has not answered."""

    member: Member
    mode: Mode
    match: int
    next: int
    under_way: int
    silent_s: float


@dataclass(frozen=True, slots=True)
class Status:
    """One member as it sees itself.

    Args:
        quorum: a leader has heard from a quorum, a follower from a leader, of late.
        last: the index of the last entry; ``stable`` of the last durable one; ``first`` of
            the first that is not compacted away.
        removed: the group has done without this member.
        peers: at the leader, by member; else empty.
    """

    me: Member
    role: Role
    term: int
    leader: Member
    quorum: bool
    commit: int
    applied: int
    last: int
    stable: int
    first: int
    snapshot: int
    config: Config
    removed: bool
    reads: int
    peers: tuple[PeerStatus, ...]

    @property
    def leader_id(self) -> Member:
        """The member that leads, 0 when unknown."""
        return self.leader

    @property
    def commit_index(self) -> int:
        """The last entry known to be committed."""
        return self.commit

    @property
    def applied_index(self) -> int:
        """The last entry applied here."""
        return self.applied

    @property
    def is_learner(self) -> bool:
        """Whether this member has no vote."""
        return not self.config.votes(self.me)


def status_of(core: Core, leading: Leading | None) -> Status:
    """The status of a member."""
    log = core.log
    return Status(
        core.me,
        core.role,
        core.term,
        core.leader,
        _quorum(core, leading),
        log.commit,
        log.applied,
        log.last_index,
        log.stable,
        log.base_index + 1,
        core.snapshot.index if core.snapshot is not None else 0,
        core.configs.current,
        core.removed,
        len(leading.reads) if leading is not None else 0,
        _peers(core, leading) if leading is not None else (),
    )


def _quorum(core: Core, leading: Leading | None) -> bool:
    if leading is not None:
        return core.now < leading.deposed_at
    # A voter campaigns after two election times at the latest.
    return core.leader != NOBODY and core.now - core.heard_at < 2 * core.settings.election_s


def _peers(core: Core, leading: Leading) -> tuple[PeerStatus, ...]:
    return tuple(
        PeerStatus(
            member,
            known.mode,
            known.match,
            known.next,
            len(known.inflight),
            max(0.0, core.now - known.heard_at),
        )
        for member, known in sorted(leading.progress.items())
    )

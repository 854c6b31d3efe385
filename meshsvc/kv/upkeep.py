"""Requests and answers about the group itself: members, alarms, hashes, snapshots, leadership.

As in ``api``: etcd's vocabulary under Python's names.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from meshsvc.kv.api import NO_HEADER, Header


@dataclass(frozen=True, slots=True)
class KvMember:
    """A replica of the store. ``name`` is empty until it has started."""

    member_id: int
    name: str = ""
    peer_urls: tuple[str, ...] = ()
    client_urls: tuple[str, ...] = ()
    is_learner: bool = False


@dataclass(frozen=True, slots=True)
class MemberList:
    """List the members; not ``linearizable`` takes this node's word."""

    linearizable: bool = True


@dataclass(frozen=True, slots=True)
class MemberAdd:
    """Add a member by its addresses."""

    peer_urls: tuple[str, ...]
    is_learner: bool = False


@dataclass(frozen=True, slots=True)
class MemberRemove:
    """Remove a member."""

    member_id: int


@dataclass(frozen=True, slots=True)
class MemberUpdate:
    """Give a member other addresses."""

    member_id: int
    peer_urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MemberPromote:
    """Make a voter of a learner."""

    member_id: int


@dataclass(frozen=True, slots=True)
class MembersResult:
    """The members after the request; ``member`` is the one it was about, where there is one."""

    members: tuple[KvMember, ...]
    member: KvMember | None = None
    header: Header = NO_HEADER


class AlarmKind(IntEnum):
    """What is wrong."""

    NONE = 0
    NOSPACE = 1
    CORRUPT = 2


class AlarmAction(IntEnum):
    """What to do about alarms."""

    GET = 0
    ACTIVATE = 1
    DEACTIVATE = 2


@dataclass(frozen=True, slots=True)
class AlarmRequest:
    """``member_id`` 0 means all members, ``alarm`` NONE all kinds."""

    action: int = AlarmAction.GET
    member_id: int = 0
    alarm: int = AlarmKind.NONE


@dataclass(frozen=True, slots=True)
class AlarmEntry:
    """An alarm that a member has raised."""

    member_id: int
    alarm: int


@dataclass(frozen=True, slots=True)
class AlarmResult:
    """The alarms that the request was about."""

    alarms: tuple[AlarmEntry, ...] = ()
    header: Header = NO_HEADER


@dataclass(frozen=True, slots=True)
class StatusResult:
    """This node's replica: sizes in bytes, indexes in the Raft log, ``leader`` 0 if unknown."""

    version: str
    db_size: int
    leader: int
    raft_index: int
    raft_term: int
    raft_applied_index: int = 0
    errors: tuple[str, ...] = ()
    db_size_in_use: int = 0
    is_learner: bool = False
    header: Header = NO_HEADER


@dataclass(frozen=True, slots=True)
class DefragmentResult:
    """There is nothing to defragment in memory; what can be given back, was."""

    header: Header = NO_HEADER


@dataclass(frozen=True, slots=True)
class HashResult:
    """A hash over everything this replica holds."""

    hash: int
    header: Header = NO_HEADER


@dataclass(frozen=True, slots=True)
class HashKv:
    """Hash keys and history up to ``revision`` (0: now)."""

    revision: int = 0


@dataclass(frozen=True, slots=True)
class HashKvResult:
    """Replicas with the same ``compact_revision`` have the same ``hash`` at one revision."""

    hash: int
    compact_revision: int
    hash_revision: int = 0
    header: Header = NO_HEADER


@dataclass(frozen=True, slots=True)
class SnapshotChunk:
    """A piece of a snapshot; ``remaining`` bytes follow, of which the last answer has none."""

    blob: bytes
    remaining: int
    header: Header = NO_HEADER


@dataclass(frozen=True, slots=True)
class MoveLeader:
    """Hand leadership to a member."""

    target_id: int


@dataclass(frozen=True, slots=True)
class MoveLeaderResult:
    """The member leads."""

    header: Header = NO_HEADER

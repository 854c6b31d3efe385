"""Looking at the journals of a stopped node, and giving one up so that it can be rebuilt.

Nothing is mended here: bytes that are not what was written cannot be guessed. A replica is
rebuilt by its group. It comes back without a log, under a new number, and is filled by a
snapshot; its old number, which may have voted, is never used again. What was there is moved
aside, not removed.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

from meshsvc.errors import StartError
from meshsvc.storage import owner as owners
from meshsvc.storage.failures import Damaged
from meshsvc.storage.files import EX_IOERR, FileSystem, Lock, Locked
from meshsvc.storage.groups import Gap, Replay
from meshsvc.storage.identity import EX_TEMPFAIL, LOCK
from meshsvc.storage.opening import examine
from meshsvc.storage.owner import Owner, journal_dir, shard_dir, snapshots_dir
from meshsvc.storage.segments import SegmentHeader, number_of
from meshsvc.storage.snapshots import SnapshotStore
from meshsvc.storage.store import check_begins

QUARANTINE = "quarantine"
_SHARD = "shard-"


@dataclass(frozen=True, slots=True)
class Finding:
    """What the files of a shard are like.

    ``damage`` is empty when all is well; else the first thing that is wrong. ``notes`` are
    things that the next start deals with by itself. ``replica`` is 0 when it is not known.
    """

    shard: int
    replica: int
    groups: int
    entries: int
    damage: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A replica that was given up: where its files are now, and which member it was."""

    shard: int
    moved_to: str
    replaces: int


def lock_stopped(fs: FileSystem, data_dir: str) -> Lock:
    """Lock a data directory whose node does not run.

    Raises:
        StartError: 75 when the node runs.
    """
    try:
        return fs.lock(os.path.join(data_dir, LOCK))
    except Locked as error:
        who = f"process {error.holder}" if error.holder else "another process"
        text = f"{data_dir} is in use by {who}: stop that node first"
        raise StartError(text, EX_TEMPFAIL) from None


def shards(fs: FileSystem, data_dir: str) -> tuple[int, ...]:
    """The shards that keep anything in a data directory."""
    names = (name.removeprefix(_SHARD) for name in fs.list_dir(data_dir) if _SHARD in name)
    return tuple(sorted(int(name) for name in names if name.isdecimal()))


def look(fs: FileSystem, data_dir: str, shard: int) -> Finding:
    """Read everything of a shard and change nothing.

    Raises:
        OSError: the disk fails.
    """
    replica = _replica(fs, data_dir, shard)
    try:
        _, found = examine(fs, journal_dir(data_dir, shard))
        notes = (f"the end is torn and will be cut off: {found.torn}",) if found.torn else ()
        entries, more = _check_groups(fs, data_dir, shard, found.replays)
    except Damaged as error:
        damage = f"{error.path} at byte {error.offset}: {error.what}"
        return Finding(shard, replica, 0, 0, damage)
    return Finding(shard, replica, len(found.replays), entries, "", notes + more)


def give_up(fs: FileSystem, data_dir: str, shard: int) -> GivenUp:
    """Move what a shard keeps aside, and leave word that it starts as a new member.

    A crash in here leaves the old files, or an empty shard; both are safe to start from.

    Raises:
        StartError: (74) there is nothing of that shard.
        OSError: the disk fails.
    """
    if shard not in shards(fs, data_dir):
        raise StartError(f"{data_dir} has nothing of shard {shard}", EX_IOERR)
    old = _owner(fs, data_dir, shard)
    replaces = old.replica or old.replaces
    aside = os.path.join(data_dir, QUARANTINE)
    fs.make_dir(aside)
    taken = len([n for n in fs.list_dir(aside) if n.startswith(f"{_SHARD}{shard}.")])
    target = os.path.join(aside, f"{_SHARD}{shard}.{taken + 1}")
    fs.rename(shard_dir(data_dir, shard), target)
    fs.sync_dir(aside)
    fs.sync_dir(data_dir)
    folder = journal_dir(data_dir, shard)
    fs.make_dir(os.path.dirname(folder))
    fs.make_dir(folder)
    # No number yet: the next start mints it together with the first segment.
    owners.save(fs, folder, Owner(old.node_id, shard, replica=0, replaces=replaces))
    fs.sync_dir(os.path.dirname(folder))
    fs.sync_dir(data_dir)
    return GivenUp(shard, target, replaces)


def _check_groups(
    fs: FileSystem, data_dir: str, shard: int, replays: dict[int, Replay]
) -> tuple[int, tuple[str, ...]]:
    snapshots = SnapshotStore(fs, snapshots_dir(data_dir, shard))
    folder = journal_dir(data_dir, shard)
    total, notes = 0, []
    for group in sorted({*replays, *snapshots.groups()}):
        damage: list[Damaged] = []
        newest = snapshots.newest(group, damage)
        replay = replays.get(group)
        if replay is not None:
            try:
                state, entries = replay.finish(Counter())
            except Gap as error:
                raise Damaged(folder, 0, str(error)) from None
            total += len(entries)
            check_begins(folder, state, newest, damage)
        notes += [str(error) for error in damage]
    return total, tuple(notes)


def _replica(fs: FileSystem, data_dir: str, shard: int) -> int:
    return _owner(fs, data_dir, shard).replica


def _owner(fs: FileSystem, data_dir: str, shard: int) -> Owner:
    """Whose a journal is: as its id says, or else as any of its segments does."""
    folder = journal_dir(data_dir, shard)
    try:
        owner = owners.load(fs, folder)
    except Damaged:
        owner = None
    if owner is not None:
        return owner
    for name in fs.list_dir(folder):
        if number_of(name) is None:
            continue
        path = os.path.join(folder, name)
        try:
            return Owner("", shard, SegmentHeader.decode(path, fs.read(path) or b"").replica)
        except Damaged:
            continue
    return Owner("", shard, 0)

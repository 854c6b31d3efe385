"""Opening the journal of a shard: lock it, see whose it is, read it back.

A new journal gets its first segment before its ``journal.id``. So an id without a segment
means that segments were lost, and is refused: a replica that forgot its votes must not go
on under its old number.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from meshsvc.errors import StartError
from meshsvc.storage import owner as owners
from meshsvc.storage.batches import first_place
from meshsvc.storage.failures import Damaged, NoSpace
from meshsvc.storage.files import EX_IOERR, FileSystem, Lock, Locked
from meshsvc.storage.journal import Journal, JournalSettings
from meshsvc.storage.owner import Owner
from meshsvc.storage.recovery import FIRST_SEGMENT, Recovery, leftovers, recover
from meshsvc.storage.segments import Segment, SegmentHeader, name_of

LOCK = "lock"
EX_TEMPFAIL = 75


def open_journal(
    fs: FileSystem,
    folder: str,
    node_id: str,
    shard: int,
    mint: Callable[[], int],
    settings: JournalSettings | None = None,
) -> Journal:
    """Open the journal in a directory, making one when there is none.

    Args:
        fs: the disk.
        folder: absolute path, as ``owner.journal_dir`` gives it.
        node_id: the node's id.
        shard: the number of the shard that writes it.
        mint: gives an unsigned 64-bit random number each time.
        settings: sizes.

    Raises:
        Damaged: (74) a file is not as it was written; nothing was changed.
        StartError: 75 when another process has it open, 78 when it belongs to another node
            or shard, 74 when the disk fails.
    """
    settings = settings or JournalSettings()
    try:
        fs.make_dir(os.path.dirname(folder))
        fs.make_dir(folder)
        lock = fs.lock(os.path.join(folder, LOCK))
    except Locked as error:
        who = f"process {error.holder}" if error.holder else "another process"
        text = f"the journal in {folder} is open in {who}: end that process first"
        raise StartError(text, EX_TEMPFAIL) from None
    except OSError as error:
        raise StartError(f"{folder} cannot be used: {error}", EX_IOERR) from error
    try:
        return _open(fs, folder, lock, (node_id, shard), mint, settings)
    except (OSError, NoSpace) as error:
        lock.release()
        text = f"the journal in {folder} cannot be opened: {error}: check the disk"
        raise StartError(text, EX_IOERR) from error
    except StartError:
        lock.release()
        raise


def _open(
    fs: FileSystem,
    folder: str,
    lock: Lock,
    who: tuple[str, int],
    mint: Callable[[], int],
    settings: JournalSettings,
) -> Journal:
    owner, found = examine(fs, folder)
    if owner is not None:
        owners.check(owner, folder, *who)
    for path in leftovers(fs, folder):
        fs.remove(path)
    if owner is None or not owner.replica:
        owner, found = _create(fs, folder, who, mint, settings)
    journal = Journal(fs, folder, owner, lock, settings, lambda: mint() & 0xFFFFFFFF)
    journal.load(found)
    try:
        journal.reserve.restore()
    except NoSpace as error:
        journal.warnings.append(str(error))
    return journal


def examine(fs: FileSystem, folder: str) -> tuple[Owner | None, Recovery]:
    """Read a journal and change nothing; no owner when there is none yet.

    Raises:
        Damaged: a file is not as it was written, or is missing.
        OSError: the disk fails.
    """
    owner = owners.load(fs, folder)
    if owner is None or not owner.replica:
        found = recover(fs, folder, None)
        if found.replays or found.numbers not in ([], [FIRST_SEGMENT]):
            raise Damaged(os.path.join(folder, owners.FILE), 0, "the file is missing")
        return owner, Recovery()
    found = recover(fs, folder, owner.replica)
    if not found.numbers:
        path = os.path.join(folder, name_of(FIRST_SEGMENT))
        raise Damaged(path, 0, "the segment is missing")
    return owner, found


def _create(
    fs: FileSystem,
    folder: str,
    who: tuple[str, int],
    mint: Callable[[], int],
    settings: JournalSettings,
) -> tuple[Owner, Recovery]:
    before = owners.load(fs, folder)
    owner = Owner(*who, replica=mint() or 1, replaces=before.replaces if before else 0)
    header = SegmentHeader(FIRST_SEGMENT, owner.replica, first_place(), mint() & 0xFFFFFFFF)
    Segment.create(fs, folder, header, settings.step).close()
    owners.save(fs, folder, owner)
    above = os.path.dirname(folder)
    fs.sync_dir(above)
    fs.sync_dir(os.path.dirname(above))
    return owner, recover(fs, folder, owner.replica)

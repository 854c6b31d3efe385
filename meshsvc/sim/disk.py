"""A simulated disk: what is on it, what only seems to be, and how it fails.

Each file has the content that reads see and the content that is durable; names work the same
way, as a rename that was not followed by ``sync_dir`` may be undone by a crash. ``crash``
decides, per sector of what was written and per name, what of the rest survives. ``Faults``
make single operations fail, tear or take long; ``stop_after`` cuts the power between two
operations, and ``fail_at`` lets one of them fail.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from random import Random

from meshsvc.sim.inode import PAGE, Inode
from meshsvc.storage.files import Locked


class PowerCut(Exception):
    """The power failed in the middle of something; nothing after it happened."""


@dataclass(slots=True)
class Faults:
    """How likely it is that an operation goes wrong.

    ``eio`` fails any operation, ``full`` any that needs room; ``room`` is how many bytes the
    disk has left for new room, None for enough. ``flip`` turns one bit of what is read;
    ``torn`` of the writes that were under way at a crash keep a part of themselves.
    ``fsync_s`` is how long an operation that waits for the disk takes at most.
    """

    eio: float = 0.0
    full: bool = False
    room: int | None = None
    flip: float = 0.0
    torn: float = 0.5
    fsync_s: float = 0.01


class SimLock:
    """A lock that a process holds."""

    def __init__(self, disk: SimDisk, path: str, process: object) -> None:
        self._disk, self._path = disk, path
        self.process = process
        self.holder = ""

    def note(self, text: str) -> None:
        """Write who holds it."""
        self.holder = text

    def release(self) -> None:
        """Let the next comer in."""
        self._disk.unlock(self._path, self)


class SimDisk:
    """One node's disk, as a ``storage.files.FileSystem``."""

    def __init__(self, rng: Random) -> None:
        self.faults = Faults()
        self.operations = 0
        self.process: object = None
        """Who acts on it now; locks last as long as that process."""
        self.stop_after: int | None = None
        self.fail_at: tuple[int, int] | None = None
        """(operation to come, errno): that one fails once; 0 is the next."""
        self._rng = rng
        self._seen: dict[str, Inode] = {}
        self._durable: dict[str, Inode] = {}
        self._unsynced: dict[str, list[tuple[str, Inode | None]]] = {}
        self._locks: dict[str, SimLock] = {}

    # --- FileSystem ----------------------------------------------------------------------

    def make_dir(self, path: str) -> None:
        """Create a directory: there is nothing to remember of it."""
        self.step()

    def read(self, path: str) -> bytes | None:
        """The content of a file, with a flipped bit when the disk is that bad."""
        self.step()
        inode = self._seen.get(path)
        return None if inode is None else self.as_read(bytes(inode.seen))

    def write(self, path: str, data: bytes) -> None:
        """Write and fsync a file: its content is durable, a new name is not yet."""
        inode = self._seen.get(path)
        if self.stop_after == 0 and self._rng.random() < self.faults.torn:
            pages = self._rng.randrange(len(data) // PAGE + 1)
            self._durable[path] = Inode(data[: pages * PAGE])
        self.step()
        self.need(len(data), path)
        if inode is not None and self._durable.get(path) is inode:
            inode.replace(data)
        else:
            self._seen[path] = inode = Inode(data)
            self._pend(path, (path, inode))

    def rename(self, source: str, target: str) -> None:
        """Put one file in the place of another; durable with the next ``sync_dir``.

        A directory moves with all that is in it, in one step.
        """
        self.step()
        inode = self._seen.pop(source, None)
        if inode is None:
            self._rename_folder(source, target)
            return
        self._seen[target] = inode
        self._pend(target, (target, inode))
        self._pend(target, (source, None))

    def sync_dir(self, path: str) -> None:
        """Make names durable."""
        self.step()
        for name, inode in self._unsynced.pop(path, []):
            self._settle(name, inode)

    def open(self, path: str, create: bool = False) -> SimFile:
        """Open a file; a new one is as unsynced as its name."""
        self.step()
        if create:
            self.need(0, path)
            self._seen[path] = Inode(b"")
            self._pend(path, (path, self._seen[path]))
        if path not in self._seen:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return SimFile(self, path, self._seen[path])

    def list_dir(self, path: str) -> list[str]:
        """The names in a directory, those of directories included."""
        self.step()
        inside = [name[len(path) + 1 :] for name in self._seen if name.startswith(path + "/")]
        return sorted({name.split("/")[0] for name in inside})

    def remove(self, path: str) -> None:
        """Remove a file; who has it open still reads it."""
        self.step()
        inode = self._seen.pop(path, None)
        if inode is not None:
            self._pend(path, (path, None))
            self.give_back(len(inode.seen))

    def lock(self, path: str) -> SimLock:
        """Lock a file.

        Raises:
            Locked: when it is.
        """
        self.step()
        held = self._locks.get(path)
        if held is not None:
            raise Locked(held.holder)
        self._locks[path] = lock = SimLock(self, path, self.process)
        return lock

    # --- what the simulator does ---------------------------------------------------------

    def unlock(self, path: str, lock: SimLock) -> None:
        """A lock was released."""
        if self._locks.get(path) is lock:
            del self._locks[path]

    def process_ended(self, process: object) -> None:
        """One process is gone, and with it its locks."""
        self._locks = {path: each for path, each in self._locks.items() if each.process != process}

    def processes_ended(self) -> None:
        """Every process of the node is gone, and with them their locks."""
        self._locks.clear()

    def crash(self) -> None:
        """The power failed: of what was not synced, anything may be left."""
        self.processes_ended()
        self.stop_after = self.fail_at = None
        for folder in sorted(self._unsynced):
            # A journaling file system keeps an order: some first part of it survives.
            changes = self._unsynced[folder]
            for name, inode in changes[: self._rng.randrange(len(changes) + 1)]:
                self._settle(name, inode)
        self._unsynced.clear()
        for inode in {id(inode): inode for inode in self._durable.values()}.values():
            inode.crash(self._rng, self.faults.torn)
        self._seen = dict(self._durable)

    def wipe(self) -> None:
        """Another disk, an empty one, is in its place."""
        self.processes_ended()
        self._seen.clear()
        self._durable.clear()
        self._unsynced.clear()

    def save_time_s(self) -> float:
        """How long the next durable save takes."""
        return self.faults.fsync_s * self._rng.random()

    def put(self, path: str, data: bytes) -> None:
        """Have a file on the disk, for tests."""
        self._seen[path] = self._durable[path] = Inode(data)

    def files(self) -> dict[str, bytes]:
        """What reads see, by path."""
        return {path: bytes(inode.seen) for path, inode in self._seen.items()}

    # --- for files -----------------------------------------------------------------------

    def step(self) -> None:
        """One more operation begins: it may be the one that does not happen."""
        self.operations += 1
        if self.stop_after is not None:
            if self.stop_after <= 0:
                raise PowerCut
            self.stop_after -= 1
        if self.fail_at is not None:
            left, number = self.fail_at
            self.fail_at = (left - 1, number) if left else None
            if not left:
                raise OSError(number, os.strerror(number))
        if self.faults.eio and self._rng.random() < self.faults.eio:
            raise OSError(errno.EIO, "Input/output error")

    def need(self, more: int, path: str) -> None:
        """Room for so many bytes is needed.

        Raises:
            OSError: ``ENOSPC``.
        """
        room = self.faults.room
        if self.faults.full or (room is not None and more > room):
            raise OSError(errno.ENOSPC, "No space left on device", path)
        if room is not None:
            self.faults.room = room - more

    def give_back(self, less: int) -> None:
        """So many bytes are free again."""
        if self.faults.room is not None:
            self.faults.room += less

    def as_read(self, data: bytes) -> bytes:
        """What a read gives, with a flipped bit when the disk is that bad."""
        if data and self._rng.random() < self.faults.flip:
            at = self._rng.randrange(len(data) * 8)
            flipped = bytearray(data)
            flipped[at // 8] ^= 1 << (at % 8)
            return bytes(flipped)
        return data

    # --- within --------------------------------------------------------------------------

    def _rename_folder(self, source: str, target: str) -> None:
        inside = [path for path in self._seen if path.startswith(source + "/")]
        if not inside:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", source)
        for path in inside:
            moved = target + path[len(source) :]
            inode = self._seen[moved] = self._seen.pop(path)
            # All at once, and at once durable: one name changes on a real disk.
            self._durable.pop(path, None)
            self._durable[moved] = inode

    def _pend(self, path: str, change: tuple[str, Inode | None]) -> None:
        self._unsynced.setdefault(os.path.dirname(path), []).append(change)

    def _settle(self, name: str, inode: Inode | None) -> None:
        if inode is None:
            self._durable.pop(name, None)
        else:
            self._durable[name] = inode


class SimFile:
    """An open file, as a ``storage.files.File``."""

    def __init__(self, disk: SimDisk, path: str, inode: Inode) -> None:
        self._disk, self._path, self._inode = disk, path, inode

    def size(self) -> int:
        """Its length."""
        return len(self._inode.seen)

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes at a place."""
        self._disk.step()
        return self._disk.as_read(bytes(self._inode.seen[offset : offset + length]))

    def write_at(self, offset: int, data: bytes) -> None:
        """Bytes to a place; a power cut in here leaves any of the sectors."""
        more = max(0, offset + len(data) - len(self._inode.seen))
        if self._disk.stop_after == 0:
            self._inode.write(offset, data)
        self._disk.step()
        if more:
            self._disk.need(more, self._path)
        self._inode.write(offset, data)

    def allocate(self, offset: int, length: int) -> None:
        """Zeroes, and room for them."""
        self._disk.step()
        self._disk.need(max(0, offset + length - len(self._inode.seen)), self._path)
        self._inode.write(offset, bytes(length))

    def truncate(self, size: int) -> None:
        """Cut it."""
        self._disk.step()
        self._disk.give_back(max(0, len(self._inode.seen) - size))
        self._inode.truncate(size)

    def sync(self) -> None:
        """Make it durable; one that fails leaves it as it seems, and taken for written."""
        try:
            self._disk.step()
        except OSError:
            self._inode.forget()
            raise
        self._inode.sync()

    def close(self) -> None:
        """Let go of it."""

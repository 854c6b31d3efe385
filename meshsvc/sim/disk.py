"""A simulated disk: what is on it, what only seems to be, and how it fails.

Each file has the content that reads see and the content that is durable; names work the same
way, as a rename that was not followed by ``sync_dir`` may be undone by a crash. ``crash``
decides, per file and name, what of the rest survives. ``Faults`` make single operations
fail, tear or take long; ``stop_after`` cuts the power between two operations.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from random import Random

from meshsvc.storage.files import Locked

PAGE = 512
"""Bytes that a disk writes in one piece; a torn write ends at such a boundary."""


class PowerCut(Exception):
    """The power failed in the middle of something; nothing after it happened."""


@dataclass(slots=True)
class Faults:
    """How likely it is that an operation goes wrong.

    ``eio`` fails any operation, ``full`` any write; ``flip`` turns one bit of what is read;
    ``torn`` of the files that were being written at a crash keep a part of it. ``fsync_s``
    is how long an operation that waits for the disk takes at most.
    """

    eio: float = 0.0
    full: bool = False
    flip: float = 0.0
    torn: float = 0.5
    fsync_s: float = 0.01


class SimLock:
    """A lock that a process holds."""

    def __init__(self, disk: SimDisk, path: str) -> None:
        self._disk, self._path = disk, path
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
        self.stop_after: int | None = None
        self._rng = rng
        self._seen: dict[str, bytes] = {}
        self._durable: dict[str, bytes] = {}
        self._unsynced: dict[str, list[tuple[str, bytes | None]]] = {}
        self._locks: dict[str, SimLock] = {}
        self._writing: tuple[str, bytes] | None = None

    # --- FileSystem ----------------------------------------------------------------------

    def make_dir(self, path: str) -> None:
        """Create a directory: there is nothing to remember of it."""
        self._step()

    def read(self, path: str) -> bytes | None:
        """The content of a file, with a flipped bit when the disk is that bad."""
        self._step()
        data = self._seen.get(path)
        if data and self._rng.random() < self.faults.flip:
            at = self._rng.randrange(len(data) * 8)
            flipped = bytearray(data)
            flipped[at // 8] ^= 1 << (at % 8)
            return bytes(flipped)
        return data

    def write(self, path: str, data: bytes) -> None:
        """Write and fsync a file: its content is durable, a new name is not yet."""
        self._writing = (path, data)
        self._step()
        if self.faults.full:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        self._writing = None
        self._seen[path] = data
        if path in self._durable:
            self._durable[path] = data
        else:
            self._pend(path, (path, data))

    def rename(self, source: str, target: str) -> None:
        """Put one file in the place of another; durable with the next ``sync_dir``."""
        self._step()
        data = self._seen.pop(source)
        self._seen[target] = data
        self._pend(target, (target, data))
        self._pend(target, (source, None))

    def sync_dir(self, path: str) -> None:
        """Make names durable."""
        self._step()
        for name, data in self._unsynced.pop(path, []):
            self._settle(name, data)

    def lock(self, path: str) -> SimLock:
        """Lock a file.

        Raises:
            Locked: when it is.
        """
        self._step()
        held = self._locks.get(path)
        if held is not None:
            raise Locked(held.holder)
        self._locks[path] = lock = SimLock(self, path)
        return lock

    # --- what the simulator does ---------------------------------------------------------

    def unlock(self, path: str, lock: SimLock) -> None:
        """A lock was released."""
        if self._locks.get(path) is lock:
            del self._locks[path]

    def processes_ended(self) -> None:
        """Every process of the node is gone, and with them their locks."""
        self._locks.clear()

    def crash(self) -> None:
        """The power failed: of what was not synced, anything may be left."""
        self.processes_ended()
        self.stop_after = None
        for folder in sorted(self._unsynced):
            # A journaling file system keeps an order: some first part of it survives.
            changes = self._unsynced[folder]
            for name, data in changes[: self._rng.randrange(len(changes) + 1)]:
                self._settle(name, data)
        self._unsynced.clear()
        self._tear()
        self._seen = dict(self._durable)

    def save_time_s(self) -> float:
        """How long the next durable save takes."""
        return self.faults.fsync_s * self._rng.random()

    def put(self, path: str, data: bytes) -> None:
        """Have a file on the disk, for tests."""
        self._seen[path] = self._durable[path] = data

    def files(self) -> dict[str, bytes]:
        """What reads see, by path."""
        return dict(self._seen)

    # --- within --------------------------------------------------------------------------

    def _step(self) -> None:
        self.operations += 1
        if self.stop_after is not None:
            if self.stop_after <= 0:
                raise PowerCut
            self.stop_after -= 1
        if self.faults.eio and self._rng.random() < self.faults.eio:
            raise OSError(errno.EIO, "Input/output error")

    def _pend(self, path: str, change: tuple[str, bytes | None]) -> None:
        self._unsynced.setdefault(os.path.dirname(path), []).append(change)

    def _settle(self, name: str, data: bytes | None) -> None:
        if data is None:
            self._durable.pop(name, None)
        else:
            self._durable[name] = data

    def _tear(self) -> None:
        if self._writing is None:
            return
        (path, data), self._writing = self._writing, None
        if self._rng.random() < self.faults.torn:
            pages = self._rng.randrange(len(data) // PAGE + 1)
            self._durable[path] = data[: pages * PAGE]

"""The few operations on files that durable state is built from, and how to combine them.

Rules: a file is replaced as a whole or not at all (``replace``), and only after ``replace``
returned may anything act on what it wrote. The operations are kept this small so that a
test can stop between any two of them, which is what a crash does.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import Protocol

EX_IOERR = 74
"""What the process ends with when a disk fails (sysexits.h)."""

TEMPORARY = ".new"
"""Ending of the file that is written before it takes the place of the old one."""


class Locked(Exception):
    """Another process holds a lock; ``holder`` is its pid as it noted it, or empty."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


class Lock(Protocol):
    """A lock that lasts until ``release`` or until its process, and all its forks, are gone."""

    def note(self, text: str) -> None:
        """Write who holds the lock where the next comer can read it."""

    def release(self) -> None:
        """Let the next comer in."""


class FileSystem(Protocol):
    """What storage asks of a disk; every operation may raise ``OSError``."""

    def make_dir(self, path: str) -> None:
        """Create a directory that only its owner may enter; one that exists is left as it is."""

    def read(self, path: str) -> bytes | None:
        """The content of a file, None when there is no such file."""

    def write(self, path: str, data: bytes) -> None:
        """Create or overwrite a file and wait until its content is on the disk."""

    def rename(self, source: str, target: str) -> None:
        """Put one file in the place of another, in one step."""

    def sync_dir(self, path: str) -> None:
        """Wait until the names in a directory are on the disk."""

    def lock(self, path: str) -> Lock:
        """Lock a file, creating it when needed.

        Raises:
            Locked: when another process has it.
        """


def replace(fs: FileSystem, path: str, data: bytes) -> None:
    """Give a file new content; afterwards it survives a crash, before that the old one does."""
    temporary = path + TEMPORARY
    fs.write(temporary, data)
    fs.rename(temporary, path)
    fs.sync_dir(os.path.dirname(path))


class RealFileSystem:
    """The disk of this machine."""

    def make_dir(self, path: str) -> None:
        """Create a directory and its parents, itself with mode 0700."""
        if os.path.isdir(path):
            return
        parent = os.path.dirname(path)
        os.makedirs(parent, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        self.sync_dir(parent)

    def read(self, path: str) -> bytes | None:
        """The content of a file, None when there is no such file."""
        try:
            with open(path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes) -> None:
        """Create or overwrite a file with mode 0600 and fsync it."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)

    def rename(self, source: str, target: str) -> None:
        """rename(2)."""
        os.rename(source, target)

    def sync_dir(self, path: str) -> None:
        """Fsync a directory."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def lock(self, path: str) -> FileLock:
        """flock(2) without waiting.

        Raises:
            Locked: when another process has it, with the pid it noted.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(fd, 32, 0)
            os.close(fd)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise Locked(holder.decode("ascii", "replace").strip()) from None
            raise
        return FileLock(fd)


class FileLock:
    """A locked file. The lock belongs to the open file, so it goes along when twistd forks."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def note(self, text: str) -> None:
        """Write who holds the lock; not synced, as it matters only while the holder lives."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text.encode("ascii") + b"\n", 0)

    def release(self) -> None:
        """Close the file; the name stays, because removing it would race with the next comer."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

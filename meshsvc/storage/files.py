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


class File(Protocol):
    """An open file that is written at places; what is written lasts from ``sync`` on."""

    def size(self) -> int:
        """Its length in bytes."""

    def read_at(self, offset: int, length: int) -> bytes:
        """The bytes from ``offset`` on; fewer than ``length`` only at the end of the file."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Put bytes at ``offset``, all of them."""

    def allocate(self, offset: int, length: int) -> None:
        """Have zeroes and the space for them there, so that writing there cannot run out.

        Raises:
            OSError: ``ENOSPC`` when the disk is full; some of the zeroes may be there.
        """

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes."""

    def sync(self) -> None:
        """Wait until content and size are on the disk."""

    def close(self) -> None:
        """Let go of the file; syncs nothing. May be called again."""


class FileSystem(Protocol):
    """What storage asks of a disk; every operation may raise ``OSError``."""

    def open(self, path: str, create: bool = False) -> File:
        """Open a file for reading and writing; with ``create``, an empty one in any case.

        Raises:
            FileNotFoundError: when it is not there and not to be created.
        """

    def list_dir(self, path: str) -> list[str]:
        """The names in a directory, sorted; none when there is no such directory."""

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""

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

    def open(self, path: str, create: bool = False) -> RealFile:
        """open(2), with mode 0600 for a new file."""
        flags = os.O_CREAT | os.O_TRUNC if create else 0
        return RealFile(os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600))

    def list_dir(self, path: str) -> list[str]:
        """The names in a directory, sorted; none when there is no such directory."""
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def remove(self, path: str) -> None:
        """unlink(2); a file that is not there is no error."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

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


_ZEROES = bytes(1024 * 1024)
"""What ``allocate`` writes from: one piece, so that zeroing ahead needs no memory of its own."""


class RealFile:
    """An open file of this machine."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def size(self) -> int:
        """fstat(2)."""
        return os.fstat(self._fd).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """pread(2) until all is read or the file ends."""
        pieces = []
        while length > 0:
            piece = os.pread(self._fd, length, offset)
            if not piece:
                break
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write_at(self, offset: int, data: bytes) -> None:
        """pwrite(2) until all is written."""
        written = os.pwrite(self._fd, data, offset)
        while written < len(data):  # a short write is allowed, and rare
            written += os.pwrite(self._fd, data[written:], offset + written)

    def allocate(self, offset: int, length: int) -> None:
        """posix_fallocate(3) where the file system has it, then zeroes.

        The zeroes are written because extents that are only reserved cost every later
        fdatasync a change of metadata (0.12 ms instead of 0.08).
        """
        try:
            os.posix_fallocate(self._fd, offset, length)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
        for at in range(0, length, len(_ZEROES)):
            self.write_at(offset + at, _ZEROES[: length - at])

    def truncate(self, size: int) -> None:
        """ftruncate(2)."""
        os.ftruncate(self._fd, size)

    def sync(self) -> None:
        """fdatasync(2), which covers the size as well."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """close(2)."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


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

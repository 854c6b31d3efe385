"""Snapshots: one file each, written in chunks, under its name only once all of it is durable.

    magic (8) | group (8) | index (8) | term (8) | length of config (4) | config | CRC-32 (4)
    for each chunk: length (4) | CRC-32 of all data up to its end (4) | data
    2**32 - 1 (4) | that CRC-32 (4) | chunks (8) | bytes (8) | CRC-32 of these fields (4)

As the checksum of a chunk goes on from the one before, the last is that of the whole: a chunk
can be checked by itself, and chunks that were lost, swapped or repeated do not fit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from zlib import crc32

from meshsvc.storage.failures import Damaged, NoSpace, SnapshotGone, TooLarge
from meshsvc.storage.files import TEMPORARY, File, FileSystem
from meshsvc.storage.records import SnapshotMeta
from meshsvc.storage.segments import FULL

_MAGIC = b"MSVCSNP1"
_HEADER = Struct(">8sQQQI")
_CHUNK = Struct(">II")
_TRAILER = Struct(">IIQQ")
_CRC_BYTES = 4
_END = 0xFFFFFFFF
ENDING = ".snap"
_DIGITS = 16

MAX_CHUNK = 4 * 1024 * 1024
"""Bytes of a chunk: it is held in memory, and what a follower is sent is cut from it."""

MAX_CONFIG = 1024 * 1024
"""Bytes of a membership; a length beyond it is damage."""

SYNC_BYTES = 4 * 1024 * 1024
"""A snapshot is synced each time it grew by this much, so that no batch waits behind one
fsync of all of it."""


def name_of(meta: SnapshotMeta) -> str:
    """The file name of a snapshot; names sort by index."""
    return f"{meta.index:0{_DIGITS}x}-{meta.term:0{_DIGITS}x}{ENDING}"


def group_dir(folder: str, group: int) -> str:
    """Where the snapshots of a group are."""
    return os.path.join(folder, f"{group:0{_DIGITS}x}")


class SnapshotWriter:
    """A snapshot that is being written; made by ``SnapshotStore.begin``."""

    def __init__(self, fs: FileSystem, folder: str, group: int, meta: SnapshotMeta) -> None:
        self.meta = meta
        self._fs, self._folder = fs, folder
        self._path = os.path.join(folder, name_of(meta))
        self._end = self._unsynced = self._check = self._chunks = self._bytes = 0
        header = _HEADER.pack(_MAGIC, group, meta.index, meta.term, len(meta.config)) + meta.config
        self._file: File | None = None
        with _Room(self):
            self._file = fs.open(self._path + TEMPORARY, create=True)
        self._write(header + crc32(header).to_bytes(_CRC_BYTES, "big"))

    def add(self, data: bytes) -> None:
        """Write a chunk.

        Raises:
            TooLarge: it is over ``MAX_CHUNK``.
            SnapshotGone: it was ended, or begun once more.
            NoSpace: the disk is full; the snapshot is abandoned.
            OSError: the disk fails.
        """
        if len(data) > MAX_CHUNK:
            raise TooLarge(f"a chunk of {len(data)} bytes, and {MAX_CHUNK} is the most")
        self._check = crc32(data, self._check)
        self._write(_CHUNK.pack(len(data), self._check) + data)
        self._chunks += 1
        self._bytes += len(data)

    def finish(self) -> None:
        """Make the snapshot durable under its name.

        Raises:
            NoSpace: the disk is full; the snapshot is abandoned.
            OSError: the disk fails.
        """
        trailer = _TRAILER.pack(_END, self._check, self._chunks, self._bytes)
        self._write(trailer + crc32(trailer).to_bytes(_CRC_BYTES, "big"))
        file = self._open()
        with _Room(self):
            file.sync()
            self._fs.rename(self._path + TEMPORARY, self._path)
        self._fs.sync_dir(self._folder)
        file.close()
        self._file = None

    def abandon(self) -> None:
        """Leave nothing behind; a finished snapshot stays."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._fs.remove(self._path + TEMPORARY)

    def _write(self, data: bytes) -> None:
        file = self._open()
        with _Room(self):
            file.write_at(self._end, data)
            self._end += len(data)
            self._unsynced += len(data)
            if self._unsynced >= SYNC_BYTES:
                file.sync()
                self._unsynced = 0

    def _open(self) -> File:
        if self._file is None:
            raise SnapshotGone(
                f"the snapshot at {self.meta.index} is no longer written: it was ended, or begun"
                " once more"
            )
        return self._file


class _Room:
    """Around what needs room: without it the snapshot is given up."""

    def __init__(self, writer: SnapshotWriter) -> None:
        self._writer = writer

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.errno in FULL:
            self._writer.abandon()
            meta = self._writer.meta
            raise NoSpace(f"no space for the snapshot at {meta.index}: try again later") from error


@dataclass(frozen=True, slots=True)
class _Chunk:
    offset: int
    length: int
    before: int
    check: int


class SnapshotReader:
    """A durable snapshot, open; it can be read even after it was pruned.

    Raises (on opening, and when a chunk is read):
        Damaged: naming the file, the offset and the chunk.
        OSError: the disk fails.
    """

    def __init__(self, fs: FileSystem, path: str, group: int) -> None:
        self._file = fs.open(path)
        self._path = path
        try:
            self.meta = self._header(group)
            self._index = list(self._walk())
        except BaseException:
            self._file.close()
            raise

    @property
    def chunks(self) -> int:
        """How many chunks it has."""
        return len(self._index)

    @property
    def size(self) -> int:
        """Bytes of all chunks."""
        return sum(chunk.length for chunk in self._index)

    def chunk(self, number: int) -> bytes:
        """The data of a chunk, from 0, as it was written.

        Raises:
            IndexError: there is no such chunk.
            Damaged: naming the file, the offset and the chunk.
        """
        chunk = self._index[number]
        data = self._file.read_at(chunk.offset + _CHUNK.size, chunk.length)
        if len(data) != chunk.length or crc32(data, chunk.before) != chunk.check:
            raise Damaged(self._path, chunk.offset, f"the checksum of chunk {number} is wrong")
        return data

    def verify(self) -> None:
        """Read all of it.

        Raises:
            Damaged: at the first chunk that is not as it was written.
        """
        for number in range(self.chunks):
            self.chunk(number)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _header(self, group: int) -> SnapshotMeta:
        fixed = self._file.read_at(0, _HEADER.size)
        if len(fixed) < _HEADER.size or fixed[:8] != _MAGIC:
            raise Damaged(self._path, 0, "it is no snapshot")
        _, stored, index, term, length = _HEADER.unpack(fixed)
        rest = self._file.read_at(_HEADER.size, min(length, MAX_CONFIG) + _CRC_BYTES)
        config, crc = rest[:-_CRC_BYTES], rest[-_CRC_BYTES:]
        if len(config) != length or crc32(fixed + config) != int.from_bytes(crc, "big"):
            raise Damaged(self._path, 0, "the checksum of its header is wrong")
        meta = SnapshotMeta(index, term, config)
        if stored != group or name_of(meta) != os.path.basename(self._path):
            raise Damaged(self._path, 0, f"it is of group {stored}, {name_of(meta)}")
        return meta

    def _walk(self) -> Iterator[_Chunk]:
        offset = _HEADER.size + len(self.meta.config) + _CRC_BYTES
        check = chunks = total = 0
        size = self._file.size()
        while True:
            head = self._file.read_at(offset, _CHUNK.size)
            if len(head) < _CHUNK.size:
                raise Damaged(self._path, offset, f"it ends after {chunks} chunks")
            length, after = _CHUNK.unpack(head)
            if length == _END:
                return self._trailer(offset, (check, chunks, total))
            if length > MAX_CHUNK or offset + _CHUNK.size + length > size:
                raise Damaged(self._path, offset, f"the length of chunk {chunks} is {length}")
            yield _Chunk(offset, length, check, after)
            check, chunks, total = after, chunks + 1, total + length
            offset += _CHUNK.size + length

    def _trailer(self, offset: int, expected: tuple[int, int, int]) -> None:
        data = self._file.read_at(offset, _TRAILER.size + _CRC_BYTES)
        fields, crc = data[: _TRAILER.size], data[_TRAILER.size :]
        if len(crc) != _CRC_BYTES or crc32(fields) != int.from_bytes(crc, "big"):
            raise Damaged(self._path, offset, "the checksum of its trailer is wrong")
        if _TRAILER.unpack(fields)[1:] != expected:
            raise Damaged(self._path, offset, "chunks are missing or were changed")


class SnapshotStore:
    """The snapshots of all groups of a shard; every call blocks on the disk."""

    def __init__(self, fs: FileSystem, folder: str, keep: int = 2) -> None:
        self._fs, self._folder, self._keep = fs, folder, keep

    def groups(self) -> tuple[int, ...]:
        """The groups that have a directory here."""
        names = self._fs.list_dir(self._folder)
        return tuple(sorted(int(name, 16) for name in names if _is_number(name)))

    def paths(self, group: int) -> list[str]:
        """The files of a group, newest first."""
        folder = group_dir(self._folder, group)
        names = [name for name in self._fs.list_dir(folder) if name.endswith(ENDING)]
        return [os.path.join(folder, name) for name in reversed(names)]

    def newest(self, group: int, damage: list[Damaged]) -> SnapshotMeta | None:
        """The newest snapshot that is whole, read to its end; damage met on the way is noted."""
        for path in self.paths(group):
            try:
                reader = SnapshotReader(self._fs, path, group)
                try:
                    reader.verify()
                finally:
                    reader.close()
            except Damaged as error:
                damage.append(error)
            else:
                return reader.meta
        return None

    def begin(self, group: int, meta: SnapshotMeta) -> SnapshotWriter:
        """Begin a snapshot; nothing counts before ``finish`` returned.

        Raises:
            TooLarge: the config is over ``MAX_CONFIG``.
            NoSpace, OSError: as ``SnapshotWriter.add``.
        """
        if len(meta.config) > MAX_CONFIG:
            raise TooLarge(f"a config of {len(meta.config)} bytes, and {MAX_CONFIG} is the most")
        folder = group_dir(self._folder, group)
        for path in (self._folder, folder):
            self._fs.make_dir(path)
            self._fs.sync_dir(os.path.dirname(path))
        return SnapshotWriter(self._fs, folder, group, meta)

    def open(self, group: int, meta: SnapshotMeta) -> SnapshotReader:
        """Open a durable snapshot."""
        path = os.path.join(group_dir(self._folder, group), name_of(meta))
        return SnapshotReader(self._fs, path, group)

    def prune(self, group: int, newest: SnapshotMeta) -> None:
        """Remove the snapshots before the last few that end in ``newest``, and leftovers."""
        paths = self.paths(group)
        last = os.path.join(group_dir(self._folder, group), name_of(newest))
        older = [path for path in paths if path < last]
        for path in older[self._keep - 1 :]:
            self._fs.remove(path)

    def sweep(self) -> None:
        """Remove what a crash left half written, and make durable which snapshots there are.

        A process that was killed may have left a snapshot whose name is only in memory.
        """
        for group in self.groups():
            folder = group_dir(self._folder, group)
            self._fs.sync_dir(folder)
            for name in self._fs.list_dir(folder):
                if name.endswith(TEMPORARY):
                    self._fs.remove(os.path.join(folder, name))


def _is_number(name: str) -> bool:
    return len(name) == _DIGITS and not set(name) - set("0123456789abcdef")

"""One file of a journal: a header that says which one it is, then batches.

    magic (8) | number (8) | sequence of its first batch (8) | replica (8) |
    check of the batch before (4) | salt (4) | zeroes (20) | CRC-32 of all that (4)

The file is zeroed ahead in steps, so that a write costs no change of metadata and cannot
run out of space, and so that a sector that never reached the disk reads as zeroes.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from struct import Struct
from zlib import crc32

from meshsvc.storage.batches import Place, frame
from meshsvc.storage.failures import Damaged, NoSpace
from meshsvc.storage.files import TEMPORARY, File, FileSystem
from meshsvc.storage.groups import SEGMENT_SHIFT

_MAGIC = b"MSVCLOG1"
_HEADER = Struct(">8sQQQII20xI")
HEADER_BYTES = _HEADER.size
ENDING = ".log"
_DIGITS = 16

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What says that space is short; any other error says that the disk failed."""


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """Which segment of which replica's journal a file is, and where the chain enters it."""

    number: int
    replica: int
    place: Place
    salt: int

    def encode(self) -> bytes:
        """The header as it is written."""
        numbers = (self.number, self.place.sequence, self.replica, self.place.check, self.salt)
        data = _HEADER.pack(_MAGIC, *numbers, 0)[:-4]
        return data + crc32(data).to_bytes(4, "big")

    @classmethod
    def decode(cls, path: str, data: bytes) -> SegmentHeader:
        """Read a header.

        Raises:
            Damaged: always a reason to refuse: it was durable before the file got its name.
        """
        if len(data) < HEADER_BYTES:
            raise Damaged(path, len(data), "the header of the segment is cut short")
        magic, number, sequence, replica, check, salt, crc = _HEADER.unpack_from(data)
        if crc32(data[: HEADER_BYTES - 4]) != crc or magic != _MAGIC:
            raise Damaged(path, 0, "the header of the segment is not valid")
        return cls(number, replica, Place(sequence, check), salt)


def name_of(number: int) -> str:
    """The file name of a segment."""
    return f"{number:0{_DIGITS}x}{ENDING}"


def number_of(name: str) -> int | None:
    """The segment that a file name stands for, None for other files."""
    digits = name.removesuffix(ENDING)
    if len(digits) != _DIGITS or digits == name or set(digits) - set("0123456789abcdef"):
        return None
    return int(digits, 16)


class Segment:
    """The segment that is being written.

    ``end`` is where the next batch goes, ``place`` where the chain stands there.
    """

    def __init__(
        self, file: File, path: str, header: SegmentHeader, end: int, place: Place
    ) -> None:
        self.path, self.header, self.end, self.place = path, header, end, place
        self._file = file
        self._zeroed = file.size()

    @classmethod
    def create(cls, fs: FileSystem, folder: str, header: SegmentHeader, room: int) -> Segment:
        """A new segment with ``room`` bytes of zeroes; durable under its name on return.

        Raises:
            NoSpace: the disk is full; nothing is left behind.
        """
        path = os.path.join(folder, name_of(header.number))
        temporary = path + TEMPORARY
        try:
            file = fs.open(temporary, create=True)
            file.allocate(0, HEADER_BYTES + room)
            file.write_at(0, header.encode())
            file.sync()
            fs.rename(temporary, path)
        except OSError as error:
            if error.errno not in FULL:
                raise
            fs.remove(temporary)
            raise NoSpace(f"no space for another segment in {folder}") from error
        fs.sync_dir(folder)
        return cls(file, path, header, HEADER_BYTES, header.place)

    @property
    def number(self) -> int:
        """Which segment it is."""
        return self.header.number

    @property
    def next_place(self) -> int:
        """Where the records of the next batch will stand, as ``groups.py`` counts places."""
        return self.header.number << SEGMENT_SHIFT | self.end

    def fits(self, length: int, limit: int) -> bool:
        """Whether so many bytes more keep the segment within ``limit`` bytes."""
        return self.end + length <= limit

    def secure(self, length: int, step: int) -> None:
        """See to it that a batch of so many bytes can be written without running out of space.

        Raises:
            NoSpace: nothing of the journal was changed.
        """
        missing = self.end + length - self._zeroed
        if missing <= 0:
            return
        more = -(-missing // step) * step
        try:
            self._file.allocate(self._zeroed, more)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise NoSpace(f"no space to make {self.path} longer by {more} bytes") from error
        self._zeroed += more

    def append(self, body: bytes, count: int) -> None:
        """Write a batch and wait until it is durable."""
        header, after = frame(body, count, self.place, self.header.salt, self.end)
        self._file.write_at(self.end, header + body)
        self._file.sync()
        self.end += len(header) + len(body)
        self.place = after

    def cut(self) -> None:
        """Cut off what stands behind the end; ``settle`` makes that durable."""
        self._file.truncate(self.end)
        self._zeroed = self.end

    def settle(self, last: int, read: bytes) -> None:
        """Make durable what was read back: the last batch, which begins at ``last``, and the end.

        ``read`` is that batch as it was checked: read once more it may differ, and would replace
        what is right on the disk.

        A process that was killed, or whose fsync failed, may have left a batch that reads well
        and is only in memory. After a failed fsync the kernel may even take it for written, so
        that another fsync would do nothing: hence it is written once more.
        """
        self._file.write_at(last, read)
        self._file.sync()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

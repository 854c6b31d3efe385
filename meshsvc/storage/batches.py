"""How batches of records stand in a segment file, and what damage to them means.

A batch is written by one write and one fsync, and the next is not begun before that fsync
returned. So of all batches only the last can be torn by a crash, and the batch, not the
record, carries the checksums:

    magic (4) | length of the body (4) | sequence (8) | records (4) |
    check of the batch before (4) | CRC-32 of the body (4) | check (4) | body

``check`` is the CRC-32 of the fields before it and of the batch's offset in its file, begun
from the segment's random salt. It covers the check of the batch before: that chains them. It
covers the salt and the offset: no bytes that a client had stored can pass for a batch.

Why it is hard: after a crash the end of a file may be anything between the old and the new
content, which must be cut off; but a damaged batch that was acknowledged must never be. Three
facts tell them apart. A batch that is followed by a valid one was durable. A torn write
leaves whole sectors unwritten, which read as zeroes because segments are zeroed ahead, or
are missing at the end of the file. A batch that is there in all its sectors and still wrong
was not torn: something else changed it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from struct import Struct
from zlib import crc32

MAGIC = 0xB47C4E5D
SECTOR = 512
"""Bytes that a disk writes as one; larger sectors are multiples of it."""

MAX_BODY = 64 * 1024 * 1024
"""What a batch may hold: above any request (1.5 MiB) and any join of them (8 MiB) by far, and
small enough that a length turned to nonsense is not believed."""

_HEADER = Struct(">IIQIIII")
_FIELDS = Struct(">IIQIII")
_OFFSET = Struct(">Q")
_MAGIC_BYTES = MAGIC.to_bytes(4, "big")
HEADER_BYTES = _HEADER.size


@dataclass(frozen=True, slots=True)
class Place:
    """Where the chain stands: the sequence number of the next batch, the check of the last."""

    sequence: int
    check: int


def first_place() -> Place:
    """Where the chain of a new journal begins."""
    return Place(1, 0)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that was read and found right; ``body`` holds ``count`` records."""

    offset: int
    count: int
    body: memoryview
    after: Place

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.offset + HEADER_BYTES + len(self.body)


class Ending(Enum):
    """Why reading a segment stopped."""

    CLEAN = "clean"
    TORN = "torn"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Stop:
    """Where reading stopped, why, and what is wrong there (empty when nothing is)."""

    offset: int
    ending: Ending
    place: Place
    text: str = ""


def frame(body: bytes, count: int, place: Place, salt: int, offset: int) -> tuple[bytes, Place]:
    """The header for a body at an offset, and where the chain stands behind it."""
    fields = _FIELDS.pack(MAGIC, len(body), place.sequence, count, place.check, crc32(body))
    check = crc32(_OFFSET.pack(offset), crc32(fields, salt))
    return fields + check.to_bytes(4, "big"), Place(place.sequence + 1, check)


def scan(data: bytes, start: int, place: Place, salt: int) -> Iterator[Batch | Stop]:
    """The batches of a segment's bytes from ``start`` on, and at the end one ``Stop``."""
    offset = start
    while True:
        found = _read(data, offset, place, salt)
        yield found
        if isinstance(found, Stop):
            return
        offset, place = found.end, found.after


def _read(data: bytes, offset: int, place: Place, salt: int) -> Batch | Stop:
    header = _header(data, offset, salt)
    if header is None:
        if not data[offset : offset + SECTOR].strip(b"\0") and not data[offset:].strip(b"\0"):
            return Stop(offset, Ending.CLEAN, place)
        span = offset + HEADER_BYTES
        return _stop(data, offset, span, place, salt, "no valid header of a batch")
    length, sequence, count, before, body_crc, check = header
    end = offset + HEADER_BYTES + length
    body = memoryview(data)[offset + HEADER_BYTES : end]
    if len(body) != length or crc32(body) != body_crc:
        return _stop(data, offset, end, place, salt, "the checksum of a batch is wrong")
    if (sequence, before) != (place.sequence, place.check):
        text = f"batch {sequence} does not follow batch {place.sequence - 1}"
        return Stop(offset, Ending.DAMAGED, place, text)
    return Batch(offset, count, body, Place(sequence + 1, check))


def _header(data: bytes, offset: int, salt: int) -> tuple[int, int, int, int, int, int] | None:
    if offset + HEADER_BYTES > len(data):
        return None
    magic, length, sequence, count, before, body_crc, check = _HEADER.unpack_from(data, offset)
    if magic != MAGIC or length > MAX_BODY:
        return None
    fields = data[offset : offset + HEADER_BYTES - 4]
    if crc32(_OFFSET.pack(offset), crc32(fields, salt)) != check:
        return None
    return length, sequence, count, before, body_crc, check


def _stop(data: bytes, offset: int, end: int, place: Place, salt: int, text: str) -> Stop:
    later = _valid_after(data, offset + 1, salt)
    if later is not None:
        text = f"{text}, and a valid batch follows at byte {later}"
        return Stop(offset, Ending.DAMAGED, place, text)
    if not _torn(data, offset, end):
        text = f"{text}, and no sector of it is missing, as a torn write would leave it"
        return Stop(offset, Ending.DAMAGED, place, text)
    return Stop(offset, Ending.TORN, place, text)


def _valid_after(data: bytes, start: int, salt: int) -> int | None:
    at = data.find(_MAGIC_BYTES, start)
    while at >= 0:
        header = _header(data, at, salt)
        if header is not None:
            body = memoryview(data)[at + HEADER_BYTES : at + HEADER_BYTES + header[0]]
            if len(body) == header[0] and crc32(body) == header[4]:
                return at
        at = data.find(_MAGIC_BYTES, at + 1)
    return None


def _torn(data: bytes, start: int, end: int) -> bool:
    """Whether some sector's part of a span is zeroes, or beyond the end of the file."""
    if end > len(data):
        return True
    at = start
    while at < end:
        edge = min(end, (at // SECTOR + 1) * SECTOR)
        if not data[at:edge].strip(b"\0"):
            return True
        at = edge
    return False

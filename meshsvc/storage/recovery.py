"""Reading a journal back: every batch of every segment, to the last that was durable.

Only the newest segment may end in a torn batch; it is cut off before anything is written
behind it. Everything else that is not as it was written refuses to open, and is left alone.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from meshsvc.storage import records
from meshsvc.storage.batches import Batch, Ending, Place, Stop, first_place, scan
from meshsvc.storage.failures import Damaged
from meshsvc.storage.files import TEMPORARY, FileSystem
from meshsvc.storage.groups import SEGMENT_SHIFT, Gap, GroupState, Replay
from meshsvc.storage.records import Entry, Undecodable, read_records
from meshsvc.storage.segments import HEADER_BYTES, SegmentHeader, name_of, number_of

FIRST_SEGMENT = 1


@dataclass(slots=True)
class Recovery:
    """What a journal's files say.

    ``numbers`` are the segments that are there; ``newest`` is the header of the last of them,
    None for a journal without any; its last batch (or its header) is ``tail``, from ``last`` to
    ``end``. ``torn`` says that something stands behind that end. ``bytes`` counts what the
    batches take in each segment.
    """

    numbers: list[int] = field(default_factory=list)
    newest: SegmentHeader | None = None
    last: int = 0
    end: int = 0
    tail: bytes = b""
    place: Place = field(default_factory=first_place)
    torn: str = ""
    sealed: bool = False
    floor: int = FIRST_SEGMENT
    bytes: dict[int, int] = field(default_factory=dict)
    replays: dict[int, Replay] = field(default_factory=dict)
    rolled_to: int = 0

    def groups(
        self, path: str, live: Counter[int]
    ) -> Iterator[tuple[GroupState, tuple[Entry, ...]]]:
        """The state and the entries of every group; ``live`` is counted up.

        Raises:
            Damaged: entries are missing although every batch is right.
        """
        for _, replay in sorted(self.replays.items()):
            try:
                yield replay.finish(live)
            except Gap as error:
                raise Damaged(path, 0, str(error)) from None


def recover(fs: FileSystem, folder: str, replica: int | None) -> Recovery:
    """Read a journal of a replica (None: of any); changes nothing.

    Raises:
        Damaged: a file is not as it was written, or is missing.
        OSError: the disk fails.
    """
    found = Recovery()
    names = fs.list_dir(folder)
    found.numbers = sorted(n for n in map(number_of, names) if n is not None)
    for number in found.numbers:
        _read_segment(fs, folder, number, replica, found)
    _check_complete(folder, found)
    return found


def leftovers(fs: FileSystem, folder: str) -> Iterable[str]:
    """Files whose writing a crash cut short: they never had a name that counts."""
    return [os.path.join(folder, n) for n in fs.list_dir(folder) if n.endswith(TEMPORARY)]


def _read_segment(
    fs: FileSystem, folder: str, number: int, replica: int | None, found: Recovery
) -> None:
    path = os.path.join(folder, name_of(number))
    data = fs.read(path) or b""
    header = SegmentHeader.decode(path, data)
    _check_header(path, header, number, replica, found)
    found.newest, found.place, found.rolled_to, found.last = header, header.place, 0, 0
    for item in scan(data, HEADER_BYTES, header.place, header.salt):
        if isinstance(item, Stop):
            _stopped(path, item, found)
        else:
            _apply(path, number, item, found)
    found.bytes[number] = found.end - HEADER_BYTES
    found.tail = data[found.last : found.end]


def _check_header(
    path: str, header: SegmentHeader, number: int, replica: int | None, found: Recovery
) -> None:
    if header.number != number:
        raise Damaged(path, 0, f"it says that it is segment {header.number}")
    if replica is not None and header.replica != replica:
        raise Damaged(path, 0, f"it is of replica {header.replica:016x}, not {replica:016x}")
    if found.newest is None:
        return
    previous = found.newest.number
    if number != previous + 1:
        missing = os.path.join(os.path.dirname(path), name_of(previous + 1))
        raise Damaged(missing, 0, "the segment is missing")
    if header.place != found.place:
        before = os.path.join(os.path.dirname(path), name_of(previous))
        what = found.torn or "batches at its end are missing"
        raise Damaged(before, found.end, f"{what}, and segment {number} goes on behind it")
    found.torn = ""


def _stopped(path: str, stop: Stop, found: Recovery) -> None:
    if stop.ending is Ending.DAMAGED:
        raise Damaged(path, stop.offset, stop.text)
    found.end = stop.offset
    if stop.ending is Ending.TORN:
        found.torn = stop.text


def _apply(path: str, number: int, batch: Batch, found: Recovery) -> None:
    try:
        for record in read_records(batch.body, batch.count):
            place = number << SEGMENT_SHIFT | batch.offset + record.at
            _note(record, place, found)
    except Undecodable as error:
        raise Damaged(path, batch.offset, f"{error}: was it written by a newer version?") from None
    if not found.rolled_to:  # a roll ends its segment: the chain goes on before it, in the next
        found.place = batch.after
    found.last, found.end = batch.offset, batch.end


def _note(record: records.Record, place: int, found: Recovery) -> None:
    found.sealed = False
    if record.kind == records.DROPPED:
        found.floor = record.numbers[0]
    elif record.kind == records.ROLLED:
        found.rolled_to = record.numbers[0]
    elif record.kind == records.SEALED:
        found.sealed = True
    else:
        replay = found.replays.get(record.group)
        if replay is None:
            replay = found.replays[record.group] = Replay(record.group)
        replay.apply(record, place)


def _check_complete(folder: str, found: Recovery) -> None:
    if not found.numbers:
        return
    if found.rolled_to > found.numbers[-1]:
        path = os.path.join(folder, name_of(found.rolled_to))
        raise Damaged(path, 0, "the segment is missing")
    if found.numbers[0] > found.floor:
        path = os.path.join(folder, name_of(found.floor))
        raise Damaged(path, 0, "the segment is missing")


def live_entries(
    fs: FileSystem, folder: str, number: int, group: Callable[[int], GroupState]
) -> Iterator[tuple[int, Entry]]:
    """The entries in a segment that still count when they are asked for, with their groups.

    Raises:
        OSError: the segment cannot be read as it was written.
    """
    path = os.path.join(folder, name_of(number))
    data = fs.read(path) or b""
    header = SegmentHeader.decode(path, data)
    for item in scan(data, HEADER_BYTES, header.place, header.salt):
        if isinstance(item, Stop):
            if item.ending is Ending.DAMAGED:
                raise OSError(errno.EIO, f"damaged at byte {item.offset}: {item.text}", path)
            return
        for record in read_records(item.body, item.count):
            place = number << SEGMENT_SHIFT | item.offset + record.at
            entry = record.entry
            if entry is not None and group(record.group).is_at(entry.index, place):
                yield record.group, entry

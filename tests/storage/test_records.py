"""The bytes on disk: pinned, read back as they were, and nothing else taken for them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsvc.storage import records
from meshsvc.storage.batches import HEADER_BYTES, MAX_BODY, Batch, Ending, Place, frame, scan
from meshsvc.storage.failures import Damaged
from meshsvc.storage.records import (
    Entry,
    Undecodable,
    entry_record,
    entry_record_size,
    number_record,
    read_records,
)
from meshsvc.storage.segments import SegmentHeader, name_of, number_of

GOLDEN = {
    "entry": "00000014 01 0000000000000007 0000000000000003 0000000000000002 05 616263",
    "moved": "00000014 02 0000000000000007 0000000000000003 0000000000000002 05 616263",
    "hard_state": "00000018 03 0000000000000007 0000000000000002 ffffffffffffffff 0000000000000001",
    "truncated": "00000008 04 0000000000000007 0000000000000003",
    "compacted": "00000010 05 0000000000000007 0000000000000003 0000000000000002",
    "reset": "00000010 06 0000000000000007 0000000000000003 0000000000000002",
    "dropped": "00000008 07 0000000000000000 0000000000000004",
    "rolled": "00000008 08 0000000000000000 0000000000000005",
    "sealed": "00000000 09 0000000000000000",
}
ABC = Entry(3, 2, 5, b"abc")


def made():
    return {
        "entry": entry_record(7, ABC),
        "moved": entry_record(7, ABC, records.MOVED),
        "hard_state": number_record(records.HARD_STATE, 7, 2, 2**64 - 1, 1),
        "truncated": number_record(records.TRUNCATED, 7, 3),
        "compacted": number_record(records.COMPACTED, 7, 3, 2),
        "reset": number_record(records.RESET, 7, 3, 2),
        "dropped": number_record(records.DROPPED, 0, 4),
        "rolled": number_record(records.ROLLED, 0, 5),
        "sealed": number_record(records.SEALED, 0),
    }


def test_golden_records():
    """The bytes of every kind of record are those of the format's first version."""
    assert {name: data.hex() for name, data in made().items()} == {
        name: text.replace(" ", "") for name, text in GOLDEN.items()
    }


def test_golden_batch_and_header():
    """The bytes of a batch's header and of a segment's header are pinned too."""
    header, after = frame(b"abc", 1, Place(9, 0x01020304), 0x0A0B0C0D, 64)
    assert header.hex() == (
        "b47c4e5d 00000003 0000000000000009 00000001 01020304 352441c2 85ecd9d7".replace(" ", "")
    )
    assert after == Place(10, 0x85ECD9D7)
    segment = SegmentHeader(2, 0x1122334455667788, Place(9, 0x01020304), 0x0A0B0C0D).encode()
    assert segment.hex() == (
        "4d5356434c4f4731 0000000000000002 0000000000000009 1122334455667788"
        " 01020304 0a0b0c0d" + "00" * 20 + " 467ba8ec"
    ).replace(" ", "")
    assert SegmentHeader.decode("f", segment).number == 2


def test_every_record_is_read_as_it_was_written():
    """Reading gives kind, group, place and content of each record of a body."""
    pieces = made()
    found = list(read_records(b"".join(pieces.values()), len(pieces)))
    assert [record.kind for record in found] == list(range(1, 10))
    assert [record.size for record in found] == [len(data) for data in pieces.values()]
    assert found[0].entry == found[1].entry == ABC
    assert entry_record_size(ABC) == len(pieces["entry"])
    assert found[2].numbers == (2, 2**64 - 1, 1)
    assert [record.group for record in found] == [7] * 6 + [0] * 3


@pytest.mark.parametrize(
    ("body", "count", "what"),
    [
        (b"", 1, "cut short"),
        (made()["entry"][:-1], 1, "longer than its batch"),
        (made()["entry"], 0, "bytes follow"),
        (made()["entry"] * 2, 1, "bytes follow"),
        (bytes.fromhex("00000000 0a 0000000000000007"), 1, "unknown kind 10"),
        (bytes.fromhex("00000001 09 0000000000000007 00"), 1, "unknown kind 9"),
        (bytes.fromhex("00000003 01 0000000000000007 000000"), 1, "entry at byte 0 is cut short"),
    ],
)
def test_what_is_no_record_is_refused(body, count, what):
    """Bytes under a right checksum that are no records have an error that says what is odd."""
    with pytest.raises(Undecodable, match=what):
        list(read_records(body, count))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 5))
def test_any_bytes_are_records_or_refused(body, count):
    """Reading records out of anything ends in records or in one kind of error."""
    with contextlib.suppress(Undecodable):
        assert len(list(read_records(body, count))) == count


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3000), st.integers(0, 100))
def test_any_bytes_are_batches_or_an_end(data, start):
    """Reading batches out of anything ends, with no batch that was not written."""
    *batches, stop = scan(data, start, Place(1, 0), 7)
    assert not batches
    assert stop.ending is not None


def chain(*bodies, salt=7):
    """Batches one after the other, as in a segment without its header."""
    place, data, ends = Place(1, 0), b"", [0]
    for body in bodies:
        header, place = frame(body, 1, place, salt, len(data))
        data += header + body
        ends.append(len(data))
    return data, ends


def test_batches_are_chained():
    """A valid batch at the right place that does not follow the one before is damage."""
    data, ends = chain(b"one", b"two", b"three")
    other, _ = chain(b"ONE", b"two", b"three")
    spliced = data[: ends[1]] + other[ends[1] :]
    first, stop = scan(spliced, 0, Place(1, 0), 7)
    assert bytes(first.body) == b"one"
    assert (stop.offset, stop.ending) == (ends[1], Ending.DAMAGED)
    assert "does not follow" in stop.text


def test_batches_belong_to_their_place_and_segment():
    """The same bytes at another offset, or under another salt, are no batch."""
    data, _ = chain(b"one")
    assert isinstance(next(scan(data, 0, Place(1, 0), 7)), Batch)
    assert not isinstance(next(scan(b"\0" * 8 + data, 8, Place(1, 0), 7)), Batch)
    assert not isinstance(next(scan(data, 0, Place(1, 0), 8)), Batch)


def test_a_length_beyond_the_limit_is_not_believed():
    """A header that claims more than a batch may hold is no header."""
    header, _ = frame(b"", 0, Place(1, 0), 7, 0)
    assert HEADER_BYTES == len(header) == 32
    grown = header[:4] + (MAX_BODY + 1).to_bytes(4, "big") + header[8:]
    [stop] = scan(grown, 0, Place(1, 0), 7)
    assert stop.ending is Ending.DAMAGED


def test_names_of_segments():
    """A name is the number in 16 hexadecimal digits; nothing else is taken for one."""
    assert name_of(255) == "00000000000000ff.log"
    assert number_of(name_of(2**63)) == 2**63
    for other in ("1.log", "00000000000000FF.log", name_of(1) + ".new", "reserve", "journal.id"):
        assert number_of(other) is None


@pytest.mark.parametrize("size", [0, 63])
def test_a_short_header_is_damage(size):
    """A segment is never seen with half a header, so that is damage at its end."""
    with pytest.raises(Damaged, match="cut short"):
        SegmentHeader.decode("f", b"\0" * size)

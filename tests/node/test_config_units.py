"""Durations and sizes with units."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshsvc.node.config_units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.contract("OPS-2")
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500 ms", 0.5),
        ("1s", 1.0),
        ("1.5 s", 1.5),
        (" 2 min ", 120.0),
        ("1 h", 3600.0),
        ("1 d", 86400.0),
        ("250 us", 0.00025),
        ("0 s", 0.0),
    ],
)
def test_durations_are_read_with_their_unit(text, seconds):
    """A number and a unit, with or without a space, give seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "-1 s", "1 sec", "1 S", "1 s 2", "1e3 s", "1 KiB"])
def test_other_texts_are_no_duration(text):
    """No unit, a strange unit or a strange number is refused."""
    with pytest.raises(ValueError, match=r"not a duration|unknown unit"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "size"), [("64 KiB", 65536), ("1.5MiB", 1572864), ("9 B", 9)])
def test_sizes_are_read_with_their_unit(text, size):
    """Binary units give bytes."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["64", "1 KB", "0.3 B", "", "KiB"])
def test_other_texts_are_no_size(text):
    """Decimal units, fractions of a byte and bare numbers are refused."""
    with pytest.raises(ValueError, match=r"not a|unknown unit"):
        parse_size(text)


@settings(deadline=None)  # the machine may be busy
@given(st.integers(0, 10**12))
def test_what_is_printed_reads_back(number):
    """Printing and reading gives the same value."""
    assert parse_size(format_size(number)) == number
    assert parse_duration(format_duration(number / 1_000_000)) == number / 1_000_000


def test_the_largest_whole_unit_is_printed():
    """A value is shown in the unit people would use."""
    assert format_duration(0.5) == "500 ms"
    assert format_duration(120) == "2 min"
    assert format_duration(0) == "0 s"
    assert format_size(65536) == "64 KiB"
    assert format_size(0) == "0 B"

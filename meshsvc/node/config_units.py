"""Durations and sizes as people write them: ``"500 ms"``, ``"64 KiB"``.

Rules: a unit is always written, so that nobody has to guess one; what ``format_*`` prints,
``parse_*`` reads back as the same number.
"""

from __future__ import annotations

import re
from fractions import Fraction

DURATION_UNITS = {"us": Fraction(1, 1_000_000), "ms": Fraction(1, 1000), "s": Fraction(1)} | {
    "min": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86400),
}
SIZE_UNITS = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}

_QUANTITY = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z]+)\s*")


def parse_duration(text: str) -> float:
    """Seconds of ``"1.5 s"``, ``"500 ms"``, ``"2 min"``.

    Raises:
        ValueError: when there is no number, or no known unit behind it.
    """
    return float(_quantity(text, dict(DURATION_UNITS), "duration"))


def format_duration(seconds: float) -> str:
    """The duration in the largest unit that needs no fraction, such as ``"500 ms"``."""
    for unit, factor in reversed(DURATION_UNITS.items()):
        count = round(Fraction(seconds) / factor)
        if count and float(count * factor) == seconds:
            return f"{count} {unit}"
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + " s"


def parse_size(text: str) -> int:
    """Bytes of ``"64 KiB"``, ``"1.5 MiB"``, ``"100 B"``.

    Raises:
        ValueError: when there is no number, no known unit, or no whole number of bytes.
    """
    size = _quantity(text, {unit: Fraction(n) for unit, n in SIZE_UNITS.items()}, "size")
    if size.denominator != 1:
        raise ValueError("not a whole number of bytes")
    return int(size)


def format_size(size: int) -> str:
    """The size in the largest binary unit that needs no fraction, such as ``"64 KiB"``."""
    for unit, factor in reversed(SIZE_UNITS.items()):
        if size and size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} B"


def _quantity(text: str, units: dict[str, Fraction], what: str) -> Fraction:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"not a {what}")
    factor = units.get(match[2])
    if factor is None:
        raise ValueError(f"unknown unit {match[2]!r}")
    return Fraction(match[1]) * factor

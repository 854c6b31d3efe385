"""Numbers as the command line takes them: what is none, or out of range, is told in words."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable

MAX_WAIT_S = 600.0
"""Seconds that a command may be told to wait: as for all that the admin side is asked."""


def seconds(text: str) -> float:
    """More than 0 and at most ``MAX_WAIT_S`` seconds.

    Raises:
        ArgumentTypeError: saying what was expected.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MAX_WAIT_S:
        wanted = f"a number above 0, at most {MAX_WAIT_S:g}"
        raise ArgumentTypeError(f"{text!r} is no number of seconds to wait: write {wanted}")
    return value


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A reader of whole numbers from ``least`` to ``most``, both included."""
    bounds = f"of {least} or more" if most is None else f"from {least} to {most}"

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise ArgumentTypeError(f"{text!r} is not a whole number {bounds}")
        return value

    return read

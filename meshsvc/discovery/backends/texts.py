"""Addresses as people write them down: in a file, or in one environment variable."""

from __future__ import annotations

COMMENT = "#"


def split_lines(text: str) -> tuple[str, ...]:
    """The words of a file, separated by CR, LF, spaces or tabs.

    From # to the end of its line is a comment. Whether a word is an address is judged by
    whoever gets it.
    """
    lines = text.replace("\r", "\n").split("\n")
    return tuple(word for line in lines for word in line.partition(COMMENT)[0].split())


def split_list(text: str) -> tuple[str, ...]:
    """The words of a variable: separated by commas or white space."""
    return tuple(text.replace(",", " ").split())

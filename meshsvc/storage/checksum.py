"""A checksum for the small text files of a data directory, so that a flipped bit is not believed.

CRC-32 finds every error of one or two bits, and every burst of up to 32, in files this small.
It guards against disks, not against people: who edits a file by hand leaves the sum out.
"""

from __future__ import annotations

from zlib import crc32

PREFIX = "crc32:"
"""Part of the text, so that no damage turns a sum into a part of the value before it."""


def checksum(data: bytes) -> str:
    """The sum of ``data`` as text: ``crc32:`` and eight hex digits."""
    return f"{PREFIX}{crc32(data):08x}"

"""The founding record of a node on its disk: what it has promised, and which cluster it is in.

It belongs to the journal beside it: it counts only while that votes as the same member.
"""

from __future__ import annotations

import os
from typing import Any
from zlib import crc32

from meshsvc.errors import StartError, WireError
from meshsvc.raft.founding_terms import Record
from meshsvc.raft.quorum import Member
from meshsvc.storage.files import EX_IOERR, FileSystem, replace
from meshsvc.storage.owner import shard_dir
from meshsvc.wire.codec import decode, encode

SYSTEM, DEFAULT = 0, 1
"""The numbers of the groups, in journals and messages: for ever."""


class RecordFile:
    """The record of one node on its disk."""

    def __init__(self, fs: FileSystem, data_dir: str, member: Member) -> None:
        self._fs = fs
        self._path = os.path.join(shard_dir(data_dir, 0), "founding")
        self._member = member

    def load(self) -> Record:
        """What the disk says; nothing for another member's record.

        Raises:
            StartError: (74) when the file is damaged: a promise in it could be broken.
        """
        try:
            data = self._fs.read(self._path)
            if data is None:
                return Record()
            check, text = data[:4], data[4:]
            if crc32(text).to_bytes(4, "big") != check:
                raise WireError("its checksum is wrong")
            row: Any = decode(text)
            member, record = row
            return Record.read(record) if member == self._member else Record()
        except (OSError, WireError, TypeError, ValueError) as error:
            raise StartError(
                f"{self._path} cannot be read: {error}; `meshsvc repair` gives this node's part"
                " of the store up, and it joins the others again",
                EX_IOERR,
            ) from None

    def save(self, record: Record) -> None:
        """Make a record durable."""
        text = encode([self._member, record.row()])
        replace(self._fs, self._path, crc32(text).to_bytes(4, "big") + text)

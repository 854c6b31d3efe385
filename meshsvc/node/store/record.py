"""The founding record of a node on its disk: what it has promised, and which cluster it is in.

It belongs to the journal beside it: it counts only while that votes as the same member. Nothing is
in the journal before the record is on the disk, so a journal that holds something beside no record,
or beside another member's, is damage: to found anew there would be a second store of old votes.
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
    """The record of one node on its disk; ``held`` says whether the journal holds anything."""

    def __init__(self, fs: FileSystem, data_dir: str, member: Member, held: bool = False) -> None:
        self._fs, self._member, self._held = fs, member, held
        self._path = os.path.join(shard_dir(data_dir, 0), "founding")

    def load(self) -> Record:
        """What the disk says; nothing for another member's record beside an empty journal.

        Raises:
            StartError: (74) when the file is damaged or lost: a promise in it could be broken.
        """
        try:
            return self._read()
        except (OSError, WireError, TypeError, ValueError) as error:
            raise StartError(
                f"{self._path} cannot be read: {error}; nothing was changed: if the other nodes"
                " are well, stop this one and run `meshsvc repair --rebuild` on its data"
                " directory, and it joins them again; else restore the file from a backup, or"
                " take what is there out with `meshsvc snapshot save FILE --data-dir`",
                EX_IOERR,
            ) from None

    def damage(self) -> str:
        """What is wrong with the file, empty for nothing."""
        try:
            self._read()
        except (OSError, WireError, TypeError, ValueError) as error:
            return f"{self._path}: {error}"
        return ""

    def _read(self) -> Record:
        data = self._fs.read(self._path)
        if data is None:
            if self._held:
                raise WireError("it is missing, and the journal beside it holds a store")
            return Record()
        check, text = data[:4], data[4:]
        if crc32(text).to_bytes(4, "big") != check:
            raise WireError("its checksum is wrong")
        row: Any = decode(text)
        member, record = row
        if member == self._member:
            return Record.read(record)
        if self._held:
            raise WireError("it is another member's than the journal beside it")
        return Record()

    def save(self, record: Record) -> None:
        """Make a record durable."""
        text = encode([self._member, record.row()])
        replace(self._fs, self._path, crc32(text).to_bytes(4, "big") + text)

"""Why a journal does not open, does not accept, or accepts nothing any more."""

from __future__ import annotations

from meshsvc.errors import LocalError, StartError
from meshsvc.storage.files import EX_IOERR


class Damaged(StartError):
    """A file of the journal is not what was written; it was left as it is.

    ``path`` and ``offset`` say where.
    """

    def __init__(self, path: str, offset: int, what: str) -> None:
        super().__init__(
            f"{path} is damaged at byte {offset}: {what}; nothing was changed: if the other"
            " replicas are well, stop this node and run `meshsvc repair --rebuild` on its data"
            " directory to have this replica rebuilt from them; else restore the file from a"
            " backup",
            EX_IOERR,
        )
        self.path = path
        self.offset = offset
        self.what = what


class JournalFailed(LocalError):
    """The disk failed while the journal wrote: nothing more is acknowledged by this process.

    What was being written may or may not be on the disk; only a new start can tell.
    """

    exit_code = EX_IOERR


class JournalClosed(LocalError):
    """The journal was closed before this was durable."""


class NoSpace(LocalError):
    """The disk has no room for this; nothing was changed."""


class NotContiguous(LocalError):
    """Entries, a truncation or a compaction that do not fit the log they are for."""


class TooLarge(LocalError):
    """One change is larger than a batch may be."""


class QueueFull(LocalError):
    """More waits for the disk than may wait: the caller goes on faster than the disk."""


class SnapshotGone(LocalError):
    """A chunk of a snapshot that was ended before, or that was begun once more."""

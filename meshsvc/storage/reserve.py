"""Space that is kept aside, so that a full disk can still be made less full.

Compaction gives space back, but has to write first. It may use up the reserve; a probe puts
it back before the store accepts writes again.
"""

from __future__ import annotations

from meshsvc.storage.failures import NoSpace
from meshsvc.storage.files import FileSystem
from meshsvc.storage.segments import FULL


class Reserve:
    """A file of a fixed size that is of no use but to be removed."""

    def __init__(self, fs: FileSystem, path: str, size: int) -> None:
        self._fs, self._path, self._size = fs, path, size
        self.held = size == 0 or self._there()

    def _there(self) -> bool:
        try:
            file = self._fs.open(self._path)
        except FileNotFoundError:
            return False
        try:
            return file.size() >= self._size
        finally:
            file.close()

    def restore(self) -> None:
        """Keep the space aside again, if it is not.

        Raises:
            NoSpace: there is none.
        """
        if self.held:
            return
        try:
            file = self._fs.open(self._path, create=True)
            try:
                file.allocate(0, self._size)
            finally:
                file.close()
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._fs.remove(self._path)
            raise NoSpace(f"no space to keep {self._size} bytes aside in {self._path}") from error
        self.held = True

    def release(self) -> bool:
        """Give the space to who needs it now; False when there is none kept."""
        if not self.held or not self._size:
            return False
        self._fs.remove(self._path)
        self.held = False
        return True

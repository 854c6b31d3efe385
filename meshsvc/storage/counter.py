"""The last epoch this node minted, kept so that the next one is greater, whatever happens.

A controller saves an epoch before it sends it. An epoch that was saved and never sent is
merely skipped; one that was sent and never saved could be minted twice.

The file is one line, ``3.1 crc32:5d0c8f1e``: a digit with a flipped bit is another digit. One
without a checksum, from an earlier version or written by hand, is accepted.
"""

from __future__ import annotations

from meshsvc.errors import LocalError, StartError
from meshsvc.model import NO_EPOCH, Epoch
from meshsvc.storage.checksum import checksum
from meshsvc.storage.files import EX_IOERR, FileSystem, replace


class EpochNotGreater(LocalError):
    """An epoch was to be saved below one that is saved already."""


class EpochStore:
    """One file with one epoch, as text. Blocks on the disk: use it off the reactor thread."""

    def __init__(self, fs: FileSystem, path: str) -> None:
        self._fs = fs
        self._path = path

    def load(self) -> Epoch:
        """The epoch that was saved last, ``NO_EPOCH`` when none ever was.

        Raises:
            StartError: (74) when the file cannot be read or is damaged; guessing a number
                here could mint an epoch twice.
        """
        try:
            data = self._fs.read(self._path)
        except OSError as error:
            raise StartError(f"{self._path} cannot be read: {error}", EX_IOERR) from error
        if data is None:
            return NO_EPOCH
        try:
            return _parse(data.decode("ascii"))
        except ValueError as error:
            raise StartError(
                f"{self._path} is damaged ({error}): check the disk and start again, as it may have"
                " been misread; if it stays so, write into it an epoch at least as high as any this"
                " mesh had, for example the one that 'meshsvc mesh' shows elsewhere",
                EX_IOERR,
            ) from None

    def save(self, epoch: Epoch) -> None:
        """Make an epoch durable; saving the same one again is allowed.

        Raises:
            EpochNotGreater: when a greater one is saved already.
            OSError: when the disk fails; the epoch must then not be used.
        """
        last = self.load()
        if epoch < last:
            raise EpochNotGreater(f"epoch {epoch} is below {last}, which is saved already")
        replace(self._fs, self._path, f"{epoch} {checksum(str(epoch).encode())}\n".encode())


def _parse(text: str) -> Epoch:
    """Read the line.

    Raises:
        ValueError: when it is no epoch, or its checksum is that of another.
    """
    epoch, space, said = text.strip().partition(" ")
    if space and said != checksum(epoch.encode()):
        raise ValueError(f"{said!r} is not the checksum of {epoch!r}")
    return Epoch.parse(epoch)

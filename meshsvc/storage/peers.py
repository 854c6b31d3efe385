"""The peers a node knew in its last life: one small file, checksummed, of addresses.

It is a hint and no more: a file that is damaged or cannot be read is as good as none, since
what it holds is learned anew as soon as one peer is met. It never keeps a node from
starting. Blocks on the disk: save off the reactor thread.
"""

from __future__ import annotations

from hashlib import blake2b

from meshsvc.errors import LocalError
from meshsvc.model import Address
from meshsvc.storage.files import FileSystem, replace

HEAD = "meshsvc peers 1"
MAX_BYTES = 64 * 1024
"""Two hundred addresses of the longest kind; more was not written by this module."""


class PeersDamaged(LocalError):
    """The file of remembered peers cannot be used; it is written anew by and by."""


class PeerStore:
    """One file of addresses, replaced as a whole or not at all."""

    def __init__(self, fs: FileSystem, path: str) -> None:
        self._fs = fs
        self._path = path

    def load(self) -> tuple[Address, ...]:
        """The addresses that were saved last; none when nothing ever was.

        Raises:
            PeersDamaged: when the file cannot be read, or is not as it was written.
        """
        try:
            data = self._fs.read(self._path)
        except OSError as error:
            raise PeersDamaged(f"{self._path} cannot be read: {error}") from error
        if data is None:
            return ()
        try:
            return _parse(data)
        except ValueError as error:
            text = f"{self._path} is damaged ({error}): it is ignored, and written anew"
            raise PeersDamaged(text) from None

    def save(self, addresses: tuple[Address, ...]) -> None:
        """Make the addresses durable in place of those before.

        Raises:
            OSError: when the disk fails; the old content is then still there.
        """
        body = "".join(f"{address}\n" for address in addresses)
        replace(self._fs, self._path, f"{HEAD} {_sum(body)}\n{body}".encode())


def _parse(data: bytes) -> tuple[Address, ...]:
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data)} bytes")
    head, _, body = data.decode().partition("\n")
    if head != f"{HEAD} {_sum(body)}":
        raise ValueError("its checksum does not fit")
    return tuple(Address.parse(line) for line in body.splitlines())


def _sum(body: str) -> str:
    return blake2b(body.encode(), digest_size=16).hexdigest()

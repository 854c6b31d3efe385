"""The backends that come with meshsvc, and how one is made by its name.

Each is an ``IDiscoveryBackend``. Unlike a plugin's, which there is one of in a process, these
are made for one node each, with what they need from the process they run in.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from meshsvc.discovery.addresses import Found
from meshsvc.discovery.backends.options import KINDS, read_options
from meshsvc.discovery.backends.protocol import DnsBackend
from meshsvc.discovery.backends.texts import split_lines, split_list
from meshsvc.interfaces import IDiscoveryBackend
from meshsvc.model import Address

MAX_FILE_BYTES = 1024 * 1024
"""Of a file of peers: a thousand addresses of the longest kind, and as much comment."""

OffReactor = Callable[..., Deferred[Any]]
"""Runs ``f(*args)`` where it may block."""


def read_bounded(path: str) -> bytes:
    """The content of a file that is not too long to be a list of peers.

    Raises:
        OSError: when it cannot be read; EFBIG when it is longer than a mebibyte.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise OSError(errno.EFBIG, f"over {MAX_FILE_BYTES} bytes: not a list of peers", path)
    return data


@implementer(IDiscoveryBackend)
class StaticBackend:
    """Answers the addresses of the config."""

    name = "static"

    def __init__(self, seeds: Iterable[Address] = ()) -> None:
        self._seeds = tuple(seeds)
        self._addresses = self._seeds

    def start(self, options: Mapping[str, object], reactor: Any) -> None:
        """Take ``addresses``, besides the seeds."""
        self._addresses = (*self._seeds, *read_options(self.name, options).addresses)

    def get_nodes(self) -> Deferred[Any]:
        """Always the same."""
        return succeed(self._addresses)


@implementer(IDiscoveryBackend)
class FileBackend:
    """Answers what is in a file, read anew each time, off the reactor's thread.

    A file that does not exist is an error, hence looked for again after a second: it may be
    about to be written. A read that hangs (a network file system) is waited for: another is
    not begun before it ended, since each would hold a thread.
    """

    name = "file"

    def __init__(
        self, off_reactor: OffReactor, read: Callable[[str], bytes | None] = read_bounded
    ) -> None:
        self._off_reactor = off_reactor
        self._read = read
        self._path = ""
        self._reading = False

    def start(self, options: Mapping[str, object], reactor: Any) -> None:
        """Take ``path``."""
        self._path = read_options(self.name, options).path

    def get_nodes(self) -> Deferred[Any]:
        """The words of the file."""
        if self._reading:
            text = f"{self._path}: the read before has not ended: is its file system well?"
            return fail(OSError(errno.EBUSY, text))
        self._reading = True
        # Whoever waits may lose patience; the thread cannot be told, so this keeps its end.
        answer: Deferred[Any] = Deferred()
        reading = self._off_reactor(self._words)
        reading.addBoth(self._ended)
        reading.addBoth(answer.callback)
        return answer

    def _ended(self, result: Any) -> Any:
        self._reading = False
        return result

    def _words(self) -> tuple[str, ...]:
        data = self._read(self._path)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._path)
        return split_lines(data.decode("utf-8-sig", "replace"))


@implementer(IDiscoveryBackend)
class EnvBackend:
    """Answers what an environment variable holds."""

    name = "env"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._variable = ""

    def start(self, options: Mapping[str, object], reactor: Any) -> None:
        """Take ``variable``."""
        self._variable = read_options(self.name, options).variable

    def get_nodes(self) -> Deferred[Any]:
        """The words of the variable; an unset one is an error, an empty one is nobody."""
        text = self._environ.get(self._variable)
        if text is None:
            return fail(LookupError(f"the environment variable {self._variable} is not set"))
        return succeed(Found.of(split_list(text)))


def own_backend(
    name: str,
    seeds: Iterable[Address],
    off_reactor: OffReactor,
    environ: Mapping[str, str] | None = None,
) -> Any:
    """A backend that comes with meshsvc, by its name; None when there is no such one.

    Args:
        name: static, file, env or dns.
        seeds: what ``[seeds] addresses`` has, for static.
        off_reactor: runs a function where it may block.
        environ: of the process, for env.
    """
    if name not in KINDS:
        return None
    made: dict[str, Callable[[], Any]] = {
        "static": lambda: StaticBackend(seeds),
        "file": lambda: FileBackend(off_reactor),
        "env": lambda: EnvBackend(os.environ if environ is None else environ),
        "dns": DnsBackend,
    }
    return made[name]()

"""What a shard takes from the process it runs in, besides its reactor and its channel.

The defaults are those of production. The simulator gives each shard others: randomness from
one seed, a simulated disk that needs no thread, and the applications of the test. Whatever
else a shard does goes through its reactor.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from zope.interface import Interface

from meshsvc.node.applications import PluginState, find
from meshsvc.storage.files import FileSystem, RealFileSystem
from meshsvc.storage.service import WriterThread

Search = Callable[[type[Interface]], tuple[list[Any], list[PluginState]]]
"""As ``applications.find``: the plugins that provide an interface, and those that failed."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The process of one shard.

    Attributes:
        rng: spreads waits and picks peers.
        fs: the disk.
        off_reactor: runs ``f(*args)`` where it may block, answers with a Deferred.
        writer: given the reactor, something that runs ``f(*args)`` in one thread for files.
        plugins: finds the installed plugins.
        pid: of this process.
    """

    rng: Random = field(default_factory=Random)
    fs: FileSystem = field(default_factory=RealFileSystem)
    off_reactor: Callable[..., Deferred[Any]] = deferToThread
    writer: Callable[[Any], Callable[..., Deferred[Any]]] = WriterThread
    plugins: Search = find
    pid: int = field(default_factory=os.getpid)

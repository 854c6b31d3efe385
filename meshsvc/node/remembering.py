"""Keeps the peers a node knows on its disk, for the life after this one (GSP-11).

Written off the reactor's thread, at most every ``SAVE_S`` and only when it changed. A disk
that fails costs a warning: what is remembered is a hint, and nothing waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshsvc.counters import Counters
from meshsvc.discovery.memory import remembered
from meshsvc.gossip.service import GossipService
from meshsvc.model import Address, NodeId
from meshsvc.node.surroundings import Surroundings
from meshsvc.storage.peers import PeersDamaged, PeerStore

SAVE_S = 10.0
"""A crash within this time forgets a change of membership: others remember it."""


class PeerMemory:
    """The remembered peers of one node: read once, then kept up to date."""

    log = Logger()

    def __init__(self, surroundings: Surroundings, data_dir: str, counters: Counters) -> None:
        self._store = PeerStore(surroundings.fs, os.path.join(data_dir, "peers"))
        self._off_reactor = surroundings.off_reactor
        self._counters = counters
        self._saved: tuple[Address, ...] | None = None
        self._saving = False
        self._not_before = 0.0

    def load(self) -> tuple[Address, ...]:
        """The addresses that the last life left; none when the file is of no use."""
        try:
            self._saved = self._store.load()
        except PeersDamaged as error:
            self._counters.add("discovery_memory_errors_total", what="load")
            self.log.warn("{error}", error=str(error))
        return self._saved or ()

    def follow(
        self, gossip: GossipService, me: NodeId, seconds: Callable[[], float]
    ) -> Callable[[], None]:
        """What to call every second from now on: it saves when there is something new."""
        stale = True

        def changed(_: int) -> None:
            nonlocal stale
            stale = True

        def save() -> None:
            nonlocal stale
            if not stale or self._saving or seconds() < self._not_before:
                return
            stale = False
            kept = remembered(me, gossip.members())
            # A node that knows nobody yet may still want what its last life knew.
            if kept and kept != self._saved:
                self._not_before = seconds() + SAVE_S
                self._save(kept).addCallback(mark)

        def mark(good: bool) -> None:
            nonlocal stale
            stale = stale or not good

        gossip.observe_view(changed)
        return save

    def _save(self, kept: tuple[Address, ...]) -> Deferred[bool]:
        self._saving = True

        def done(result: Any) -> bool:
            self._saving = False
            if not isinstance(result, Failure):
                self._saved = kept
                return True
            self._saved = None  # it may be there all the same: a rename that no fsync followed
            self._counters.add("discovery_memory_errors_total", what="save")
            why = result.getErrorMessage()
            self.log.warn("peers could not be written down, tried again: {why}", why=why)
            return False

        return self._off_reactor(self._store.save, kept).addBoth(done)

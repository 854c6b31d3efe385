"""Watchers of every key, one for each node: each goes on at another node when its own is gone."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from meshsvc.kv import api
from meshsvc.kv.streams import Stream
from meshsvc.sim.store.clients import service_of
from meshsvc.sim.store.leases import lease_of
from meshsvc.sim.store.ledger import StoreLedger
from meshsvc.sim.weather import LOCAL_S

if TYPE_CHECKING:
    from meshsvc.kv.service import KvService
    from meshsvc.sim.cluster import Cluster
    from meshsvc.sim.lives import SimShard

LOOK_S = 0.5
"""How often a watcher looks whether its stream still is."""


class Watcher:
    """Hears of every revision once, in order, whatever happens to the nodes.

    Attributes:
        last: the revision it heard of last.
    """

    def __init__(self, cluster: Cluster, ledger: StoreLedger, number: int) -> None:
        self._cluster, self._ledger = cluster, ledger
        self._rng = Random(f"watcher {number} of {cluster.seed}")
        self.name = f"watcher {number}"
        self.last = 0
        self._tap: _Tap | None = None
        cluster.time.after(LOOK_S, self._look)

    def _look(self) -> None:
        self._cluster.time.after(LOOK_S, self._look)
        if self._tap is not None and self._tap.open and self._tap.life.reactor.alive:
            if self._rng.random() < 0.02:
                self._tap.move()
            return
        life = self._rng.choice(self._cluster.nodes).zero
        if service_of(life) is not None:
            assert life is not None
            self._tap = _Tap(self, life)

    def events(self, response: api.WatchResponse, who: str) -> None:
        """A response with events came."""
        assert response.batch is not None
        by_revision: dict[int, list[api.Event]] = {}
        for event in response.batch.events:
            by_revision.setdefault(event.kv.mod_revision, []).append(event)
        for revision, events in by_revision.items():
            if revision != self.last + 1 and self.last:
                self._ledger.fault(f"{who} was told revision {revision} after {self.last}")
            self.last = revision
            self._ledger.told(revision, events, who)
            for event in events:
                self._ended(event)
        if response.header.revision < self.last:
            self._ledger.fault(f"{who} was told {self.last} as of {response.header.revision}")

    def _ended(self, event: api.Event) -> None:
        lease_id = lease_of(event.kv.key)
        if lease_id and event.kind == api.EventKind.DELETE:
            self._ledger.lease_over(lease_id, self._cluster.time.now)

    def progress(self, revision: int, who: str) -> None:
        """A response said that everything up to a revision was told."""
        if self.last and revision > self.last:
            self._ledger.fault(f"{who} is said to know {revision}, and was told {self.last}")


class _Tap:
    """One stream of a watcher on one life of a node."""

    def __init__(self, watcher: Watcher, life: SimShard) -> None:
        self._watcher, self.life = watcher, life
        self.open = True
        self._stream: Stream | None = None
        self._who = f"{watcher.name} on {life.life}"
        life.reactor.post(LOCAL_S, self._begin)

    def _begin(self) -> None:
        service: KvService | None = service_of(self.life)
        assert service is not None
        self._stream = service.watch_stream(self)
        start = self._watcher.last + 1
        self._stream.create(api.WatchCreate(b"\0", b"\0", start_revision=start))

    def move(self) -> None:
        """Go to another node."""
        self.open = False
        if self._stream is not None:
            self.life.reactor.post(LOCAL_S, self._stream.close)

    def watch_response(self, response: api.WatchResponse) -> None:
        """``backend.WatchSink``."""
        if not self.open:
            return
        if response.canceled:
            self.open = False
        elif response.batch is not None:
            self._watcher.events(response, self._who)
        elif not response.created:
            self._watcher.progress(response.header.revision, self._who)

    def watch_closed(self, reason: str) -> None:
        """``backend.WatchSink``."""
        self.open = False

"""The service of one shard: the registry, and the door to it."""

from __future__ import annotations

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from presence.http import site
from presence.options import Options
from presence.registry import Registry

log = Logger()


class PresenceService(Service):
    """One a shard; every shard serves connections and holds the whole registry."""

    def __init__(self, mesh) -> None:
        self.mesh = mesh
        self.options = Options.read(mesh.options)
        self.registry = Registry(mesh)

    def startService(self) -> None:
        """Open the table, then the door."""
        super().startService()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._cannot_start)

    def _cannot_start(self, failure) -> None:
        if failure.check(CancelledError) is None:  # else the node is stopping
            log.failure("presence cannot start", failure)

    async def _start(self) -> None:
        await self.registry.open()
        at = await self.mesh.listen(self.options.listen, site(self.registry, self.mesh.clock))
        if self.mesh.shard == 0:
            # Gossiped: `meshsvc members -o json` shows where to connect.
            await self.mesh.members.tag("presence", f"http://{at}")

    def stopService(self) -> None:
        """Stop following; the rows of this node go when it has left."""
        super().stopService()
        self._starting.cancel()
        self.registry.close()

"""The service of one shard: counts for the keys it owns, asks the owner for the others."""

from __future__ import annotations

from twisted.application.service import Service
from twisted.internet.task import deferLater
from twisted.logger import Logger

from meshsvc.errors import CallError, NoOwner
from meshsvc.model import ShardAddress
from ratelimit.buckets import Buckets, Decision
from ratelimit.http import OwnerUnreachable, site
from ratelimit.options import Options

VERB = "ratelimit.take"
ASK_S = 0.5
"""A limiter that takes longer than this to answer is worse than none."""

PAUSE_S = 0.1
"""Before the second try: a restarted shard or a new owner is mostly there by then."""

log = Logger()


class RateLimitService(Service):
    """One a shard; every shard serves HTTP and owns its part of the keys."""

    def __init__(self, mesh) -> None:
        self.mesh = mesh
        self.here = ShardAddress(mesh.node_id, mesh.shard)
        self.options = Options.read(mesh.options)
        self.buckets = Buckets(self.options.limit, mesh.clock.seconds())

    def startService(self) -> None:
        """Count for others first, then listen."""
        super().startService()
        self.mesh.verbs.register(VERB, self.take)
        self._watch_no_longer = self.mesh.on_placement_change(self._owners_changed)
        listening = self.mesh.listen(self.options.listen, site(self, self.mesh.clock))
        listening.addErrback(
            lambda failure: log.failure("cannot listen on {at}", failure, at=self.options.listen)
        )

    def stopService(self):
        """Fires when the calls that run are answered."""
        super().stopService()
        self._watch_no_longer()
        return self.mesh.verbs.unregister(VERB)

    def take(self, call) -> dict[str, object]:
        """The verb: runs in the shard that the caller believes to own the key.

        Callers and this shard may see a change of membership at different moments. A key
        that is not this shard's own is refused, so that two shards do not both count for it.
        """
        key = call.payload["key"]
        if self.mesh.owner_of(key).address != self.here:
            return {"moved": True}
        decision = self.buckets.take(key, call.now)
        return {
            "allowed": decision.allowed,
            "remaining": decision.remaining,
            "retry_after_s": decision.retry_after_s,
        }

    async def allow(self, key: str) -> Decision:
        """Take one token for a key, wherever it is counted.

        Raises:
            OwnerUnreachable: when the owner could not be reached in two tries.
        """
        answer = await self._ask(key, last=False)
        if answer is None:
            await deferLater(self.mesh.clock, PAUSE_S)
            answer = await self._ask(key, last=True)
        if answer is None:
            raise OwnerUnreachable(f"the owner of {key!r} is changing: try again")
        return Decision(answer["allowed"], answer["remaining"], answer["retry_after_s"])

    async def _ask(self, key: str, last: bool) -> dict[str, object] | None:
        try:
            answer = await self.mesh.owner_of(key).ask(VERB, {"key": key}, timeout_s=ASK_S)
        except (CallError, NoOwner) as error:
            if last or not getattr(error, "retriable", True):
                raise OwnerUnreachable(f"the owner of {key!r} did not answer: {error}") from error
            return None
        return None if answer.get("moved") else answer

    def _owners_changed(self, *_: object) -> None:
        self.buckets.ownership_changed(self.mesh.clock.seconds())

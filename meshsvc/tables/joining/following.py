"""The side that follows a join: it answers the one that leads, and keeps the cluster's lock.

Nothing of a join that was begun and not ended is kept for longer than its lease.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshsvc.errors import Disconnected, SchemaConflict
from meshsvc.messaging.dispatch import Call
from meshsvc.model import NodeId
from meshsvc.tables.rows import Schema

if TYPE_CHECKING:
    from meshsvc.tables.joining.service import Joining


class Refused(Exception):
    """This join is not to be; the text says why, by name."""


class Following:
    """See the module's docstring."""

    def __init__(self, joining: Joining) -> None:
        self._joining = joining
        self.verbs = {
            "tables.begin": self._begun,
            "tables.commit": self._committed,
            "tables.joined": self._joined,
            "tables.lock": self._asked_for_lock,
            "tables.unlock": self._unlocked,
            "tables.open_stage": self._opened_stage,
        }

    async def _begun(self, call: Call) -> Any:
        joining = self._joining
        host, peer = joining.host, joining.peers.get(call.source.node)
        if peer is None or not joining.ready:
            raise Disconnected(f"{host.me.name} is not ready to join tables")
        fields, stamp, theirs = call.payload
        schema = Schema.read(fields)
        try:
            replica = host.replica(schema)
            if not host.clock.observe(stamp, host.reactor.seconds()):
                raise Refused(f"the clock of {peer.info.name} is over a day ahead")
            joining.check_reach(peer, theirs)
        except (Refused, SchemaConflict) as error:
            if peer.refusals.get(schema.name) != str(error):
                joining.log.warn("{table} is not joined with {node}: {why}",
                                 table=schema.name, node=peer.info.name, why=error)  # fmt: skip
            peer.refusals[schema.name] = str(error)
            joining.changed()
            raise SchemaConflict(str(error)) from error
        peer.follows[schema.name] = False
        await joining.publish()
        joined = [p.info.node_id for p in joining.peers.values() if p.joined(replica.schema.name)]
        return [host.now(), joined]

    async def _committed(self, call: Call) -> Any:
        joining = self._joining
        replica, parts = await joining.host.exchange.commit(call.payload, call)
        source = joining.peers.get(call.source.node)
        if source is not None:
            await joining.pass_on(replica, parts, source)

    async def _joined(self, call: Call) -> Any:
        joining = self._joining
        peer = joining.peers.get(call.source.node)
        if peer is None or call.payload not in peer.follows:
            raise Disconnected(f"{joining.host.me.name} follows no join of {call.payload!r:.80}")
        peer.follows[call.payload] = True
        peer.refusals.pop(call.payload, None)
        await joining.publish()

    def _opened_stage(self, call: Call) -> Any:
        joining = self._joining
        replica = joining.host.replica(Schema.read(call.payload))
        return joining.host.exchange.open_stage(call.source, replica)

    def _asked_for_lock(self, call: Call) -> Any:
        """Answers who holds it, or nothing when it is the caller's now."""
        joining = self._joining
        if joining.lock.take(call.source.node, joining.host.reactor.seconds()):
            return ""
        holder = joining.peers.get(joining.lock.holder or NodeId(""))
        return holder.info.name if holder else joining.host.me.name

    def _unlocked(self, call: Call) -> None:
        self._joining.lock.give_back(call.source.node)

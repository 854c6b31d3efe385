"""Where ``mesh.kv()`` comes from: the store of this shard, or the way to one that holds it.

Imported by every shard, so it imports nothing of the store until somebody asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReactorTime

from meshsvc.gossip.members import Member
from meshsvc.messaging.service import Messaging
from meshsvc.model import NodeId, ShardAddress, ShardId
from meshsvc.node.members import Members

if TYPE_CHECKING:
    from meshsvc.kv.backend import KvBackend
    from meshsvc.kv.client.service import KvClient
    from meshsvc.node.store.remote import RemoteStore

_KEY = "store"
"""What nodes that hold a part of the store gossip; see ``directory.KEY``."""


class StoreAccess:
    """The store for the applications of one shard.

    Args:
        me: this node.
        holds: whether this node holds a part of the store.
    """

    def __init__(
        self, reactor: IReactorTime, messaging: Messaging, members: Members, me: NodeId, holds: bool
    ) -> None:
        self.local: KvBackend | None = None
        self._reactor, self._messaging, self._members = reactor, messaging, members
        self._me, self._holds = me, holds
        self._remote: RemoteStore | None = None
        self._client: KvClient | None = None

    def client(self) -> KvClient:
        """The one client of this shard."""
        if self._client is None:
            from meshsvc.kv.client.service import KvClient  # noqa: PLC0415

            backend: KvBackend | None = self.local
            if backend is None:
                from meshsvc.node.store.remote import RemoteStore  # noqa: PLC0415

                self._remote = RemoteStore(self._reactor, self._messaging, self._holder)
                backend = self._remote  # type: ignore[assignment]  # what a client needs of one
            assert backend is not None
            self._client = KvClient(backend, self._reactor)
        return self._client

    def _holder(self) -> ShardAddress | None:
        """Shard 0 of this node if it holds the store, else of the first node that does."""
        if self._holds:
            return ShardAddress(self._me, ShardId(0))
        for member in self._members.alive:
            if _takes_part(member):
                return ShardAddress(member.node_id, ShardId(0))
        return None

    def stop(self) -> None:
        """End what is watched."""
        if self._remote is not None:
            self._remote.stop()


def _takes_part(member: Member) -> bool:
    row = member.values.get(_KEY)
    return isinstance(row, list | tuple) and bool(row) and bool(row[0][2])

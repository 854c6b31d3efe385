"""Drives ``Casts`` on shard 0: broadcasts in from links and shards, out to every shard."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from meshsvc.counters import Counters
from meshsvc.messaging.items import join
from meshsvc.model import LinkClass, NodeId, NodeInfo, Sent, ShardId
from meshsvc.relay.casts import MAX_BODY, Casts
from meshsvc.relay.relay import Links
from meshsvc.relay.routes import Routes
from meshsvc.wire.messages import Cast, CastsHeld, CastsWanted, Envelope

MAX_OWED = 64
"""Broadcasts kept for a sibling that the bus has yet to reach, which takes some tenths of a second
after shard 0 began."""

_CONTROL = LinkClass.CONTROL


class Deliver(Protocol):
    """Takes an envelope for a shard of this node."""

    def __call__(self, envelope: Envelope) -> None:
        """Deliver it here, or pass it to the sibling it is for."""


class Broadcasts:
    """The broadcasts that leave from, and arrive at, this node."""

    def __init__(
        self,
        reactor: IReactorTime,
        me: NodeInfo,
        shard_incarnation: int,
        links: Links,
        routes: Routes,
        deliver: tuple[Deliver, Callable[[], Iterable[tuple[ShardId, object]]]],
        counters: Counters,
    ) -> None:
        """``deliver`` takes envelopes for shards, and tells which siblings they reach now."""
        self._reactor = reactor
        self._me = me
        self._links = links
        self._deliver_to, self._siblings = deliver
        self._owed: dict[int, deque[Cast]] = {}
        self._timer: IDelayedCall | None = None
        self._stopped = False
        self.observers: list[Callable[[Cast], object]] = []
        life = (int(me.incarnation), shard_incarnation)
        self.core = Casts(routes, life, self._hand, self._deliver, counters, reactor.seconds())

    def send(self, shard: int, item: bytes) -> Sent:
        """Broadcast an encoded tell of a shard of this node to every shard of every node.

        Returns:
            ``Sent.FULL`` when it is over ``MAX_BODY``, ``Sent.DISCONNECTED`` while stopping.
        """
        body = join([item])
        if self._stopped:
            return Sent.DISCONNECTED
        if len(body) > MAX_BODY:
            return Sent.FULL
        self.core.cast(shard, body, self._reactor.seconds())
        self._arm()
        return Sent.ACCEPTED

    def stop(self) -> None:
        """Send, and repair, nothing more."""
        self._stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def link_up(self, node: NodeId) -> None:
        """A neighbour is there."""
        if not self._stopped:
            self.core.link_up(node)

    def received(self, peer: NodeId, message: object) -> None:
        """A message of a neighbour; others than those of broadcasts are passed over."""
        if self._stopped:
            return
        if type(message) is Cast:
            self.core.received(peer, message, self._reactor.seconds())
        elif type(message) is CastsHeld:
            self.core.held(peer, message)
        elif type(message) is CastsWanted:
            self.core.wanted(peer, message, self._reactor.seconds())
        else:
            return
        self._arm()

    def _hand(self, node: NodeId, message: object) -> Sent:
        link = self._links.link(node, _CONTROL)
        return Sent.DISCONNECTED if link is None else link.send(message)

    def _deliver(self, cast: Cast) -> None:
        for observer in self.observers:
            observer(cast)
        reached = {0, *(int(shard) for shard, _ in self._siblings())}
        for shard in range(self._me.shards):
            if shard in reached:
                self._give(shard, cast)
            else:
                self._owed.setdefault(shard, deque(maxlen=MAX_OWED)).append(cast)

    def sibling_up(self, shard: int) -> None:
        """The bus reaches a sibling: it has what was said since this shard began."""
        for cast in self._owed.pop(shard, ()):
            self._give(shard, cast)

    def _give(self, shard: int, cast: Cast) -> None:
        self._deliver_to(
            Envelope(
                *(cast.source, cast.source_shard, 0, self._me.node_id, shard, 0),
                *(_CONTROL.value, 0, 0, 0, cast.body),
            )
        )

    def _arm(self) -> None:
        due = self.core.deadline()
        if due is not None and (self._timer is None or not self._timer.active()):
            delay_s = max(0.0, due - self._reactor.seconds())
            self._timer = self._reactor.callLater(delay_s, self._tick)

    def _tick(self) -> None:
        self.core.tick(self._reactor.seconds())
        self._arm()

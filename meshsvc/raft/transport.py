"""Raft over the mesh: one tell to each node in a turn, with the messages of all its groups.

It uses nothing but messaging, over control links, which are relayed when two nodes have no
direct one. Loss is normal to Raft, so nothing is kept or sent again here: what finds no way
is dropped, and the cores are told.

Messages name the member that they are for. A node may be back as another member, on an empty
disk or with a restored one: what was meant for its old self, by a leader of another cluster
even, is nothing to its new one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from meshsvc.counters import Counters
from meshsvc.model import LinkClass, NodeId, Sent, ShardAddress, ShardId
from meshsvc.raft.quorum import Member
from meshsvc.wire.codec import encode

if TYPE_CHECKING:
    from meshsvc.raft.protocol import Receiver

VERB = "raft.msg"

DROPPED = "raft_messages_dropped_total"
"""Losses by reason. Not among the frames that were dropped: a group that starts later than the
others misses messages without a fault of anybody."""

MAX_QUEUED = 16 * 1024 * 1024
"""Bytes for one node in one turn: two full windows; more could not leave at once anyway."""


class Messaging(Protocol):
    """What the transport needs of the messaging service."""

    def tell_now(self, target: ShardAddress, verb: str, data: bytes, link_class: LinkClass) -> Sent:
        """Send an encoded payload, without waiting for the turn to end; never waits."""

    def register_oneway(self, verb: str, handler: Callable[[Any], object]) -> None:
        """Take a verb."""

    def unregister(self, verb: str) -> Any:
        """Take it no more."""


class _Queue:
    """What waits for one node until the turn ends, by group and member."""

    def __init__(self) -> None:
        self.size = 0
        self.lines: dict[tuple[int, Member], list[bytes]] = {}

    def put(self, group: int, to: Member, data: bytes) -> bool:
        if self.size + len(data) > MAX_QUEUED:
            return False
        self.size += len(data)
        self.lines.setdefault((group, to), []).append(data)
        return True


class MeshTransport:
    """The transport of all groups of one shard.

    Args:
        messaging: of this shard.
        call_later: the reactor's ``callLater``.
        counters: of the shard.
        shard: which shard of each node the groups live on.
        link_class: the control plane for the system group and for ``default``, which then go on
            while the data plane is formed.
    """

    def __init__(
        self,
        messaging: Messaging,
        call_later: Callable[[float, Callable[[], None]], object],
        counters: Counters,
        shard: ShardId,
        link_class: LinkClass = LinkClass.CONTROL,
    ) -> None:
        self._messaging, self._call_later, self._counters = messaging, call_later, counters
        self._shard, self._class = shard, link_class
        self._places: dict[Member, NodeId] = {}
        self._receivers: dict[int, tuple[Member, Receiver]] = {}
        self._queues: dict[NodeId, _Queue] = {}
        self._flushing = False

    def start(self) -> None:
        """Take the verb."""
        self._messaging.register_oneway(VERB, self._received)

    def stop(self) -> Any:
        """Take it no more; returns what ``unregister`` does."""
        self._queues.clear()
        return self._messaging.unregister(VERB)

    def learn(self, member: Member, node: NodeId) -> None:
        """A member lives on this node. Every message teaches the same of its sender."""
        self._places[member] = node

    def place(self, member: Member) -> NodeId | None:
        """Where a member lives, None when that is not known."""
        return self._places.get(member)

    def way_lost(self, node: NodeId) -> None:
        """The link to a node ended: tell the cores of its members, as when a message is lost."""
        for member in [each for each, place in self._places.items() if place == node]:
            for _, receiver in list(self._receivers.values()):
                receiver.unreachable(member)

    def group(self, group: int, me: Member) -> GroupTransport:
        """The transport of one group, whose member here is ``me``."""
        return GroupTransport(self, group, me)

    # --- out -----------------------------------------------------------------------------

    def send(self, group: int, to: Member, data: bytes) -> None:
        """Queue a message for the end of the turn."""
        node = self._places.get(to)
        if node is None:
            self._lost(group, to, "unknown-member")
            return
        queue = self._queues.get(node)
        if queue is None:
            queue = self._queues[node] = _Queue()
        if not queue.put(group, to, data):
            self._counters.add(DROPPED, reason="full")
        if not self._flushing:
            self._flushing = True
            self._call_later(0, self._end_turn)

    def _end_turn(self) -> None:
        self._flushing = False
        self.flush()

    def flush(self) -> None:
        """Send what is queued, of all groups, without waiting for the turn to end."""
        queues, self._queues = self._queues, {}
        for node, queue in queues.items():
            payload = [
                [group, self._receivers[group][0], to, messages]
                for (group, to), messages in queue.lines.items()
                if group in self._receivers
            ]
            if not payload:
                continue
            target = ShardAddress(node, self._shard)
            sent = self._messaging.tell_now(target, VERB, encode(payload), self._class)
            if sent is Sent.ACCEPTED:
                continue
            for group, to in queue.lines:
                reason = "full" if sent is Sent.FULL else "disconnected"
                self._lost(group, to, reason)

    def _lost(self, group: int, to: Member, reason: str) -> None:
        self._counters.add(DROPPED, reason=reason)
        known = self._receivers.get(group)
        if known is not None:
            known[1].unreachable(to)

    # --- in ------------------------------------------------------------------------------

    def _received(self, call: Any) -> None:
        rows: Any = call.payload
        if not isinstance(rows, list):
            rows = [rows]
        for row in rows:
            if not _is_sound(row):
                self._counters.add(DROPPED, reason="malformed")
                continue
            group, source, to, messages = row
            known = self._receivers.get(group)
            if known is None or known[0] != to:
                reason = "unknown-member" if known else "unknown-group"
                self._counters.add(DROPPED, reason=reason)
                continue
            self._places[source] = call.source.node
            known[1].received(source, messages)

    def attach(self, group: int, me: Member, receiver: Receiver) -> None:
        """Begin to receive for a group."""
        self._receivers[group] = (me, receiver)

    def detach(self, group: int) -> None:
        """Receive no more for a group."""
        self._receivers.pop(group, None)


def _is_sound(row: object) -> bool:
    if not (isinstance(row, list) and len(row) == 4):
        return False
    group, source, to, messages = row
    numbers = type(group) is int and type(to) is int and type(source) is int and 0 < source < 2**64
    return numbers and isinstance(messages, list) and all(type(m) is bytes for m in messages)


class GroupTransport:
    """The ``Transport`` of one group over the mesh."""

    def __init__(self, mesh: MeshTransport, group: int, me: Member) -> None:
        self._mesh, self._group, self._me = mesh, group, me

    def attach(self, receiver: Receiver) -> None:
        """Begin to receive."""
        self._mesh.attach(self._group, self._me, receiver)

    def detach(self) -> None:
        """Receive no more."""
        self._mesh.detach(self._group)

    def send(self, to: Member, data: bytes) -> None:
        """Queue a message for the end of the turn."""
        self._mesh.send(self._group, to, data)

    def flush(self) -> None:
        """Let what is queued leave now."""
        self._mesh.flush()

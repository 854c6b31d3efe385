"""What an application talks to: a shard, a node, the owner of a key, everyone.

A target is resolved each time it is used, so it may be kept: the name may appear, restart
or move meanwhile. What cannot be resolved is ``Disconnected``, like what cannot be reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from twisted.internet.defer import Deferred, DeferredList, fail

from meshsvc.errors import CallError, Disconnected, NoOwner, NoSuchTarget, TooLarge
from meshsvc.messaging.lanes import Lane
from meshsvc.messaging.service import Messaging
from meshsvc.model import LinkClass, NodeId, Sent, ShardAddress, ShardId
from meshsvc.relay.casts import MAX_BODY
from meshsvc.wire.codec import encode_payload

MAX_BROADCAST = MAX_BODY - 256
"""Bytes of a broadcast payload: its verb and the heads of arrays need some more."""

DEFAULT_TIMEOUT_S = 5.0


class Directory(Protocol):
    """Who is there, as targets need to know it; ``version`` rises when an answer may change."""

    version: int

    def node_named(self, name: str) -> tuple[NodeId, int] | None:
        """The id and number of shards of a member, by name or id; None when not listed."""

    def owner(self, key: str | bytes) -> ShardAddress | None:
        """The shard that owns a key now; None while the mesh has not formed."""

    def everyone(self) -> Sequence[tuple[str, NodeId, int]]:
        """Name, id and number of shards of every node alive, this one included."""


class _Resolved:
    """A target whose address may change; found again only after the directory changed."""

    def __init__(
        self, messaging: Messaging, directory: Directory, link_class: LinkClass = LinkClass.DATA
    ) -> None:
        self._messaging = messaging
        self._directory = directory
        self._class = link_class
        self._found: Lane | None = None
        self._found_at = -1

    @property
    def address(self) -> ShardAddress:
        """Where it is now.

        Raises:
            NoSuchTarget: when there is no such node or shard.
            NoOwner: when no node owns the key.
        """
        raise NotImplementedError

    def _lane(self) -> Lane:
        lane = self._found
        if lane is None or self._found_at != self._directory.version:
            self._found_at = self._directory.version
            lane = self._found = self._messaging.lane(self.address, self._class)
        return lane

    def ask(
        self, verb: str, payload: object = None, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> Deferred[Any]:
        """Ask, wherever it is now; see ``Messaging.ask``."""
        try:
            lane = self._lane()
        except (NoSuchTarget, NoOwner) as error:
            self._found = None
            return fail(Disconnected(f"asking {verb}: {error}"))
        return self._messaging.ask_lane(lane, verb, payload, timeout_s)

    def tell(self, verb: str, payload: object = None) -> Sent:
        """Tell, wherever it is now; see ``Messaging.tell``."""
        try:
            lane = self._lane()
        except (NoSuchTarget, NoOwner):
            self._found = None
            return Sent.DISCONNECTED
        return self._messaging.tell_lane(lane, verb, payload)


class NodeTarget(_Resolved):
    """A node by name: any shard of it, or a given one."""

    def __init__(
        self,
        messaging: Messaging,
        directory: Directory,
        name: str,
        index: int | None,
        near: int,
        link_class: LinkClass = LinkClass.DATA,
    ) -> None:
        super().__init__(messaging, directory, link_class)
        self.name = name
        self._index = index
        self._near = near

    def shard(self, index: int) -> NodeTarget:
        """One shard of the node, by its index."""
        return NodeTarget(
            self._messaging, self._directory, self.name, index, self._near, self._class
        )

    def over(self, link_class: LinkClass) -> NodeTarget:
        """The same target over another class of link (``LinkClass.CONTROL`` for probes)."""
        return NodeTarget(
            self._messaging, self._directory, self.name, self._index, self._near, link_class
        )

    @property
    def address(self) -> ShardAddress:
        """The shard asked for, or the one at this shard's own position."""
        found = self._directory.node_named(self.name)
        if found is None:
            raise NoSuchTarget(f"no member is called {self.name!r}: see `meshsvc members`")
        node, shards = found
        index = self._near % shards if self._index is None else self._index
        if not 0 <= index < shards:
            raise NoSuchTarget(f"{self.name} has shards 0 to {shards - 1}, not {index}")
        return ShardAddress(node, ShardId(index))


class OwnerTarget(_Resolved):
    """Whichever shard of the cluster owns a key."""

    def __init__(self, messaging: Messaging, directory: Directory, key: str | bytes) -> None:
        super().__init__(messaging, directory)
        self.key = key

    @property
    def address(self) -> ShardAddress:
        """The owner now."""
        owner = self._directory.owner(self.key)
        if owner is None:
            raise NoOwner("no node owns any key yet: the mesh has not formed")
        return owner


@dataclass(frozen=True, slots=True)
class Answers(Mapping[str, Any]):
    """What a query brought in, by node name; ``errors`` holds why others did not answer."""

    replies: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, CallError] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[str, ...]:
        """The names of the nodes that did not answer, sorted."""
        return tuple(sorted(self.errors))

    def __getitem__(self, name: str) -> Any:
        return self.replies[name]

    def __iter__(self) -> Any:
        return iter(self.replies)

    def __len__(self) -> int:
        return len(self.replies)


class Everyone:
    """Every node that is alive, this one included."""

    def __init__(self, messaging: Messaging, directory: Directory, me: NodeId) -> None:
        self._messaging = messaging
        self._directory = directory
        self._me = me

    def tell(self, verb: str, payload: object = None) -> dict[ShardAddress, Sent]:
        """Tell every shard of every node; returns what became of each."""
        return {
            address: self._messaging.tell(address, verb, payload)
            for _, node, shards in self._directory.everyone()
            for address in (ShardAddress(node, ShardId(index)) for index in range(shards))
        }

    def broadcast(self, verb: str, payload: object = None) -> Sent:
        """Tell every shard of every node once, over the control plane.

        Slower than ``tell``, but it also reaches nodes that this one has no link to, over
        others. What a node gets is not older than its process.

        Returns:
            ``Sent.ACCEPTED``, or what became of it between this shard and shard 0.

        Raises:
            TooLarge: when the payload takes more than 64 KiB.
            NotEncodable: when the payload has no strict CBOR form.
        """
        size = len(encode_payload(payload))
        if size > MAX_BROADCAST:
            raise TooLarge(f"the payload of {verb} takes {size} bytes, {MAX_BROADCAST} are allowed")
        first = ShardAddress(self._me, ShardId(0))
        return self._messaging.tell(first, "sys.broadcast", [verb, payload], LinkClass.CONTROL)

    def query(
        self, verb: str, payload: object = None, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> Deferred[Answers]:
        """Ask shard 0 of every node; fires when all have answered or failed."""
        asked = list(self._directory.everyone())
        waiting = [
            self._messaging.ask(ShardAddress(node, ShardId(0)), verb, payload, timeout_s)
            for _, node, _ in asked
        ]

        def collect(results: list[tuple[bool, Any]]) -> Answers:
            answers = Answers()
            for (name, _, _), (ok, value) in zip(asked, results, strict=True):
                if ok:
                    answers.replies[name] = value
                else:
                    error = value.value
                    answers.errors[name] = (
                        error if isinstance(error, CallError) else Disconnected(str(error))
                    )
            return answers

        return DeferredList(waiting, consumeErrors=True).addCallback(collect)

"""Lanes: where items for one shard collect until the end of the reactor turn.

A lane is the unit of order (FIFO per target shard and class) and of back-pressure: what it
holds is bounded in items and bytes, and stays in it while the outbox below is full.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from meshsvc.messaging.items import MAX_BATCH, join
from meshsvc.model import Epoch, LinkClass, Sent, ShardAddress
from meshsvc.shards.routing import Route

MAX_ITEMS = 65536
"""Items waiting in one lane: about what a link moves in a tenth of a second."""

MAX_BYTES = 16 * 1024 * 1024
"""Bytes waiting in one lane. One item may be larger when nothing else waits."""


@dataclass(slots=True, eq=False)
class Lane:
    """Items waiting to go to one target over one class.

    ``open`` tells whether there is a way to the target, ``route`` which; ``incarnation`` is
    the life of the target shard that may receive them (0: whichever is current), so replies
    reach only the life that asked. ``head`` is how its envelopes begin under ``epoch``.
    """

    target: ShardAddress
    link_class: LinkClass
    route: Route
    incarnation: int = 0
    open: bool = False
    dirty: bool = False
    size: int = 0
    items: deque[bytes] = field(default_factory=deque)
    head: bytes = b""
    epoch: Epoch | None = None

    def put(self, item: bytes) -> Sent:
        """Add an item that fits one batch, or say why not."""
        if not self.open:
            return Sent.DISCONNECTED
        if self.size > MAX_BYTES or len(self.items) >= MAX_ITEMS:
            return Sent.FULL
        self.items.append(item)
        self.size += len(item)
        return Sent.ACCEPTED

    def put_all(self, parts: list[bytes]) -> Sent:
        """Add the parts of an oversize item, all or none."""
        if not self.open:
            return Sent.DISCONNECTED
        if self.size > MAX_BYTES or len(self.items) >= MAX_ITEMS:
            return Sent.FULL
        self.items.extend(parts)
        self.size += sum(map(len, parts))
        return Sent.ACCEPTED

    def remove(self, item: bytes) -> bool:
        """Take back an item that has not left yet."""
        try:
            self.items.remove(item)
        except ValueError:
            return False
        self.size -= len(item)
        return True

    def next_body(self) -> tuple[bytes, int]:
        """The body of the next envelope, and how many items it holds; nothing is removed."""
        items = self.items
        if self.size <= MAX_BATCH:
            return join(list(items)), len(items)
        batch: list[bytes] = []
        size = 0
        for item in items:
            if batch and size + len(item) > MAX_BATCH:
                break
            batch.append(item)
            size += len(item)
        return join(batch), len(batch)

    def sent(self, count: int) -> None:
        """Remove the items of an envelope that was accepted below."""
        items = self.items
        if count == len(items):
            items.clear()
            self.size = 0
            return
        for _ in range(count):
            self.size -= len(items.popleft())

    def drain(self) -> list[bytes]:
        """Remove and return everything: the way to the target is gone."""
        left = list(self.items)
        self.items.clear()
        self.size = 0
        return left

"""Envelopes that this shard passes on for others, and that find no room at once.

Each way out (a link, or a sibling) has a queue of its own, so that a peer that is stuck, or
has yet to agree on an epoch, holds up nobody else's traffic. Order is kept on each way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from meshsvc.model import NodeId, Sent
from meshsvc.wire.messages import Envelope

MAX_WAY_BYTES = 16 * 1024 * 1024
"""What may wait for one way: sixteen of the largest envelopes, some turns of all siblings."""

MAX_BYTES = 4 * MAX_WAY_BYTES
"""What may wait for all of them: four peers that are stuck leave the others no room to wait,
and what goes out at once needs none."""

OVERHEAD = 512
"""Bytes counted for an envelope besides its body: its fields, and its place in a queue."""

Way = tuple[str, int]


class Relays:
    """See the module's docstring; ``forward`` sends an envelope one hop on."""

    def __init__(self, me: NodeId, forward: Callable[[Envelope], Sent]) -> None:
        self._me, self._forward = me, forward
        self._queues: dict[Way, deque[Envelope]] = {}
        self._held: dict[Way, int] = {}
        self._total = 0

    def __len__(self) -> int:
        """Envelopes that wait."""
        return sum(map(len, self._queues.values()))

    def send(self, envelope: Envelope) -> Sent:
        """Send it, or keep it for ``pass_on`` while there is no room for it.

        Returns:
            ``Sent.ACCEPTED`` when either was done, ``Sent.FULL`` when too much waits already,
            ``Sent.DISCONNECTED`` when there is no way.
        """
        way = self._way(envelope)
        if way not in self._queues:
            sent = self._forward(envelope)
            if sent is not Sent.FULL:
                return sent
        size = _size(envelope)
        held = self._held.get(way, 0) + size
        if held > MAX_WAY_BYTES or self._total + size > MAX_BYTES:
            return Sent.FULL
        self._queues.setdefault(way, deque()).append(envelope)
        self._held[way] = held
        self._total += size
        return Sent.ACCEPTED

    def pass_on(self) -> list[Envelope]:
        """Send what can be sent now, on each way; those whose way is gone are returned."""
        lost: list[Envelope] = []
        for way, queue in list(self._queues.items()):
            while queue:
                sent = self._forward(queue[0])
                if sent is Sent.FULL:
                    break
                envelope = queue.popleft()
                size = _size(envelope)
                self._held[way] -= size
                self._total -= size
                if sent is Sent.DISCONNECTED:
                    lost.append(envelope)
            if not queue:
                del self._queues[way], self._held[way]
        return lost

    def _way(self, envelope: Envelope) -> Way:
        if envelope.target == self._me:
            return envelope.target, envelope.target_shard
        return envelope.target, -1 - envelope.link_class


def _size(envelope: Envelope) -> int:
    return len(envelope.body) + OVERHEAD

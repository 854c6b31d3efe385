"""Keeps the order of control envelopes when the way of a sender changes.

Over one link envelopes arrive as they were sent. When a link is lost, or found, those on the
old way may come after those on the new one. What was overtaken is dropped (its asks end in
an error that can be retried), and so is what an earlier life of the sender wrote: who gets
control messages sees them in order, once each, whichever way they came (VERB-4).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meshsvc.wire.messages import Envelope

MAX_SENDERS = 32768
"""Shards whose last number is kept: a thousand nodes of 32. One that is forgotten could have
late envelopes of it taken out of order, which happens on a change of its way only."""


@dataclass(slots=True)
class _Sender:
    life: tuple[int, int]
    last: dict[tuple[int, bool], int] = field(default_factory=dict)


class Order:
    """The last number of each sender, by receiving shard; replies have a row of their own."""

    def __init__(self) -> None:
        self._senders: dict[tuple[str, int], _Sender] = {}

    def admits(self, envelope: Envelope, node_life: int) -> bool:
        """Whether an envelope comes in time; ``node_life`` is the incarnation of its node.

        A number of 0 is outside the order: somebody on the way wrote it.
        """
        if not envelope.seq:
            return True
        life = (node_life, envelope.source_incarnation)
        sender = self._sender((envelope.source, envelope.source_shard), life)
        if life < sender.life:
            return False
        row = (envelope.target_shard, bool(envelope.target_incarnation))
        if envelope.seq <= sender.last.get(row, 0):
            return False
        sender.last[row] = envelope.seq
        return True

    def _sender(self, key: tuple[str, int], life: tuple[int, int]) -> _Sender:
        sender = self._senders.get(key)
        if sender is None or life > sender.life:
            if len(self._senders) >= MAX_SENDERS:
                del self._senders[next(iter(self._senders))]
            sender = self._senders[key] = _Sender(life)
        return sender

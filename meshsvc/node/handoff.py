"""The membership view, from shard 0 to every shard of the node, in order.

Shard 0 sends a sibling the whole view when it connects, and the rows that changed after
that; each message carries the index it ends at. A sibling that notices a gap (an outbox was
full) asks for the whole view again; until it has it, its copy is old but never mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.logger import Logger

from meshsvc.model import Incarnation, Sent, ShardId
from meshsvc.node.members import Members
from meshsvc.wire.messages import View

ROWS_A_MESSAGE = 500
"""Rows in one message: a row is a few hundred bytes, a frame holds a mebibyte."""

FIRST = ShardId(0)


class Bus(Protocol):
    """The way to the siblings."""

    def send(self, shard: ShardId, message: object) -> Sent:
        """Send to one."""

    def siblings(self) -> tuple[tuple[ShardId, Incarnation], ...]:
        """Those that are up."""


ViewSince = Callable[[int], tuple[int, bool, Sequence[object]]]


class Publisher:
    """Shard 0's side: tells every shard, itself included, what changed."""

    log = Logger()

    def __init__(self, bus: Bus, view_since: ViewSince, members: Members) -> None:
        self._bus = bus
        self._view_since = view_since
        self._members = members
        self._sent: dict[ShardId, int] = {}

    def changed(self) -> None:
        """Bring every copy up to the view; call it on each change, and now and then, because
        a sibling whose outbox was full is owed the whole view.
        """
        index, whole, rows = self._view_since(self._members.index)
        if index != self._members.index:
            self._members.apply(index, whole, rows)
        for shard, _ in self._bus.siblings():
            self._bring_up(shard)

    def sibling_up(self, shard: ShardId) -> None:
        """A sibling connected: it knows nothing."""
        self._sent[shard] = 0
        self._bring_up(shard)

    def asked(self, shard: ShardId) -> None:
        """A sibling noticed a gap."""
        self.sibling_up(shard)

    def _bring_up(self, shard: ShardId) -> None:
        index, whole, rows = self._view_since(self._sent.get(shard, 0))
        if index == self._sent.get(shard):
            return
        # A large view goes in several messages, the first of which replaces the copy.
        for start in range(0, max(1, len(rows)), ROWS_A_MESSAGE):
            part = tuple(rows[start : start + ROWS_A_MESSAGE])
            message = View(index, whole and start == 0, part)
            if self._bus.send(shard, message) is not Sent.ACCEPTED:
                self._sent[shard] = 0
                return
        self._sent[shard] = index


class Copy:
    """Any other shard's side: applies what shard 0 says."""

    def __init__(self, bus: Bus, members: Members) -> None:
        self._bus = bus
        self._members = members

    def heard(self, shard: ShardId, view: View) -> None:
        """Shard 0 sent rows."""
        if shard == FIRST and not self._members.apply(view.index, view.whole, view.rows):
            self._bus.send(FIRST, View(0, False, ()))

"""What the mesh works with, described as it sees it: messaging, links, bus, membership.

The services of those floors fit these protocols, and so do the fakes of tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from meshsvc.model import (
    Address,
    Epoch,
    LinkClass,
    NodeId,
    NodeInfo,
    Roster,
    Sent,
    ShardAddress,
    ShardId,
)


class Messaging(Protocol):
    """Asks out and verbs in."""

    def ask(
        self,
        target: ShardAddress,
        verb: str,
        payload: object,
        timeout_s: float,
        link_class: LinkClass,
    ) -> Deferred[Any]:
        """Ask a shard; the Deferred fails in ``timeout_s`` at the latest."""

    def register(self, verb: str, handler: Callable[[Any], object]) -> None:
        """Answer asks for a verb with what ``handler(call)`` returns."""

    def unregister(self, verb: str) -> object:
        """Stop answering asks for a verb."""


class Links(Protocol):
    """The links of this shard."""

    def set_epoch(self, epoch: Epoch, roster: Roster | None) -> None:
        """Hold data links at an epoch, between the members of a roster only."""

    def keep(self, target: Address, link_class: LinkClass, expect: NodeId | None) -> None:
        """Have a link dialed until it is forgotten."""

    def forget(self, target: Address, link_class: LinkClass) -> None:
        """Stop dialing; a live link stays."""

    def add_observer(self, observer: Any) -> None:
        """Call the methods of ``LinkEvents`` on an object."""


class Bus(Protocol):
    """The way to the sibling shards."""

    def send(self, shard: ShardId, message: object) -> Sent:
        """Send a message to a sibling; never waits."""

    def add_observer(self, observer: Any) -> None:
        """Call the methods of ``BusEvents`` on an object."""


class Members(Protocol):
    """The membership as gossip sees it."""

    def alive(self) -> tuple[NodeInfo, ...]:
        """The nodes seen alive, this one included."""

    def epochs(self) -> Mapping[NodeId, Epoch]:
        """The epoch in force at each alive node that shows one, 0.0 for none."""

    def publish_epoch(self, epoch: Epoch) -> None:
        """Show others the epoch in force at this node, 0.0 for none."""

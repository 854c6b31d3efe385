"""What subscribers hear: one frozen event for each thing that happened to an endpoint.

For one generation of a node the order is Joined, then any of Suspect, Alive, Dead and
Changed, then at most one of Left and Removed. A later life begins with Restarted, after
which nothing is said of the node until an echo proved it: then it has Joined again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from meshsvc.gossip.members import Member
from meshsvc.model import NodeId, NodeInfo


@dataclass(frozen=True, slots=True)
class Event:
    """``member`` is the node as it was when this happened; ``at`` is in seconds."""

    name: ClassVar[str] = "event"
    member: Member
    at: float

    @property
    def node_id(self) -> NodeId:
        """Whom it is about."""
        return self.member.node_id

    @property
    def info(self) -> NodeInfo:
        """The identity of whom it is about."""
        return self.member.info


@dataclass(frozen=True, slots=True)
class Joined(Event):
    """This life of the node answered an echo for the first time: it is alive."""

    name: ClassVar[str] = "joined"


@dataclass(frozen=True, slots=True)
class Alive(Event):
    """The node answers again, after Suspect or Dead, in the same life."""

    name: ClassVar[str] = "alive"


@dataclass(frozen=True, slots=True)
class Suspect(Event):
    """Neither an echo nor the echoes of others got through; it has a moment to refute it."""

    name: ClassVar[str] = "suspect"


@dataclass(frozen=True, slots=True)
class Dead(Event):
    """The suspicion ran out, or a node that was to come back did not answer."""

    name: ClassVar[str] = "dead"


@dataclass(frozen=True, slots=True)
class Left(Event):
    """The node stopped on purpose."""

    name: ClassVar[str] = "left"


@dataclass(frozen=True, slots=True)
class Removed(Event):
    """The node was taken out of the cluster for good."""

    name: ClassVar[str] = "removed"


@dataclass(frozen=True, slots=True)
class Changed(Event):
    """Values changed; ``changed`` holds all keys of one update, None for a deleted one."""

    name: ClassVar[str] = "changed"
    changed: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Restarted(Event):
    """A later life of a known node; ``member`` is the new one, ``old`` the one it replaces."""

    name: ClassVar[str] = "restarted"
    old: Member


@dataclass(frozen=True, slots=True)
class Resync:
    """In place of what a slow subscriber missed: all members as they are now."""

    name: ClassVar[str] = "resync"
    view: tuple[Member, ...]
    at: float


AnyEvent = Event | Resync

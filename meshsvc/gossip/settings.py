"""What a membership is set up with, and the phases it goes through."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from meshsvc.model import Address

SHADOW_RETRY_S = 0.5
"""A contact whose link is up before its gossip runs misses the first SYN."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Times in seconds.

    Attributes:
        interval_s: between two rounds.
        probe_interval_s: between two rounds of echoes to nodes that look well.
        probe_timeout_s: the longest a direct echo waits; what was measured makes it shorter.
        suspicion_s: the shortest suspicion in a cluster of up to ten nodes.
        shadow_s: how long the first contact with the cluster may take.
        shadow_required: whether a start without any contact fails.
    """

    interval_s: float = 1.0
    probe_interval_s: float = 1.0
    probe_timeout_s: float = 1.0
    suspicion_s: float = 1.0
    shadow_s: float = 10.0
    shadow_required: bool = False


@dataclass(frozen=True, slots=True)
class Contacts:
    """Where the cluster may be found: configured seeds, and nodes known in an earlier life.

    ``awaited`` when discovery looks for more: a node without any is not alone before that
    has answered, or the time for a first contact is over.
    """

    seeds: tuple[Address, ...] = ()
    remembered: tuple[Address, ...] = ()
    awaited: bool = False

    @property
    def fixed(self) -> tuple[Address, ...]:
        """Those known from the start, each once."""
        return tuple(dict.fromkeys((*self.seeds, *self.remembered)))


class Phase(Enum):
    """Where this node stands with the cluster.

    Before it starts nothing is sent. In the shadow it reads states from contacts, says
    nothing of itself and answers echoes with "not ready". Stopped, it is silent.
    """

    IDLE = "idle"
    SHADOW = "shadow"
    MEMBER = "member"
    STOPPED = "stopped"

"""Bugs in the links between nodes: who may have one, which stays, what it delivers."""

from __future__ import annotations

from planting import bug, swap

from meshsvc.link import admission, keepalive, pairing
from meshsvc.link.gate import EpochGate
from meshsvc.link.targets import Targets
from meshsvc.messaging.protocol import Inbox
from meshsvc.retry import Retry


@bug(scenario="swarm", rules="handshake")
def a_frame_of_another_epoch_is_delivered():
    """The gate of the link and the check behind it both let it through (MESH-9)."""
    with (
        swap(EpochGate, "objection", lambda self, envelope: None),
        swap(Inbox, "_other_epoch", lambda self, envelope, theirs: None),
    ):
        yield


@bug(scenario="double-dials", section="MESH", rules="pairing")
def the_two_ends_keep_different_links():
    """Of two links of a pair each end keeps the one that came up last there (LINK-6)."""

    def last(self, links):
        for link in links:
            link.proven = True
        return links[-1]

    with swap(pairing.Pairing, "_best", last):
        yield


@bug(scenario="strangers", section="MESH", rules="handshake")
def a_stranger_of_another_cluster_is_let_in():
    """The cluster's name is not compared (LINK-2, MESH-6)."""
    checks = tuple(check for check in admission._IDENTITY if check is not admission._cluster)
    with swap(admission, "_IDENTITY", checks):
        yield


@bug(scenario="double-dials", section="MESH")
def each_end_picks_another_of_two_links():
    """The tie-break of a double dial depends on who looks (LINK-6)."""

    def survivor(a, b):
        kept = right(a, b)
        return a if a.dial % 2 else kept

    with swap(pairing, "survivor", survivor) as right:
        yield


@bug(scenario="quiet-death", section="MESH")
def silence_is_never_noticed():
    """A peer that says nothing any more keeps its link (LINK-4)."""
    with swap(keepalive, "DEAD_AFTER_S", 1e9):
        yield


@bug(scenario="swarm")
def a_retry_has_no_timer():
    """Nobody is told when the next attempt is due."""
    with swap(Retry, "deadline", lambda self: None), swap(Targets, "deadline", lambda self: None):
        yield


@bug(scenario="swarm", rules="retry")
def a_retry_misses_its_wake_up():
    """A tick at the very moment a wait is over takes the wait away and does not run."""

    def tick(self, now):
        exact = self._core.due_at == now
        if exact:
            self._core.due_at = None
            return False
        return right(self, now)

    with swap(Retry, "tick", tick) as right:
        yield

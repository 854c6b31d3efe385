"""Bugs of discovery: of its checks, and of what a node remembers."""

from __future__ import annotations

from planting import bug, swap
from twisted.internet.defer import succeed

from meshsvc.discovery.phases import Phases
from meshsvc.node.remembering import PeerMemory


# What a lost wish costs is a check five minutes later, by when every scenario is over.
@bug(rules="discovery")
def a_check_asked_for_while_one_runs_is_lost():
    """The wish is dropped with the timer that is armed at the end of the check (DISC-2)."""

    def check(self, now):
        if not self.checking:
            right(self, now)

    with swap(Phases, "check", check) as right:
        yield


# As above.
@bug(rules="discovery")
def a_lost_node_does_not_shorten_the_wait():
    """It is noted, and the five minutes that are armed run to their end (DISC-1)."""

    def node_down(self, now):
        self._core.down_at = now

    with swap(Phases, "node_down", node_down):
        yield


@bug(rules="discovery")
def a_late_answer_ends_another_check():
    """An answer that comes after its time-out is taken for that of the check that runs."""

    def ended(self, run, now, *, failed):
        return right(self, self.run, now, failed=failed)

    with swap(Phases, "ended", ended) as right:
        yield


@bug(rules="discovery")
def an_error_is_waited_out_like_a_success():
    """After an error it looks again when it would have anyway (DISC-1)."""

    def ended(self, run, now, *, failed):
        return right(self, run, now, failed=False)

    with swap(Phases, "ended", ended) as right:
        yield


@bug(rules="discovery")
def a_second_start_begins_the_first_phase_anew():
    """And with it another check, beside the one that runs (DISC-2)."""

    def start(self, now):
        right(self, now)
        self._core.initial = True

    with swap(Phases, "start", start) as right:
        yield


@bug(scenario="swarm", section="DISC")
def peers_are_never_written_down():
    """The next life of a cluster that lost all its processes knows nobody (GSP-11)."""
    with swap(PeerMemory, "_save", lambda self, kept: succeed(True)):
        yield

"""Bugs in who is taken for alive, and why."""

from __future__ import annotations

from planting import bug, swap

from meshsvc.gossip import endpoints, membership, states
from meshsvc.gossip.detector import Detector
from meshsvc.gossip.health import LocalHealth
from meshsvc.gossip.suspicion import Suspicions
from meshsvc.gossip.watch import Watch


@bug(scenario="swarm", section="GOSSIP", rules="liveness")
def alive_without_an_echo():
    """What others say of a node proves it (GSP-5)."""

    def learned(self, node, generation, now):
        right(self, node, generation, now)
        self._watched[node].machine.echoed()
        self._settle(node, self._watched[node], now)

    with swap(Watch, "learned", learned) as right:
        yield


@bug(scenario="late-goodbye", section="GOSSIP")
def an_earlier_generation_replaces_a_later_one():
    """Whatever comes last is believed (GSP-2)."""

    def fit(delta, mine):
        older = mine is not None and delta.state.generation < mine.generation
        return states.Fit.NEWS if older and not delta.base else right_fit(delta, mine)

    def merge(one, other):
        return other if other.generation != one.generation else right_merge(one, other)

    with (
        swap(endpoints, "fit", fit) as right_fit,
        swap(endpoints, "merge", merge) as right_merge,
    ):
        yield


@bug(scenario="late-goodbye")
def a_goodbye_of_an_earlier_life_counts():
    """SHUTDOWN is taken whatever its generation (GSP-9)."""

    def on_shutdown(self, peer, payload, now):
        self._apply(now)
        self._watch.shut_down(peer, now)

    with swap(membership._RECEIVERS, membership.SHUTDOWN, on_shutdown):
        yield


@bug(scenario="swarm", section="GOSSIP", rules="liveness")
def hearsay_convicts():
    """An accusation is taken for a failed probe of one's own, and for its end (GSP-7)."""

    def accused(self, accuser, node, generation, now):
        right(self, accuser, node, generation, now)
        watched = self._watched.get(node)
        if watched is not None and watched.generation == generation:
            watched.machine.probe_failed()
            watched.machine.expired()
            self._settle(node, watched, now)

    with swap(Watch, "accused", accused) as right:
        yield


@bug(scenario="slow-node", section="GOSSIP", rules="liveness")
def who_was_stopped_blames_the_others():
    """A node does not notice that it stood still itself (GSP-8)."""

    def nothing(self, *_):
        return None

    with (
        swap(LocalHealth, "lagged", nothing),
        swap(Detector, "stalled", nothing),
        swap(Suspicions, "stalled", nothing),
    ):
        yield


@bug(scenario="quiet-death", rules="liveness")
def nobody_is_ever_convicted():
    """A suspicion does not run out (GSP-7)."""
    with swap(Watch, "_expire", lambda self, node, now: None):
        yield


@bug(scenario="partition-heal", section="LIVENESS", rules="liveness")
def the_dead_are_not_probed_again():
    """A node that was convicted is not tried any more (GSP-3, 11)."""

    def probe(self, node, watched, now):
        if watched.life.status.value != "dead":
            right(self, node, watched, now)

    with swap(Watch, "_probe", probe) as right:
        yield

"""Per-verb counters, and the encoded verb that goes with them, looked up once a message."""

from __future__ import annotations

from meshsvc.counters import Counter, Counters
from meshsvc.messaging.items import verb_prefix
from meshsvc.model import Sent

MAX_VERBS = 1024
"""Verbs with series of their own; further ones (a caller makes them up) share one."""

OTHER = "other"


class Stats:
    """What one verb costs to send: its prefixes and its counters."""

    __slots__ = ("_counters", "_label", "accepted", "ask_prefix", "asked", "latency", "ok",
                 "tell_prefix", "verb")  # fmt: skip

    def __init__(self, counters: Counters, verb: str, label: str) -> None:
        self._counters = counters
        self._label = label
        self.verb = verb
        self.tell_prefix = verb_prefix(verb, 2)
        self.ask_prefix = verb_prefix(verb, 4)
        self.accepted = counters.counter("verb_tells_total", verb=label, outcome="accepted")
        self.asked = counters.counter("verb_asks_total", verb=label)
        self.ok = counters.counter("verb_outcomes_total", verb=label, outcome="ok")
        self.latency = counters.histogram("verb_latency_seconds", verb=label)

    def ended(self, kind: str) -> None:
        """Count an ask that ended in an error of this kind."""
        self._counters.add("verb_outcomes_total", verb=self._label, outcome=kind)

    def rejected(self, sent: Sent) -> None:
        """Count a tell that was not accepted."""
        self._counters.add("verb_tells_total", verb=self._label, outcome=sent.name.lower())


class VerbStats:
    """The ``Stats`` of every verb this shard uses."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._by_verb: dict[str, Stats] = {}
        self._handled: dict[str, Counter] = {}
        self.unknown = counters.counter("verb_unknown_total")

    def of(self, verb: str) -> Stats:
        """The stats of a verb.

        Raises:
            NotEncodable: when it is not a verb.
        """
        stats = self._by_verb.get(verb)
        if stats is None:
            if len(self._by_verb) >= MAX_VERBS:
                return Stats(self._counters, verb, OTHER)
            stats = self._by_verb[verb] = Stats(self._counters, verb, verb)
        return stats

    def handled(self, verb: str) -> Counter:
        """The counter of calls that a handler of this shard finished."""
        counter = self._handled.get(verb)
        if counter is None:
            counter = self._counters.counter("verb_handled_total", verb=verb)
            self._handled[verb] = counter
        return counter

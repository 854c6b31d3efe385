"""The side that runs verbs: which function answers which verb, and what is running.

Pure bookkeeping; running a handler and sending its answer is the service's part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meshsvc.counters import Counter
from meshsvc.errors import VerbTaken
from meshsvc.messaging.items import verb_prefix
from meshsvc.messaging.lanes import Lane
from meshsvc.model import Incarnation, LinkClass, ShardAddress

MAX_RUNNING = 16384
"""Asks running at once in a shard; beyond it callers get Overloaded, at once."""

Handler = Callable[["Call"], Any]


class Call:
    """What a handler is given.

    ``payload`` is the caller's own value decoded; ``source`` the shard it came from;
    ``now`` the reactor's time in seconds; ``deadline`` when the caller stops waiting, on
    the same clock, or None for a tell.
    """

    __slots__ = ("deadline", "now", "payload", "source", "verb")

    def __init__(
        self, verb: str, payload: Any, source: ShardAddress, now: float, deadline: float | None
    ) -> None:
        self.verb = verb
        self.payload = payload
        self.source = source
        self.now = now
        self.deadline = deadline

    @property
    def remaining_s(self) -> float | None:
        """Seconds that were left when the handler was started, or None for a tell."""
        return None if self.deadline is None else self.deadline - self.now


class Origin:
    """Who sent a batch, and the lane that leads back to that life of it."""

    __slots__ = ("_losses", "_lost", "incarnation", "lane", "link_class", "now", "source")

    def __init__(
        self,
        source: ShardAddress,
        incarnation: Incarnation,
        link_class: LinkClass,
        losses: Counter,
        now: float,
    ) -> None:
        self.source = source
        self.incarnation = incarnation
        self.link_class = link_class
        self._losses, self._lost = losses, losses.value
        self.now = now
        self.lane: Lane | None = None

    def __str__(self) -> str:
        return f"shard {self.source}"

    @property
    def gone(self) -> bool:
        """Whether the way it came was lost since."""
        return self._losses.value != self._lost


@dataclass(slots=True, eq=False)
class Registration:
    """A verb in this shard; ``oneway`` handlers give no answer to an ask but an empty one."""

    verb: str
    handler: Handler
    oneway: bool
    handled: Counter
    running: int = 0
    drained: Any = None


class VerbTable:
    """The verbs of a shard."""

    def __init__(self, handled: Callable[[str], Counter]) -> None:
        self._handled = handled
        self.verbs: dict[str, Registration] = {}

    def register(self, verb: str, handler: Handler, oneway: bool) -> Registration:
        """Enter a verb.

        Raises:
            VerbTaken: when it is registered already.
            NotEncodable: when it is not a verb.
        """
        verb_prefix(verb, 2)
        if verb in self.verbs:
            raise VerbTaken(
                f"the verb {verb!r} is registered already: unregister it first, or choose another"
            )
        registration = self.verbs[verb] = Registration(verb, handler, oneway, self._handled(verb))
        return registration

    def remove(self, verb: str) -> Registration | None:
        """Take a verb out; asks for it end in UnknownVerb from now on."""
        return self.verbs.pop(verb, None)

    def leftovers(self, owned_by_meshsvc: tuple[str, ...]) -> list[str]:
        """Verbs that their applications left registered, for the report at stop."""
        return sorted(verb for verb in self.verbs if not verb.startswith(owned_by_meshsvc))

"""Suspicions that run, and accusations by others that may confirm them.

A suspicion starts long and is cut short by each further node that found the same by a probe
of its own (Lifeguard's formula). An accusation alone convicts nobody: it makes the hearer
probe at once, and counts as a confirmation only if that probe fails too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf, log, log10

from meshsvc.gossip.health import LocalHealth
from meshsvc.model import NodeId

CONFIRMATIONS = 2
"""Independent accusers after which a suspicion is as short as it gets (as in memberlist)."""

SPREAD = 2.0
"""An unconfirmed suspicion lasts this many times as long as a confirmed one."""

SILENT = 2.0
"""A suspect whose link is still up gets this many times as long: its process may be stopped
for a moment, or its host gone, while a process that died has its links reset."""

REPROBE_S = 0.25
"""A suspect is echoed this often: a link that came back clears it before it is convicted."""

MANY = 20
"""With more suspects each is echoed less often: when half of a large cluster is cut off, the
other half must not drown in echoes."""

ACCUSATION_TTL_S = 5.0
"""What was accused longer ago is another story."""

MAX_ACCUSERS = 8
"""More are not needed to confirm, so more are not remembered."""

MAX_ACCUSED = 4096
"""One for each node of the largest cluster; forgetting them costs a longer suspicion."""


@dataclass(slots=True)
class Suspicion:
    """One running suspicion; times in seconds."""

    generation: int
    started: float
    low_s: float
    needed: int
    accusers: set[NodeId] = field(default_factory=set)
    next_probe: float = 0.0
    credit_s: float = 0.0
    silent: bool = False
    queued: float = inf

    @property
    def deadline(self) -> float:
        """When it convicts, unless it is cleared."""
        span = self.low_s
        if self.needed:
            confirmed = min(len(self.accusers), self.needed)
            unconfirmed = 1.0 - log(confirmed + 1) / log(self.needed + 1)
            span *= 1.0 + (SPREAD - 1.0) * unconfirmed
        return self.started + span * (SILENT if self.silent else 1.0) + self.credit_s

    @property
    def due(self) -> float:
        """When something is to be done about it."""
        return min(self.deadline, self.next_probe)


class Suspicions:
    """All suspicions of this node, by suspect."""

    def __init__(self, shortest_s: float, health: LocalHealth) -> None:
        self._shortest_s = shortest_s
        self._health = health
        self._running: dict[NodeId, Suspicion] = {}
        self._accused: dict[tuple[NodeId, int], dict[NodeId, float]] = {}
        # The entry of a suspicion that counts is that at ``queued``, never after its due time.
        self._due: list[tuple[float, int, NodeId, Suspicion]] = []
        self._entries = 0

    def start(
        self, node: NodeId, generation: int, members: int, now: float, *, silent: bool
    ) -> None:
        """Suspect a node.

        Args:
            node: the suspect.
            generation: the life of it that is suspected.
            members: how many nodes seem to live, this one included.
            now: seconds.
            silent: whether there is a link to it that is up and silent.
        """
        low = self._shortest_s * max(1.0, log10(max(members, 1))) * self._health.factor
        needed = max(0, min(CONFIRMATIONS, members - 2))
        accusers = set(self._fresh(node, generation, now))
        one = Suspicion(generation, now, low, needed, accusers, silent=silent)
        self._running[node] = one
        one.next_probe = now + self._pause_s()
        self._sooner(node, one)

    def link_lost(self, node: NodeId) -> None:
        """The link to a suspect was reset."""
        running = self._running.get(node)
        if running is not None:
            running.silent = False
            self._sooner(node, running)

    def accuse(self, node: NodeId, generation: int, accuser: NodeId, now: float) -> bool:
        """Somebody else suspects a node: True when that was not known and may matter."""
        recent = self._fresh(node, generation, now)
        if accuser in recent or len(recent) >= MAX_ACCUSERS:
            return False
        recent[accuser] = now
        if len(self._accused) > MAX_ACCUSED:
            self._accused.clear()
        self._accused[node, generation] = recent
        running = self._running.get(node)
        if running is not None and running.generation == generation:
            running.accusers.add(accuser)
            self._sooner(node, running)
        return len(recent) <= CONFIRMATIONS

    def _fresh(self, node: NodeId, generation: int, now: float) -> dict[NodeId, float]:
        told = self._accused.get((node, generation), {})
        return {who: at for who, at in told.items() if now - at < ACCUSATION_TTL_S}

    def get(self, node: NodeId) -> Suspicion | None:
        """The running suspicion of a node."""
        return self._running.get(node)

    def clear(self, node: NodeId) -> None:
        """The node is cleared, convicted or gone."""
        self._running.pop(node, None)
        for key in [key for key in self._accused if key[0] == node]:
            del self._accused[key]

    def stalled(self, lag_s: float, now: float) -> None:
        """This node stood still: every suspect gets the time back, and a moment to refute."""
        for node, one in self._running.items():
            one.credit_s += lag_s
            short = now + min(one.low_s, self._shortest_s) - one.deadline
            one.credit_s += max(0.0, short)
            one.next_probe = max(one.next_probe + lag_s, now + REPROBE_S)
            self._queue(node, one)

    def take_due(self, now: float) -> tuple[list[NodeId], list[NodeId]]:
        """(suspects whose time ran out, suspects to be probed again)."""
        expired, again = [], []
        while (due := self.deadline()) is not None and due <= now:
            _, _, node, one = heappop(self._due)
            if one.deadline <= now:
                expired.append(node)
            else:
                one.next_probe = now + self._pause_s()
                self._queue(node, one)
                again.append(node)
        return expired, again

    def deadline(self) -> float | None:
        """When ``take_due`` has something next."""
        while self._due:
            at, _, node, one = self._due[0]
            current = self._running.get(node) is one and one.queued == at
            if current and one.due <= at:
                return at
            heappop(self._due)
            if current:
                self._queue(node, one)
        return None

    def _sooner(self, node: NodeId, one: Suspicion) -> None:
        """A suspicion may be due earlier than its entry says."""
        if one.due < one.queued:
            self._queue(node, one)

    def _queue(self, node: NodeId, one: Suspicion) -> None:
        self._entries += 1
        one.queued = one.due
        heappush(self._due, (one.queued, self._entries, node, one))

    def _pause_s(self) -> float:
        return REPROBE_S * max(1.0, len(self._running) / MANY)

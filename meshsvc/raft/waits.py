"""What callers of this replica wait for: proposals until applied, reads until caught up.

Rules: everything ends exactly once, at its deadline at the latest; what has ended is
forgotten at once, so applying never finds nobody to answer and never waits for anybody; and
no bare counter decides whose answer it is (see ``sessions``).
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

NEVER = float("-inf")

MAX_PROPOSALS = 16384
"""Pending in one replica, as many as a shard runs asks; beyond it callers get Overloaded."""

MAX_READS = 65536
"""Reads pending in one replica: as many as a shard may have asks."""


@dataclass(slots=True, eq=False)
class Wait:
    """One caller; ``waiter`` is whatever the service answers with."""

    waiter: Any
    deadline: float
    ended: bool = False


@dataclass(slots=True, eq=False)
class Proposal(Wait):
    """A command on its way; ``sent_at`` is when it was last handed to Raft."""

    sequence: int = 0
    data: bytes = b""
    sent_at: float = NEVER


class Read(Wait):
    """A read on its way."""

    __slots__ = ()


class Deadlines:
    """When the next caller gives up."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Wait]] = []
        self._count = 0

    def add(self, wait: Wait) -> None:
        """Watch over a caller."""
        self._count += 1
        heappush(self._heap, (wait.deadline, self._count, wait))

    def next(self) -> float:
        """The next deadline of a caller that still waits; infinity for none."""
        while self._heap and self._heap[0][2].ended:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")

    def expired(self, now: float) -> list[Wait]:
        """Those whose deadline has passed."""
        found = []
        while self.next() <= now:
            found.append(heappop(self._heap)[2])
        return found


class Proposals:
    """The proposals of one session that were not applied yet, by sequence number."""

    def __init__(self, session: bytes) -> None:
        self.session = session
        self.opened = False
        self.pending: dict[int, Proposal] = {}
        self._last = 0
        self._fresh: list[Proposal] = []

    def __len__(self) -> int:
        return len(self.pending)

    @property
    def full(self) -> bool:
        """Whether one more must be refused."""
        return len(self.pending) >= MAX_PROPOSALS

    @property
    def low(self) -> int:
        """No number below this one is waited for."""
        return next(iter(self.pending), self._last + 1)

    def add(self, data: bytes, waiter: Any, deadline: float) -> Proposal:
        """Enter one."""
        self._last += 1
        proposal = Proposal(waiter, deadline, sequence=self._last, data=data)
        self.pending[self._last] = proposal
        self._fresh.append(proposal)
        return proposal

    def end(self, sequence: int) -> Proposal | None:
        """Take one out; None when it has ended before."""
        proposal = self.pending.pop(sequence, None)
        if proposal is not None:
            proposal.ended = True
        return proposal

    def fresh(self) -> list[Proposal]:
        """Those that were never sent."""
        taken, self._fresh = self._fresh, []
        return [each for each in taken if not each.ended]

    def unsent_since(self, time: float) -> list[Proposal]:
        """Those that were not sent since then, in their order."""
        self._fresh.clear()
        return [each for each in self.pending.values() if each.sent_at <= time]

    def renew(self, session: bytes) -> None:
        """Move all to a new session: the old one was forgotten before they were applied."""
        moved, self.pending = list(self.pending.values()), {}
        self.session, self.opened, self._last = session, False, 0
        for proposal in moved:
            self._last += 1
            proposal.sequence, proposal.sent_at = self._last, NEVER
            self.pending[self._last] = proposal


class ReadWaits:
    """Reads on their way through three stations: fresh, asked under a number, and known to
    need an index that is not applied yet.
    """

    def __init__(self) -> None:
        self.count = 0
        """Those that have not ended; kept by ``add``, ``given_up`` and ``applied``."""
        self.fresh: list[Wait] = []
        self._asked: dict[int, tuple[float, list[Wait]]] = {}
        self._known: list[tuple[int, int, list[Wait]]] = []
        self._order = 0

    @property
    def full(self) -> bool:
        """Whether one more must be refused."""
        return self.count >= MAX_READS

    def add(self, waiter: Any, deadline: float) -> Read:
        """Enter one."""
        wait = Read(waiter, deadline)
        self.fresh.append(wait)
        self.count += 1
        return wait

    def given_up(self) -> None:
        """One has ended without an answer."""
        self.count -= 1

    def asked(self, number: int, now: float) -> None:
        """All fresh ones go under this number."""
        self._asked[number] = (now, [wait for wait in self.fresh if not wait.ended])
        self.fresh = []

    def answered(self, number: int, index: int) -> None:
        """What goes under this number may be served from an index on."""
        _, waits = self._asked.pop(number, (0.0, []))
        if waits:
            self._order += 1
            heappush(self._known, (index, self._order, waits))

    def again(self, since: float) -> bool:
        """Make those fresh again that were asked before; True when there are any."""
        for number in [n for n, (at, _) in self._asked.items() if at <= since]:
            self.fresh += self._asked.pop(number)[1]
        self.fresh = [wait for wait in self.fresh if not wait.ended]
        return bool(self.fresh)

    def applied(self, index: int) -> list[Wait]:
        """Those that may be served now."""
        found: list[Wait] = []
        while self._known and self._known[0][0] <= index:
            found += heappop(self._known)[2]
        served = [wait for wait in found if not wait.ended]
        for wait in served:
            wait.ended = True
        self.count -= len(served)
        return served

    def all(self) -> list[Wait]:
        """Everybody who waits."""
        waits = [*self.fresh]
        for _, asked in self._asked.values():
            waits += asked
        for *_, known in self._known:
            waits += known
        return [wait for wait in waits if not wait.ended]

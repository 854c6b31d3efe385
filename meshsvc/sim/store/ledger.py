"""What clients of the store were told, kept outside of the nodes: what cannot be is a fault.

Revisions are what makes most of this cheap. Every write has one, in order of time; so whoever
is answered must not be shown an older state than anybody was shown before the call began.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from math import inf
from typing import Any

from meshsvc.kv.api import Event
from meshsvc.sim.linearizability import UNKNOWN, Operation, check, register

Change = tuple[bytes, int, bytes]
"""(key, event kind, value)"""

LATE_S = 0.01
"""How far clocks that drift by two in ten thousand are apart after a lease of a minute."""


@dataclass(slots=True)
class Held:
    """A lease as its client knows it: alive until ``until`` at least, unless it was
    ``released``; ``ended_at`` is when somebody saw that it was gone.
    """

    until: float
    released: bool = False
    ended_at: float = inf


@dataclass(slots=True)
class StoreLedger:
    """See the module's docstring.

    Attributes:
        newest: the highest revision that anybody was shown.
        acked: revision -> (key, value) of every write that was acknowledged.
        changes: revision -> what watchers were told of it.
        history: calls that were answered, and writes of which nobody knows what became.
        calm: whether faults are over; clients stop then.
    """

    on_fault: list[Callable[[str], None]] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    newest: int = 0
    calm: bool = False
    acked: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    changes: dict[int, tuple[Change, ...]] = field(default_factory=dict)
    leases: dict[int, Held] = field(default_factory=dict)
    written: dict[bytes, int] = field(default_factory=dict)
    last_seen: dict[bytes, bytes | None] = field(default_factory=dict)
    pending: dict[int, Any] = field(default_factory=dict)
    history: list[Operation] = field(default_factory=list)
    number: int = 0

    def fault(self, words: str) -> None:
        """Something happened that cannot be."""
        for tell in self.on_fault:
            tell(words)

    def count(self, what: str) -> None:
        """Something ended so."""
        self.outcomes[what] = self.outcomes.get(what, 0) + 1

    def next_number(self) -> int:
        """A number that no call and no value had before."""
        self.number += 1
        return self.number

    # --- states that were shown ----------------------------------------------------------

    def shown(self, revision: int, floor: int, who: str) -> None:
        """An answer is of this revision; ``floor`` is what was known when it was asked for."""
        if revision < floor:
            self.fault(f"{who} was answered as of revision {revision}, after {floor} was known")
        self.newest = max(self.newest, revision)

    def holds(self, key: bytes, value: bytes, revision: int, who: str) -> None:
        """A key was shown, or acknowledged, to have a value since a revision."""
        if self.written.setdefault(value, revision) != revision:
            self.fault(
                f"{who} says that {value!r} of {key!r} is of revision {revision},"
                f" others that it is of {self.written[value]}"
            )
        self.last_seen[key] = value

    def wrote(self, key: bytes, value: bytes, revision: int, who: str) -> None:
        """A write was acknowledged."""
        self.holds(key, value, revision, who)
        self.acked[revision] = (key, value)

    # --- watches -------------------------------------------------------------------------

    def told(self, revision: int, events: list[Event], who: str) -> None:
        """A watcher of all keys was told a revision, whole."""
        changes = tuple((e.kv.key, int(e.kind), e.kv.value) for e in events)
        if self.changes.setdefault(revision, changes) != changes:
            self.fault(
                f"{who} was told {changes} for revision {revision}, others {self.changes[revision]}"
            )
        acked = self.acked.get(revision)
        if acked is not None and not any((c[0], c[2]) == acked for c in changes):
            self.fault(f"{who} was told {changes} for revision {revision}, which wrote {acked}")

    # --- leases --------------------------------------------------------------------------

    def promised(self, lease_id: int, until: float) -> None:
        """A grant or a renewal was acknowledged."""
        held = self.leases.setdefault(lease_id, Held(until))
        held.until = max(held.until, until)
        self._not_early(lease_id, held)

    def lease_over(self, lease_id: int, now: float) -> None:
        """The key of a lease is gone."""
        held = self.leases.get(lease_id)
        if held is not None:
            held.ended_at = min(held.ended_at, now)
            self._not_early(lease_id, held)

    def _not_early(self, lease_id: int, held: Held) -> None:
        if held.ended_at < held.until - LATE_S and not held.released:
            self.fault(
                f"lease {lease_id:x} ended {held.until - held.ended_at:.3f} s before its time"
            )

    # --- histories -----------------------------------------------------------------------

    def wrong_keys(self) -> list[Hashable]:
        """The keys whose operations cannot have happened one at a time."""
        return check(told(self.history), register)


def told(history: list[Operation]) -> list[Operation]:
    """A history without the writes of which nobody knows, and whose value nobody was shown.

    Nothing that anybody saw depends on them (a compare that fails says what it saw), and each
    doubles the search.
    """
    shown = {o.answer for o in history if o.call[0] == "get"}
    shown |= {o.call[1] for o in history if o.call[0] == "cas" and o.answer is not UNKNOWN}
    before = -1
    while before != len(shown):  # what an unknown swap replaced was shown, if it was
        before = len(shown)
        shown |= {o.call[1] for o in history if o.call[0] == "cas" and o.call[-1] in shown}
    return [o for o in history if o.answer is not UNKNOWN or o.call[-1] in shown]

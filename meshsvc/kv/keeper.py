"""The leader's side of leases: what the clock says, turned into commands for the log."""

from __future__ import annotations

from collections.abc import Callable

from meshsvc.kv.api import LeaseTimeToLiveResult
from meshsvc.kv.commands import Checkpoint, Command, EndLeases
from meshsvc.kv.errors import LeaseNotFound, NotLeader
from meshsvc.kv.lease import Lease, LeaseClock
from meshsvc.kv.machine import Machine

ENDS_AT_ONCE = 100
"""Leases ended by one command: with a thousand keys each that is what one entry may cost."""


class LeaseKeeper:
    """Keeps time for the leases of a machine while this replica leads.

    Args:
        machine: whose leases.
        seconds: the monotonic clock.
        extend_s: what every lease gets on top when this replica begins to lead: an election
            time-out, for which nobody could renew.
    """

    def __init__(self, machine: Machine, seconds: Callable[[], float], extend_s: float) -> None:
        self._machine = machine
        self._seconds = seconds
        self._extend_s = extend_s
        self._clock = LeaseClock(lambda: machine.leases)
        self.term = 0

    @property
    def leading(self) -> bool:
        """Whether this replica keeps time."""
        return self._clock.leading

    def lead(self, term: int) -> None:
        """This replica leads, and has applied all that was committed before."""
        self.term = term
        self._clock.promote(self._seconds(), self._extend_s)

    def follow(self) -> None:
        """It leads no more."""
        self._clock.demote()

    def granted(self, lease: Lease) -> None:
        """The log granted a lease."""
        self._clock.granted(lease, self._seconds())

    def revoked(self, lease_id: int) -> None:
        """The log ended a lease."""
        self._clock.revoked(lease_id)

    def renew(self, lease_id: int) -> tuple[int, Command | None]:
        """Start a lease anew: seconds that were granted, and a command to propose, if any.

        Raises:
            NotLeader: ask the leader.
            LeaseNotFound: there is none, or it has run out.
        """
        if not self.leading:
            raise NotLeader
        ttl_s = self._clock.renew(lease_id, self._seconds())
        lease = self._machine.leases.get(lease_id)
        if lease is not None and lease.remaining_s:
            return ttl_s, Checkpoint(self.term, ((lease_id, 0),))
        return ttl_s, None

    def time_to_live(self, lease_id: int, keys: bool) -> LeaseTimeToLiveResult:
        """What is left of a lease.

        Raises:
            NotLeader: ask the leader.
            LeaseNotFound: there is none.
        """
        if not self.leading:
            raise NotLeader
        lease = self._machine.leases.get(lease_id)
        left = self._clock.remaining(lease_id, self._seconds())
        if lease is None or left is None:
            raise LeaseNotFound
        found = tuple(sorted(lease.keys)) if keys else ()
        return LeaseTimeToLiveResult(lease_id, int(left), lease.ttl_s, found)

    def commands(self) -> list[Command]:
        """What is to be proposed now: leases that ran out, and checkpoints of long ones."""
        if not self.leading:
            return []
        now = self._seconds()
        due = self._clock.due(now)
        found: list[Command] = [
            EndLeases(self.term, tuple(due[start : start + ENDS_AT_ONCE]))
            for start in range(0, len(due), ENDS_AT_ONCE)
        ]
        left = self._clock.checkpoints(now)
        if left:
            found.append(Checkpoint(self.term, tuple(left)))
        return found

"""What the parts of the service have in common: the replica, its group, and ways to do things.

``tending`` and ``leasing`` make no Deferreds of their own; they hang their answers on those
that these ways give them, so that they stay free of the reactor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from twisted.internet.defer import Deferred

    from meshsvc.kv.commands import Command
    from meshsvc.kv.machine import Machine
    from meshsvc.kv.protocol import Membership, RaftGroup

T = TypeVar("T")

REQUEST_S = 7.0
"""How long a request may take: 5 s, and two election time-outs of 1 s (etcd's)."""


class Ports(ABC):
    """Every Deferred that comes from here fails with a ``KvError`` or not at all."""

    machine: Machine
    group: RaftGroup
    membership: Membership
    disk_full: bool

    @abstractmethod
    def propose(self, command: Command) -> Deferred[Any]:
        """Have a command done by the log; fires with its answer."""

    @abstractmethod
    def current(self) -> Deferred[None]:
        """Fires when this replica knows all that was committed."""

    @abstractmethod
    def guarded(self, call: Callable[[], Deferred[T]]) -> Deferred[T]:
        """Do something that takes time."""

    @abstractmethod
    def sliced(self, steps: Generator[None, None, T]) -> Deferred[T]:
        """Do something in slices."""

    @abstractmethod
    def local(self, call: Callable[[], T]) -> Deferred[T]:
        """Do something at once."""

    @abstractmethod
    def ask_leader(self, payload: list[Any]) -> Deferred[list[Any]]:
        """Have the leader's ``answer``, which may be this replica's own."""

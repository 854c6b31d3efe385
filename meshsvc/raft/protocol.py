"""What a running replica stands on: the state machine, the way to the other members."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.interfaces import IReactorTime

from meshsvc.counters import Counters
from meshsvc.raft.quorum import Member

if TYPE_CHECKING:
    from random import Random


class Restoration(Protocol):
    """A state machine that is being filled from a snapshot."""

    def feed(self, chunk: bytes) -> object:
        """Take the next chunk, in a few milliseconds; raises when it is damaged."""

    def finish(self) -> None:
        """All chunks are there: take the place of the state there was."""


class StateMachine(Protocol):
    """What the log drives. It must do the same everywhere: no clock, no chance."""

    def apply(self, data: bytes, index: int, term: int) -> Any:
        """Do a command; what it returns goes to whoever proposed it here.

        What it raises stops the replica: a failure that the command deserves is returned.
        """

    def snapshot(self) -> Iterator[bytes]:
        """The state as of now, in chunks of at most 4 MiB less one byte.

        Each step takes a few milliseconds and is not disturbed by what is applied
        meanwhile. The iterator's ``close``, if it has one, is called when it is given up.
        """

    def restore(self) -> Restoration:
        """Begin to take over a snapshot."""


class Receiver(Protocol):
    """What the transport calls."""

    def received(self, source: Member, messages: Sequence[bytes]) -> None:
        """Messages from a member, in the order in which they were sent."""

    def unreachable(self, member: Member) -> None:
        """There is no way to a member now, and what was sent last may be lost."""


class Transport(Protocol):
    """The way to the other members. It may lose, double, delay and reorder messages."""

    def attach(self, receiver: Receiver) -> None:
        """Begin to receive."""

    def detach(self) -> None:
        """Receive no more."""

    def send(self, to: Member, data: bytes) -> None:
        """Send a message; never waits, and may lose it. It leaves when the turn ends."""

    def flush(self) -> None:
        """Somebody waits for what was sent in this turn: let it leave now."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a replica is given by its process.

    Args:
        reactor: the clock.
        rng: for election times and session ids.
        counters: of the shard.
        fatal: told (exit code, text) once, when the replica must not go on.
    """

    reactor: IReactorTime
    rng: Random
    counters: Counters
    fatal: Callable[[int, str], object]

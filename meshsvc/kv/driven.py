"""The store as a Raft group drives it: ``raft.protocol.StateMachine``.

The service has to hear of everything that happens to its machine, so the group is given this
and not the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from meshsvc.kv.machine import Machine, Result
from meshsvc.kv.snapshot import BadSnapshot


class Filling:
    """A snapshot being taken in."""

    def __init__(self, machine: Machine, whole: Callable[[Machine], None]) -> None:
        self._restore = machine.restore()
        self._whole = whole
        self._ended = False

    def feed(self, chunk: bytes) -> None:
        """Take the next chunk; raises ``BadSnapshot`` when it is damaged."""
        self._ended = self._restore.feed(chunk)

    def finish(self) -> None:
        """All chunks are there.

        Raises:
            BadSnapshot: when they are not.
        """
        if not self._ended:
            raise BadSnapshot("the snapshot ends too early: fetch it again")
        self._whole(self._restore.machine)


class Driven:
    """Args: what to do with a command, and with the machine that a snapshot brought."""

    def __init__(
        self,
        machine: Machine,
        apply: Callable[[bytes, int, int], Result],
        adopt: Callable[[Machine], None],
    ) -> None:
        self._machine = machine
        self.apply = apply
        self._adopt = adopt

    def snapshot(self) -> Iterator[bytes]:
        """The state as of now, in chunks."""
        return self._machine.snapshot()

    def restore(self) -> Filling:
        """Begin to take over a snapshot."""
        return Filling(self._machine, self._adopt)

"""What waits for the disk: changes that the next fsync takes together, and other work.

The queue is bounded in bytes and in changes. While the disk is full, changes that need room
stay in it, in their order, and compaction passes them: it is what makes room.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from meshsvc.storage.batches import MAX_BODY
from meshsvc.storage.changes import size_of
from meshsvc.storage.failures import QueueFull, TooLarge
from meshsvc.storage.records import Change, Compact

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How much may wait, and how much of it one fsync takes.

    ``bytes`` and ``changes`` are some seconds of a slow disk (10 MB/s, 100 fsyncs/s of 64
    each): who is further ahead has to be told. ``join`` keeps one write within a few
    milliseconds of a good disk, so that what comes next does not wait long.
    """

    bytes: int = 64 * 1024 * 1024
    changes: int = 20_000
    join: int = 4 * 1024 * 1024


@dataclass(slots=True, eq=False)
class Waiting(Generic[T]):
    """A change that waits, and what its submitter is to be told by."""

    change: Change
    size: int
    done: T


class CommitQueue(Generic[T]):
    """Changes in the order they came, taken in joins."""

    def __init__(self, limits: QueueLimits) -> None:
        self.bytes = 0
        self.full = False
        """Whether the disk is: then only compaction is taken."""
        self.stuck = False
        """Whether there is no room even for that: then nothing is taken."""
        self._limits = limits
        self._waiting: deque[Waiting[T]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, change: Change, done: T) -> None:
        """Let a change wait.

        Raises:
            TooLarge: it can never be written.
            QueueFull: it would be more than may wait.
        """
        size = size_of(change)
        if size > MAX_BODY:
            raise TooLarge(f"a change of {size} bytes, and {MAX_BODY} is the most: split it")
        limits = self._limits
        over = self.bytes + size > limits.bytes and self._waiting
        if len(self._waiting) >= limits.changes or over:
            raise QueueFull(
                f"{len(self._waiting)} changes with {self.bytes} bytes wait for the disk: wait"
                " until some of them are done"
            )
        self.bytes += size
        self._waiting.append(Waiting(change, size, done))

    def take(self) -> list[Waiting[T]]:
        """What the next fsync is for; empty when nothing can be taken now."""
        if self.stuck:
            return []
        if self.full:
            return self._take_compactions()
        taken: list[Waiting[T]] = []
        size = 0
        while self._waiting and (not taken or size + self._waiting[0].size <= self._limits.join):
            item = self._waiting.popleft()
            taken.append(item)
            size += item.size
        self.bytes -= size
        return taken

    def put_back(self, items: list[Waiting[T]]) -> None:
        """There was no room for these: they come first when there is."""
        self._waiting.extendleft(reversed(items))
        self.bytes += sum(item.size for item in items)

    def clear(self) -> list[Waiting[T]]:
        """Everything that waits, which no longer does."""
        items = list(self._waiting)
        self._waiting.clear()
        self.bytes = 0
        return items

    def _take_compactions(self) -> list[Waiting[T]]:
        taken = [item for item in self._waiting if isinstance(item.change, Compact)]
        if taken:
            self._waiting = deque(i for i in self._waiting if not isinstance(i.change, Compact))
            self.bytes -= sum(item.size for item in taken)
        return taken

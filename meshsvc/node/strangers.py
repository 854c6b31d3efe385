"""Connections that have not said yet who they are: bounded in number and in time.

Somebody who connects and stays silent holds a descriptor; so each gets ``PATIENCE_S``, and
when ``MOST`` wait, the one that has waited longest makes room for the next.
"""

from __future__ import annotations

from typing import Generic, TypeVar

MOST = 256
"""A quarter of the usual limit of 1024 descriptors."""

PATIENCE_S = 5.0
"""A peer sends its first bytes right behind the connect; slow networks take a second."""

T = TypeVar("T")


class Strangers(Generic[T]):
    """Who is waiting, oldest first."""

    def __init__(self, most: int = MOST, patience_s: float = PATIENCE_S) -> None:
        self._most = most
        self._patience_s = patience_s
        self._until: dict[T, float] = {}

    def add(self, stranger: T, now: float) -> T | None:
        """Begin to wait for one; returns another that is to be cut for it, or None."""
        oldest = next(iter(self._until)) if len(self._until) >= self._most else None
        if oldest is not None:
            del self._until[oldest]
        self._until[stranger] = now + self._patience_s
        return oldest

    def remove(self, stranger: T) -> None:
        """It has spoken, or left."""
        self._until.pop(stranger, None)

    def deadline(self) -> float | None:
        """When the next one's time is up."""
        return next(iter(self._until.values()), None)

    def take_expired(self, now: float) -> list[T]:
        """Those whose time is up; they are forgotten here."""
        expired = [stranger for stranger, until in self._until.items() if until <= now]
        for stranger in expired:
            del self._until[stranger]
        return expired

    def take_all(self) -> list[T]:
        """Everybody who waits; they are forgotten here."""
        everybody = list(self._until)
        self._until.clear()
        return everybody

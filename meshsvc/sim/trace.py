"""The event log of a run: one line an event, and a hash over all of it.

The hash also covers every delivery on the network, which is too much for the log. Two runs
of one seed have equal hashes, or something in the code under test is not a function of what
it was given.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

MAX_LINES = 200_000
"""Lines kept; a run with more keeps the last, and hashes all."""


@dataclass(frozen=True, slots=True)
class Line:
    """One event: when (virtual seconds), where (node, or empty), what, and about whom."""

    at: float
    node: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.at:10.4f}  {self.node or '-':5} {self.kind:9} {self.text}"


class Trace:
    """Collects what happens."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.deliveries = 0
        self._hash = blake2b(digest_size=16)

    def add(self, at: float, node: str, kind: str, text: str) -> None:
        """Note an event."""
        line = Line(at, node, kind, text)
        self._hash.update(str(line).encode())
        self.lines.append(line)
        if len(self.lines) > 2 * MAX_LINES:
            del self.lines[:MAX_LINES]

    def delivered(self, at: float, source: str, target: str, size: int) -> None:
        """Note that bytes arrived."""
        self.deliveries += 1
        self._hash.update(b"%.9f %s %s %d;" % (at, source.encode(), target.encode(), size))

    def digest(self) -> str:
        """The hash so far, in hex."""
        return self._hash.copy().hexdigest()

    def tail(self, count: int) -> list[str]:
        """The last lines as text."""
        return [str(line) for line in self.lines[-count:]]

    def text(self) -> str:
        """The whole log."""
        return "".join(f"{line}\n" for line in self.lines)

"""A bar for what takes long, on a terminal only: programs that read stderr see nothing of it."""

from __future__ import annotations

import sys
import time
from shutil import get_terminal_size

from meshsvc.admin.cli.output import printable

WIDTH = 30
EVERY_S = 0.1
"""Between two drawings: the eye does not see more, and a dump is not to wait for a terminal."""

CLEAR_LINE = "\r\x1b[K"


def bar(done: int, of: int, width: int = WIDTH) -> str:
    """``[####......]  40 %  40/100``; more than all is shown as all."""
    share = min(1.0, done / of) if of else 1.0
    full = int(share * width)
    return f"[{'#' * full}{'.' * (width - full)}] {int(share * 100):3} %  {done:,}/{of:,}"


class Progress:
    """One line at the end of the terminal; ``clear`` takes it away before rows are printed."""

    def __init__(self, what: str, wanted: bool = True) -> None:
        self._what = what
        self._on = wanted and sys.stderr is not None and sys.stderr.isatty()
        self._drawn_at: float | None = None

    def show(self, done: int, of: int) -> None:
        """Draw it anew, unless that was done a moment ago."""
        now = time.monotonic()
        if not self._on or (self._drawn_at is not None and now - self._drawn_at < EVERY_S):
            return
        self._drawn_at = now
        text = f"{printable(self._what)}  {bar(done, of)}"[: get_terminal_size().columns - 1]
        print(CLEAR_LINE + text, end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take it away."""
        if self._drawn_at is not None:
            self._drawn_at = None
            print(CLEAR_LINE, end="", file=sys.stderr, flush=True)

"""How the process ends: the codes of sysexits.h, and a way past twistd to return one.

``twistd`` returns 0 whenever its reactor was stopped, so a node that gave up would look to
systemd as if all were well. ``ExitStatus`` keeps the code and applies it as the interpreter
ends: by then twistd has stopped the services, closed the log and removed its pid file.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable

OK = 0
CUT_SHORT = 1
"""A second signal ended the node before its shards had drained."""
USAGE = 64
UNAVAILABLE = 69
SOFTWARE = 70
CANNOT_CREATE = 73
"""A port could not be bound."""
IO = 74
RETRY = 75
"""The data directory is locked: the start can work once its holder is gone."""
CONFIG = 78


class ExitStatus:
    """The code the process is to end with; the first failure that is noted wins."""

    def __init__(self, leave: Callable[[int], None] = os._exit) -> None:
        self._leave = leave
        self.code = OK
        self.text = ""

    def note(self, code: int, text: str) -> bool:
        """Remember why the process ends; false when an earlier failure stands."""
        if self.code != OK or code == OK:
            return False
        self.code, self.text = code, text
        return True

    def install(self) -> None:
        """Have the code applied when the interpreter ends."""
        atexit.register(self.apply)

    def apply(self) -> None:
        """End the process now when a failure was noted, with the reason as its last words.

        On the process's own stderr: ``sys.stderr`` writes into the log, which is closed, and
        people read a log from its end, where the shards have told how they stopped.
        """
        if self.code == OK:
            return
        words = ("", f"meshsvc: {self.text} (exit code {self.code})\n")
        for stream, last in zip((sys.stdout, sys.__stderr__), words, strict=True):
            try:
                if stream is not None:
                    stream.write(last)
                    stream.flush()
            except (OSError, ValueError):
                continue  # closed, or a full pipe: nobody reads it any more
        self._leave(self.code)

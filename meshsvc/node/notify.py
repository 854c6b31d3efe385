"""Telling systemd how the node is: the datagrams of sd_notify(3), and nothing when it runs
without systemd.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""What systemd sets for the main process only; shards are started without them."""


class Notifier:
    """Sends states to the socket that systemd named in the environment."""

    def __init__(self, env: Mapping[str, str], pid: int) -> None:
        self._address = env.get("NOTIFY_SOCKET", "")
        for_us = env.get("WATCHDOG_PID", str(pid)) == str(pid)
        self.watched = bool(self._address and for_us and env.get("WATCHDOG_USEC"))
        """Whether systemd wants ``WATCHDOG=1`` regularly."""

    def send(self, *lines: str) -> None:
        """Send ``NAME=value`` lines; a systemd that does not listen is no reason to fail."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
        ):
            channel.setblocking(False)
            channel.sendto("\n".join(lines).encode(), address)


def without(env: Mapping[str, str]) -> dict[str, str]:
    """An environment for child processes, which must not speak to systemd."""
    return {name: value for name, value in env.items() if name not in VARIABLES}


def here() -> Notifier:
    """The notifier of this process."""
    return Notifier(os.environ, os.getpid())

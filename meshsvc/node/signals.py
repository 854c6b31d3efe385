"""Signals of a node's processes. The reactor's own handling is replaced: with it, twistd ends
by the signal it got, which systemd and scripts take for a crash.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT)


def on_stop(reactor: Any, stop: Callable[[str], None], reload: Callable[[], None]) -> None:
    """Call ``stop(name)`` for each SIGTERM and SIGINT, and ``reload()`` for SIGHUP, in the
    reactor's own turn. Call this again when the reactor runs, as it installs handlers too.
    """
    for number in STOPPING:
        signal.signal(number, lambda got, _: reactor.callFromThread(stop, _name(got)))
    signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(reload))


def leave_to_supervisor() -> None:
    """Ignore what a terminal or systemd sends to the whole group: the supervisor decides
    when a shard stops, and says so over the channel.
    """
    for number in (*STOPPING, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _name(number: int) -> str:
    return signal.Signals(number).name

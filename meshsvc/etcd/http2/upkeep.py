"""When a connection that says nothing is asked, and when it is given up."""

from __future__ import annotations

from enum import Enum, auto

from meshsvc.etcd.http2.limits import Limits


class Due(Enum):
    """What time demands."""

    PING = auto()
    NO_PREFACE = auto()
    NO_HEADERS = auto()
    NO_PONG = auto()
    IDLE = auto()


TEXTS = {
    Due.NO_PREFACE: "no SETTINGS came after the connection",
    Due.NO_HEADERS: "a header block was begun and not ended",
    Due.NO_PONG: "keepalive ping failed to receive ACK within timeout",
    Due.IDLE: "the connection is idle",
}


class Upkeep:
    """The clocks of one connection, as times on the caller's monotonic clock."""

    __slots__ = (
        "_limits",
        "_pinged_at",
        "block_since",
        "busy",
        "greeted",
        "heard_at",
        "idle_since",
    )

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self.heard_at = now
        self.idle_since = now
        """Since when there is no stream; meaningless while ``busy``."""
        self.busy = False
        self.greeted = False
        self.block_since: float | None = None
        self._pinged_at: float | None = None

    def heard(self, now: float) -> None:
        """Bytes came."""
        self.heard_at = now
        self._pinged_at = None

    def pending(self) -> list[tuple[float, Due]]:
        """(when, what) of all that time may demand, soonest first."""
        limits = self._limits
        if not self.greeted:
            return [(self.idle_since + limits.preface_s, Due.NO_PREFACE)]
        waits = [
            (self.heard_at + limits.ping_after_s, Due.PING)
            if self._pinged_at is None
            else (self._pinged_at + limits.ping_timeout_s, Due.NO_PONG)
        ]
        if self.block_since is not None:
            waits.append((self.block_since + limits.header_block_s, Due.NO_HEADERS))
        if not self.busy:
            waits.append((self.idle_since + limits.idle_s, Due.IDLE))
        return sorted(waits, key=lambda wait: wait[0])

    def due(self, now: float) -> Due | None:
        """The first demand whose time has come; a PING counts as sent when it is given."""
        when, what = self.pending()[0]
        if when > now:
            return None
        if what is Due.PING:
            self._pinged_at = now
        return what

"""What one connection may cost: each number with its reason (KV-9)."""

from __future__ import annotations

from dataclasses import dataclass

PING_COST = 1
"""A PING makes us answer; gRPC clients measure bandwidth with one per burst of data."""

SETTINGS_COST = 10
"""SETTINGS make us answer and walk all streams; clients send them once or twice."""

RESET_COST = 5
"""A stream reset within a second of its start: work was begun for nothing."""

EMPTY_COST = 1
"""A frame that moves nothing: empty DATA or CONTINUATION, PRIORITY, an unknown type."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one HTTP/2 connection; the defaults fit etcd's clients with room to spare."""

    streams: int = 1000
    """Concurrent streams. Watches of one client share a stream, so this is its concurrency;
    clients queue above it. It bounds what one connection can have in progress."""

    header_bytes: int = 16 * 1024
    """Decoded header list, and each encoded block. A request has 300 bytes of headers, a
    token adds 1 KiB."""

    stream_window: int = 2 * 1024 * 1024
    """Unread request bytes of one stream: over the largest request (1.5 MiB and its frame), so
    that no request waits a round trip for a window."""

    connection_window: int = 16 * 1024 * 1024
    """Unread request bytes of all streams together: what a fast client has on the way."""

    queued_bytes: int = 64 * 1024 * 1024
    """Response bytes that wait for a slow reader, over all its streams."""

    stream_high_bytes: int = 1024 * 1024
    """Waiting bytes of one stream at which its source is asked to pause."""

    control_bytes: int = 64 * 1024
    """Waiting answers to PING and SETTINGS: thousands; a peer that reads never has ten."""

    chores: float = 1000
    """Burst of frames that cost work and carry no request (see ``Allowance``)."""

    chores_per_s: float = 200
    """How fast that allowance comes back."""

    preface_s: float = 10
    """From the connection to the client's first SETTINGS."""

    header_block_s: float = 10
    """From HEADERS to the end of its CONTINUATION frames: clients send them in one write."""

    ping_after_s: float = 60
    """Silence after which the peer is asked for a sign of life. Below the 350 s and 600 s at
    which cloud load balancers forget a connection."""

    ping_timeout_s: float = 20
    """How long it may take to give one; etcd's own figure."""

    idle_s: float = 3600
    """A connection without a stream is told to go after this; clients reconnect on demand."""

    stall_s: float = 120
    """How long a stream's data may wait for the reader without any moving."""


class Allowance:
    """A bucket of tokens that refills with time and with useful work.

    Rates alone would cut honest clients: a gRPC client sends one PING per burst of data it
    receives. So every frame of a response puts a token back.
    """

    __slots__ = ("_at", "_burst", "_per_s", "_tokens")

    def __init__(self, burst: float, per_s: float, now: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._tokens = burst
        self._at = now

    def earn(self, tokens: float) -> None:
        """Useful work was done."""
        self._tokens = min(self._burst, self._tokens + tokens)

    def spend(self, tokens: float, now: float) -> bool:
        """Take tokens; false when there are not enough."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        self._tokens -= tokens
        return self._tokens >= 0

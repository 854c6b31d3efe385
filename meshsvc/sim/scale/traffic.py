"""What gossip puts on the wire, in bytes of frames.

Counted is what a link writes for one call in an envelope of its own: the frame's length, the
envelope and the item. Headers of TCP and IP and the pings of idle links are not.
"""

from __future__ import annotations

from functools import lru_cache

from meshsvc.messaging.items import ask_suffix, join, verb_prefix
from meshsvc.wire.codec import encode
from meshsvc.wire.frames import PREFIX_BYTES
from meshsvc.wire.messages import Envelope
from meshsvc.wire.registry import encode_message

_ID = "0" * 32
_INCARNATION = 1_800_000_000
_SEQ = 100_000
"""Identity and numbers as they are in a cluster that has run for a while."""


def _frame(item: bytes) -> int:
    head = (_ID, 0, _INCARNATION, _ID, 0, 0, 1, 0, 0, _SEQ)
    return PREFIX_BYTES + len(encode_message(Envelope(*head, join([item]))))


@lru_cache
def tell_overhead(verb: str) -> int:
    """Bytes of a frame that tells something, beyond those of the payload."""
    return _frame(verb_prefix(verb, 2))


@lru_cache
def ask_bytes(verb: str, payload_bytes: int) -> int:
    """Bytes of a frame that asks something."""
    return _frame(verb_prefix(verb, 4) + bytes(payload_bytes) + ask_suffix(_SEQ, 1000))


@lru_cache
def reply_bytes() -> int:
    """Bytes of a frame that answers an echo with a generation."""
    return _frame(encode([_SEQ, _INCARNATION]))

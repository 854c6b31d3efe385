"""What the messages carry: 100 bytes, opaque or as a map of the kind applications send."""

from __future__ import annotations

KINDS = ("bytes", "map")


def payload(kind: str) -> object:
    """A value whose CBOR takes 100 bytes and a few."""
    if kind == "bytes":
        return b"x" * 100
    return {
        "id": 1234567,
        "user": "user-00000017",
        "action": "session.update",
        "at": 1763679600.25,
        "data": "x" * 38,
    }

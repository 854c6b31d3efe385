"""What this node says of itself, stamped from its one counter of versions.

The counter starts at the incarnation of shard 0, shifted left by 32 bits: a shard 0 that is
restarted within one life of the node says everything anew, and above all it said before. It
also lists which keys exist, so that those it no longer sets are deleted everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshsvc.errors import LocalError
from meshsvc.gossip.states import (
    BEAT,
    INTERNAL,
    KEYS,
    MAX_KEY,
    MAX_STATE_BYTES,
    MAX_VALUE_BYTES,
    EndpointState,
)
from meshsvc.model import NodeInfo
from meshsvc.wire.codec import decode, encode_payload


class BadValue(LocalError, ValueError):
    """A gossiped value or its key is too large or of a wrong kind; the text says what to do."""


class OwnState:
    """Builds this node's endpoint state, one batch of changes after the other."""

    def __init__(self, me: NodeInfo, shard_incarnation: int) -> None:
        self._version = shard_incarnation << 32
        self._sizes: dict[str, int] = {}
        self.state = EndpointState(me.node_id, int(me.incarnation), self._version, {})
        self.update(
            {
                "name": me.name,
                "address": str(me.address),
                "shards": me.shards,
                "status": "normal",
            }
        )

    def update(self, values: Mapping[str, Any]) -> None:
        """Set several keys as one batch; a value of None deletes its key.

        Raises:
            BadValue: for a value that is not plain CBOR or over 4 KiB, a key that is not 1
                to 128 characters or is reserved, or a total over 256 KiB; nothing is set.
        """
        checked = {key: _checked(key, value) for key, value in values.items()}
        sizes = {**self._sizes, **{key: size for key, (_, size) in checked.items()}}
        total = sum(sizes.values())
        if total > MAX_STATE_BYTES:
            raise BadValue(
                f"the values this node gossips would take {total} bytes, {MAX_STATE_BYTES} are"
                " allowed: keep large data in a table and gossip where it is"
            )
        self._sizes = {key: size for key, size in sizes.items() if size}
        kept = dict(self.state.values)
        for key, (value, size) in checked.items():
            if size:
                kept[key] = (value, self._next())
        gone = [key for key, (_, size) in checked.items() if not size and key in kept]
        for key in gone:
            del kept[key]
        if gone or KEYS not in kept:
            kept[KEYS] = (sorted({*kept, KEYS, BEAT}), self._next())
        self._publish(kept)

    def beat(self) -> None:
        """Say that this node lives."""
        self._publish({**self.state.values, BEAT: (True, self._next())})

    def outrun(self, version: int) -> None:
        """Say everything again, above a version that somebody believes this life has said."""
        self._version = max(self._version, version)
        old = sorted(self.state.values.items(), key=lambda item: item[1][1])
        self._publish({key: (value, self._next()) for key, (value, _) in old})

    def _next(self) -> int:
        self._version += 1
        return self._version

    def _publish(self, values: dict[str, tuple[Any, int]]) -> None:
        state = self.state
        self.state = EndpointState(state.node_id, state.generation, self._version, values)


def _checked(key: str, value: Any) -> tuple[Any, int]:
    """The value as a peer will see it, and its cost in bytes; 0 for a deletion."""
    if not 0 < len(key) <= MAX_KEY or key in INTERNAL:
        raise BadValue(
            f"{key!r} cannot be gossiped: a key has 1 to {MAX_KEY} characters and is none of"
            f" {', '.join(sorted(INTERNAL))}"
        )
    if value is None:
        return None, 0
    try:
        data = encode_payload(value)
    except LocalError as error:
        raise BadValue(f"the value of {key!r}: {error}") from error
    if len(data) > MAX_VALUE_BYTES:
        raise BadValue(
            f"the value of {key!r} takes {len(data)} bytes, {MAX_VALUE_BYTES} are allowed: keep"
            " it in a table and gossip where it is"
        )
    return decode(data), len(data) + len(key)

"""What the supervisor tells a shard process when it starts it, before any message flows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from meshsvc.model import Address, Incarnation, NodeId, ShardId

CONTROL_FD = 3
"""A stream socket: frames of messages, both ways."""

HANDOFF_FD = 4
"""A sequenced-packet socket: one accepted connection per packet, towards the shard."""

BOOT_FD = 5
"""A file that holds this module's ``Boot`` as JSON; closed once it is read."""


@dataclass(frozen=True, slots=True)
class Boot:
    """Who a shard process is and what it is to serve.

    ``incarnation`` is the node's generation, ``shard_incarnation`` counts the lives of this
    shard within it from 1. ``cpus`` is empty when the shard is not pinned. ``listeners`` are
    the configured ones as bound (port 0 is resolved); ``advertise`` is where peers dial this
    node. ``config`` is what ``Config.to_dict`` gave. ``supervisor`` is its pid.
    """

    node_id: NodeId
    name: str
    cluster: str
    incarnation: Incarnation
    shard: ShardId
    shard_incarnation: Incarnation
    shards: int
    cpus: tuple[int, ...]
    run_dir: str
    data_dir: str
    listeners: Mapping[str, Address]
    advertise: Address
    config: Mapping[str, Any]
    supervisor: int

    def to_json(self) -> bytes:
        """The value as ``from_json`` reads it."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Boot:
        """Read what ``to_json`` wrote; trusts it, as it comes from the parent process."""
        row = json.loads(data)
        row["cpus"] = tuple(row["cpus"])
        row["listeners"] = {name: Address(**at) for name, at in row["listeners"].items()}
        row["advertise"] = Address(**row["advertise"])
        return cls(**row)

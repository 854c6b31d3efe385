"""Puts through the mesh's own messaging: ``mesh.kv()`` in a shard that does not hold the store."""

from __future__ import annotations

from store_servers import Ours

DEPTH = 256


def native_puts(store: Ours, count: int) -> float:
    """Puts a second of 100 bytes, 256 at a time, from shard 1 of the node that leads."""
    leader = store.nodes[store.leader()]
    return float(leader.call(f"{leader.name}/1", "bench.puts", [count, DEPTH], 300.0))

"""What the supervisor tells its shards: rows for ``ShardStates`` and ``NodeCounters``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from meshsvc.model import ShardId
from meshsvc.node.ledger import CounterLedger
from meshsvc.wire.messages import NodeCounters

SUPERVISOR = ShardId(-1)
"""Stands in the rows of ``NodeCounters`` for the supervisor's own counters."""

ROWS_PER_MESSAGE = 2048
"""Counter rows in one message: at about 100 bytes each far below the largest frame."""


def state_row(worker: Any, life: Any, cpus: Sequence[int]) -> list[object]:
    """[index, pid, state, incarnation, restarts, lag_ms, cpu, connections] of a shard.

    ``pid`` is 0 while no process runs, ``cpu`` -1 when the shard is not pinned;
    ``connections`` counts those that this life took over.
    """
    return [
        worker.shard,
        life.pid if life else 0,
        worker.state,
        worker.incarnation,
        worker.restarts,
        float(life.lag_ms if life else 0),
        cpus[0] if cpus else -1,
        life.connections if life else 0,
    ]


def node_counters(ledger: CounterLedger, own: Iterable[Any]) -> Iterator[NodeCounters]:
    """The counters of all shards and of the supervisor, in as many messages as it takes."""
    batch: list[object] = [[SUPERVISOR, list(own)]]
    rows = 0
    for shard in ledger.shards:
        counted = ledger.rows(shard)
        if rows and rows + len(counted) > ROWS_PER_MESSAGE:
            yield NodeCounters(tuple(batch))
            batch, rows = [], 0
        batch.append([shard, counted])
        rows += len(counted)
    yield NodeCounters(tuple(batch))

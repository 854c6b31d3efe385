"""What can be set about tables; the defaults are those of ``[tables]`` in the config."""

from __future__ import annotations

from dataclasses import dataclass

from meshsvc.tables.replica import MAX_TOMBSTONES, TOMBSTONE_S
from meshsvc.tables.rows import MAX_ROW_BYTES


@dataclass(frozen=True, slots=True)
class Settings:
    """See ``etc/meshsvc.toml``."""

    max_row: int = MAX_ROW_BYTES
    write_timeout_s: float = 5.0
    join_wait_s: float = 5.0
    repair_interval_s: float = 3.0
    tombstone_life_s: float = TOMBSTONE_S
    max_tombstones: int = MAX_TOMBSTONES

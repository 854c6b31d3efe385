"""The vocabulary of the store: etcd's requests and answers under Python's names.

Fields mean what they mean in etcd 3.4's API, in its units (bytes, revisions, seconds), with
its defaults. ``KeyValue`` is a tuple, not a dataclass: it is what the store keeps a million
of, and tuples of plain values cost the collector nothing. Cluster and maintenance requests
are in ``upkeep``, failures in ``errors``, what a front calls in ``backend``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

MAX_TXN_OPS = 128
"""Operations in one txn, nested ones included (etcd's default)."""

MAX_REQUEST_BYTES = 1_572_864
"""1.5 MiB, etcd's default: one entry of the log has to fit a few frames and one fsync."""

MAX_LEASE_TTL_S = 9_000_000_000
"""etcd's bound, 285 years."""

OPEN_END = b"\x00"
"""As ``range_end``: every key from ``key`` on."""


class KeyValue(NamedTuple):
    """A key as it is at one revision; of a deleted key only ``key`` and ``mod_revision`` count."""

    key: bytes
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0
    value: bytes = b""
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Header:
    """Who answered and as of when; inside the answers of a txn only ``revision`` is set."""

    cluster_id: int = 0
    member_id: int = 0
    revision: int = 0
    raft_term: int = 0


NO_HEADER = Header()


class SortOrder(IntEnum):
    """Which way a range is sorted."""

    NONE = 0
    ASCEND = 1
    DESCEND = 2


class SortTarget(IntEnum):
    """What a range is sorted by."""

    KEY = 0
    VERSION = 1
    CREATE = 2
    MOD = 3
    VALUE = 4


@dataclass(frozen=True, slots=True)
class Range:
    """Read keys: ``key`` alone, or from ``key`` up to ``range_end``, which is left out.

    ``limit`` 0 is no limit; ``revision`` 0 or less is now. Without ``serializable`` the read
    is linearizable.
    """

    key: bytes
    range_end: bytes = b""
    limit: int = 0
    revision: int = 0
    sort_order: int = SortOrder.NONE
    sort_target: int = SortTarget.KEY
    serializable: bool = False
    keys_only: bool = False
    count_only: bool = False
    min_mod_revision: int = 0
    max_mod_revision: int = 0
    min_create_revision: int = 0
    max_create_revision: int = 0


@dataclass(frozen=True, slots=True)
class RangeResult:
    """``count`` is of all keys in the range, whatever ``limit`` and the revision bounds."""

    kvs: tuple[KeyValue, ...] = ()
    more: bool = False
    count: int = 0
    header: Header = NO_HEADER


@dataclass(frozen=True, slots=True)
class Put:
    """Write one key. ``ignore_value`` and ``ignore_lease`` keep what the key has."""

    key: bytes
    value: bytes = b""
    lease: int = 0
    prev_kv: bool = False
    ignore_value: bool = False
    ignore_lease: bool = False


@dataclass(frozen=True, slots=True)
class PutResult:
    """``prev_kv`` is None unless asked for and there was one."""

    prev_kv: KeyValue | None = None
    header: Header = NO_HEADER


@dataclass(frozen=True, slots=True)
class DeleteRange:
    """Delete ``key`` alone, or from ``key`` up to ``range_end``, which is left out."""

    key: bytes
    range_end: bytes = b""
    prev_kv: bool = False


@dataclass(frozen=True, slots=True)
class DeleteRangeResult:
    """``prev_kvs`` is empty unless asked for."""

    deleted: int = 0
    prev_kvs: tuple[KeyValue, ...] = ()
    header: Header = NO_HEADER


class CompareResult(IntEnum):
    """How the key's field has to stand to the given one."""

    EQUAL = 0
    GREATER = 1
    LESS = 2
    NOT_EQUAL = 3


class CompareTarget(IntEnum):
    """Which field of the key is compared."""

    VERSION = 0
    CREATE = 1
    MOD = 2
    VALUE = 3
    LEASE = 4


@dataclass(frozen=True, slots=True)
class Compare:
    """Holds when each key of the range does: ``operand`` is bytes for VALUE, else an int.

    A key that does not exist has version, revisions and lease 0, and no value: a compare of
    its value fails, whatever ``result`` asks.
    """

    key: bytes
    result: int = CompareResult.EQUAL
    target: int = CompareTarget.VERSION
    operand: int | bytes = 0
    range_end: bytes = b""


@dataclass(frozen=True, slots=True)
class Txn:
    """When all compares hold do ``success``, else ``failure``: all in one revision, or nothing."""

    compare: tuple[Compare, ...] = ()
    success: tuple[Op, ...] = ()
    failure: tuple[Op, ...] = ()


Op = Range | Put | DeleteRange | Txn


@dataclass(frozen=True, slots=True)
class TxnResult:
    """One answer for each operation of the branch taken."""

    succeeded: bool = False
    responses: tuple[OpResult, ...] = ()
    header: Header = NO_HEADER


OpResult = RangeResult | PutResult | DeleteRangeResult | TxnResult


@dataclass(frozen=True, slots=True)
class Compact:
    """Forget history below ``revision``. ``physical``: answer when it is done on this node."""

    revision: int
    physical: bool = False


@dataclass(frozen=True, slots=True)
class CompactResult:
    """The compaction is in force."""

    header: Header = NO_HEADER


# --- leases --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LeaseGrant:
    """Ask for a lease of ``ttl_s`` seconds; ``lease_id`` 0 lets the store choose."""

    ttl_s: int
    lease_id: int = 0


@dataclass(frozen=True, slots=True)
class LeaseGrantResult:
    """``ttl_s`` is what was granted: never less than the store's minimum."""

    lease_id: int
    ttl_s: int
    header: Header = NO_HEADER


@dataclass(frozen=True, slots=True)
class LeaseRevoke:
    """End a lease and delete its keys."""

    lease_id: int


@dataclass(frozen=True, slots=True)
class LeaseRevokeResult:
    """The lease and its keys are gone."""

    header: Header = NO_HEADER


@dataclass(frozen=True, slots=True)
class LeaseKeepAlive:
    """Start the lease's time anew."""

    lease_id: int


@dataclass(frozen=True, slots=True)
class LeaseKeepAliveResult:
    """``ttl_s`` is 0 when there is no such lease: etcd answers so, it does not fail."""

    lease_id: int
    ttl_s: int
    header: Header = NO_HEADER


@dataclass(frozen=True, slots=True)
class LeaseTimeToLive:
    """Ask how long a lease has; with ``keys`` also which keys hang on it."""

    lease_id: int
    keys: bool = False


@dataclass(frozen=True, slots=True)
class LeaseTimeToLiveResult:
    """``ttl_s`` is -1 (and ``granted_ttl_s`` 0) when there is no such lease."""

    lease_id: int
    ttl_s: int = -1
    granted_ttl_s: int = 0
    keys: tuple[bytes, ...] = ()
    header: Header = NO_HEADER


@dataclass(frozen=True, slots=True)
class LeasesResult:
    """The ids of all leases."""

    lease_ids: tuple[int, ...] = ()
    header: Header = NO_HEADER


# --- watches -------------------------------------------------------------------------------


class EventKind(IntEnum):
    """What happened to a key."""

    PUT = 0
    DELETE = 1


class Filter(IntEnum):
    """Which events a watch does not want."""

    NO_PUT = 0
    NO_DELETE = 1


@dataclass(slots=True)
class Event:
    """One change. The same object goes to every watcher that hears of it.

    ``encoded`` is the front's to fill: what is encoded for one watcher is there for the next.
    """

    kind: EventKind
    kv: KeyValue
    prev_kv: KeyValue | None = None
    encoded: bytes | None = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class EventBatch:
    """Events in their order, whole revisions only unless the response is a fragment.

    Watchers of one range share one batch; ``encoded`` is the front's, as in ``Event``.
    """

    events: tuple[Event, ...]
    size: int
    """Roughly the bytes that it takes on the wire."""
    encoded: bytes | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class WatchCreate:
    """Watch ``key``, or the range up to ``range_end``, from ``start_revision`` (0: from now on).

    ``watch_id`` 0 lets the stream choose; ``fragment`` allows one revision in several pieces.
    """

    key: bytes
    range_end: bytes = b""
    start_revision: int = 0
    progress_notify: bool = False
    filters: tuple[int, ...] = ()
    prev_kv: bool = False
    watch_id: int = 0
    fragment: bool = False


NO_WATCH = -1
"""The id in an answer that is about no watch: a create that was refused, or overall progress."""


@dataclass(frozen=True, slots=True)
class WatchResponse:
    """What a stream is told: ``created``, ``canceled``, events in ``batch``, or (none) progress.

    ``compact_revision`` is set when the watch ended because what it wanted next is compacted.
    With ``fragment`` more of the same revision follows.
    """

    watch_id: int
    header: Header
    batch: EventBatch | None = None
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    fragment: bool = False

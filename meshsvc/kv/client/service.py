"""The store for applications: keys like a dict's, watches, leases, locks and elections.

Keys are str (as UTF-8) or bytes, values bytes. Everything is awaited; failures are the
``KvError`` kinds of ``meshsvc.kv.errors``. Reads are linearizable unless told otherwise. Locks
and elections use etcd's recipe and key names, so ``etcdctl lock`` and ``elect`` take part in them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from twisted.internet.interfaces import IReactorTime

from meshsvc.kv import api
from meshsvc.kv.api import (
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    Filter,
    KeyValue,
    Op,
    Put,
    Range,
    SortOrder,
    SortTarget,
    Txn,
    TxnResult,
    WatchCreate,
)
from meshsvc.kv.backend import KvBackend
from meshsvc.kv.client.protocol import HeldLease, Watching, WatchLost
from meshsvc.kv.errors import Compacted, LeaseNotFound

Key = str | bytes

L = TypeVar("L", bound=HeldLease)


def as_key(key: Key) -> bytes:
    """A key as the store has it; raises TypeError for what is no key."""
    if isinstance(key, str):
        return key.encode()
    return as_value(key, "a key is text or bytes")


def as_value(value: bytes, what: str = "a value is bytes") -> bytes:
    """Bytes as they are; raises TypeError for anything else: a text, say, has many encodings."""
    if not isinstance(value, bytes):
        raise TypeError(f"{what}, and {value!r:.60} is {type(value).__name__}")
    return value


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys that begin with a prefix."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else api.OPEN_END


class Held(HeldLease):
    """A lock, or an office, that is held: ``lost`` fires when it is no more.

    Attributes:
        key: the store's key that stands for it; a txn that compares its ``create_revision``
            to ``revision`` happens only while it is held.
        revision: at which it was asked for.
    """

    key = b""
    revision = 0

    def still_mine(self) -> Compare:
        """What to put into a txn that may only happen while this is held."""
        return Compare(self.key, CompareResult.EQUAL, CompareTarget.CREATE, self.revision)


class KvClient:
    """One keyspace, through this node."""

    def __init__(self, backend: KvBackend, reactor: IReactorTime) -> None:
        self._backend = backend
        self._reactor = reactor

    # --- keys --------------------------------------------------------------------------

    async def get(self, key: Key, *, revision: int = 0, serializable: bool = False) -> bytes | None:
        """The value of a key, None when there is no such key."""
        found = await self.entry(key, revision=revision, serializable=serializable)
        return None if found is None else found.value

    async def entry(
        self, key: Key, *, revision: int = 0, serializable: bool = False
    ) -> KeyValue | None:
        """A key with its revisions, version and lease."""
        request = Range(as_key(key), revision=revision, serializable=serializable)
        result = await self._backend.range(request)
        return result.kvs[0] if result.kvs else None

    async def items(
        self, prefix: Key = b"", *, limit: int = 0, revision: int = 0, serializable: bool = False
    ) -> tuple[KeyValue, ...]:
        """The keys that begin with a prefix, in order; all keys by default."""
        first, end = _span(as_key(prefix), prefix=True)
        request = Range(first, end, limit, revision, serializable=serializable)
        return (await self._backend.range(request)).kvs

    async def count(self, prefix: Key = b"") -> int:
        """How many keys begin with a prefix."""
        first, end = _span(as_key(prefix), prefix=True)
        return (await self._backend.range(Range(first, end, count_only=True))).count

    async def put(self, key: Key, value: bytes, *, lease: int = 0) -> int:
        """Write a key; its new revision comes back."""
        return (await self._backend.put(Put(as_key(key), as_value(value), lease))).header.revision

    async def put_new(self, key: Key, value: bytes, *, lease: int = 0) -> bool:
        """Write a key unless it exists; one of many who try at once succeeds."""
        new = Compare(as_key(key), CompareResult.EQUAL, CompareTarget.CREATE, 0)
        return (await self.txn([new], [Put(as_key(key), as_value(value), lease)])).succeeded

    async def replace(self, old: KeyValue, value: bytes) -> bool:
        """Write a key, keeping its lease, unless it has changed since ``old`` was read."""
        same = Compare(old.key, CompareResult.EQUAL, CompareTarget.MOD, old.mod_revision)
        return (await self.txn([same], [Put(old.key, as_value(value), old.lease)])).succeeded

    async def delete(self, key: Key, *, prefix: bool = False) -> int:
        """Delete a key, or all that begin with it; how many there were comes back."""
        request = DeleteRange(*_span(as_key(key), prefix=prefix))
        return (await self._backend.delete_range(request)).deleted

    async def txn(
        self, compare: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()
    ) -> TxnResult:
        """When all compares hold do ``success``, else ``failure``, in one revision."""
        return await self._backend.txn(Txn(tuple(compare), tuple(success), tuple(failure)))

    def watch(
        self, key: Key, *, prefix: bool = False, from_revision: int = 0, prev_kv: bool = False
    ) -> Watching:
        """Events of a key, or of all that begin with it, from a revision on (0: from now on).

        ``async for event in kv.watch("jobs/", prefix=True)``; ``close()`` it when done.
        """
        first, end = _span(as_key(key), prefix=prefix)
        return Watching(self._backend, WatchCreate(first, end, from_revision, prev_kv=prev_kv))

    # --- leases ------------------------------------------------------------------------

    async def lease(self, ttl_s: int) -> HeldLease:
        """A lease that is renewed until it is released; keys put under it end with it."""
        return await self._hold(HeldLease, ttl_s)

    @asynccontextmanager
    async def lock(self, name: Key, ttl_s: int = 10) -> AsyncIterator[Held]:
        """Hold a lock that one at a time has, in the whole cluster; waits for its turn.

        Whoever must not act without the lock looks at ``held.lost``, or puts
        ``held.still_mine()`` into a txn, which is the only way to be entirely sure.
        """
        async with self._office(as_key(name), b"", ttl_s) as held:
            yield held

    @asynccontextmanager
    async def elect(self, name: Key, value: bytes, ttl_s: int = 10) -> AsyncIterator[Held]:
        """Be the one in office: entered when elected, left to resign. ``value`` is who this is."""
        async with self._office(as_key(name), value, ttl_s) as held:
            yield held

    async def leader(self, name: Key) -> KeyValue | None:
        """Who is in office, None when nobody is."""
        found = await self._first(as_key(name), 0, SortOrder.ASCEND)
        return found[0]

    @asynccontextmanager
    async def _office(self, name: bytes, value: bytes, ttl_s: int) -> AsyncIterator[Held]:
        held = await self._hold(Held, ttl_s)
        try:
            held.key = name + b"/%x" % held.lease_id
            new = Compare(held.key, CompareResult.EQUAL, CompareTarget.CREATE, 0)
            done = await self.txn([new], [Put(held.key, as_value(value), held.lease_id)])
            held.revision = done.header.revision
            await self._wait_turn(name, held)
            yield held
        finally:
            await held.release()

    async def _hold(self, kind: type[L], ttl_s: int) -> L:
        sent_at = self._reactor.seconds()
        granted = await self._backend.lease_grant(api.LeaseGrant(ttl_s))
        held = kind(self._backend, self._reactor, granted.lease_id, granted.ttl_s)
        held.begin(sent_at)
        return held

    async def _wait_turn(self, name: bytes, held: Held) -> None:
        """Wait until all who asked before are gone; each waits for the one before it only."""
        while True:
            before, revision = await self._first(name, held.revision - 1, SortOrder.DESCEND)
            if before is None:
                return
            gone = WatchCreate(before.key, b"", revision + 1, filters=(Filter.NO_PUT,))
            watching = Watching(self._backend, gone)
            held.lost.addCallback(_closing, watching)
            try:
                await anext(watching)
            except Compacted:
                continue  # the key may be gone already: look again
            except WatchLost:
                if not held.held:
                    raise LeaseNotFound from None
            finally:
                watching.close()

    async def _first(
        self, name: bytes, max_create: int, order: SortOrder
    ) -> tuple[KeyValue | None, int]:
        """Of those who asked, the earliest or the latest up to a revision; and as of when."""
        first, end = _span(name + b"/", prefix=True)
        request = Range(
            *(first, end, 1),
            sort_order=order,
            sort_target=SortTarget.CREATE,
            max_create_revision=max_create,
        )
        result = await self._backend.range(request)
        return (result.kvs[0] if result.kvs else None), result.header.revision


def _closing(reason: str, watching: Watching) -> str:
    watching.close()
    return reason


def _span(key: bytes, *, prefix: bool) -> tuple[bytes, bytes]:
    if not prefix:
        return key, b""
    return (key, prefix_end(key)) if key else (b"\x00", api.OPEN_END)

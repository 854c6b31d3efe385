"""The store as a service: requests become commands of a Raft group, or reads of this replica.

What is decided here and nowhere else: a write is checked, then proposed; a read waits until
this replica is known to be current, unless it says that it need not be; the leader's clock says
which leases have run out; and whatever takes long (history to give back, watchers to bring up
to date, snapshots, hashes, wide ranges) is done in slices between other people's requests.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    TimeoutError,
    fail,
    maybeDeferred,
    succeed,
)
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshsvc import errors as mesh_errors
from meshsvc.counters import Counters
from meshsvc.kv import api, check, commands, errors, quota, ranges, snapshot_file, upkeep
from meshsvc.kv.backend import SnapshotSink, WatchSink
from meshsvc.kv.driven import Driven
from meshsvc.kv.keeper import LeaseKeeper
from meshsvc.kv.leasing import Leasing
from meshsvc.kv.machine import Machine, Result
from meshsvc.kv.ports import REQUEST_S
from meshsvc.kv.protocol import (
    LeaderCalls,
    LeaderLine,
    Membership,
    RaftGroup,
    Reads,
    Steps,
    Turns,
)
from meshsvc.kv.streams import Stream
from meshsvc.kv.tending import Tending
from meshsvc.kv.watch import WatchHub

T = TypeVar("T")

MAX_PENDING = 5_000
"""Commands of this node that wait for the log (etcd's gap between commit and apply)."""

TICK_S = 0.5
"""How often leases, space and progress are looked at (etcd's rate for leases)."""

EXTEND_S = 1.0
"""What leases get on top when the leader changes: an election time-out."""

PRUNE_VERSIONS = 1_000
"""Versions looked at in one slice of giving back memory: about 4 ms."""

PHYSICAL_S = 60.0
"""How long a compaction may wait for this node to have given back the memory."""

_KINDS: dict[type[Exception], type[errors.KvError]] = {
    mesh_errors.Disconnected: errors.LeaderChanged,
    mesh_errors.Overloaded: errors.TooManyRequests,
    mesh_errors.CallError: errors.Unhealthy,
}
"""What a group or the way to its leader fails with, as clients know it."""


class KvService(Tending, Leasing, Service):
    """One replica of a keyspace, for fronts (``backend.KvBackend``) and for Raft.

    The group is made with ``state_machine`` and handed to ``attach``, before which nothing may
    be asked of the service.

    Args:
        machine: the replica's state.
        rng: chooses ids of leases.
        quota_bytes: of memory for keys, values and history; 0 is no quota.
    """

    log = Logger()
    group: RaftGroup
    membership: Membership

    def __init__(
        self,
        reactor: IReactorTime,
        machine: Machine,
        counters: Counters,
        rng: Random,
        quota_bytes: int = quota.DEFAULT_QUOTA,
    ) -> None:
        self.machine = machine
        self.counters = counters
        self.quota_bytes = quota_bytes
        self._reactor = reactor
        self.rng = rng
        self._turns = Turns(reactor)
        self.keeper = LeaseKeeper(machine, reactor.seconds, EXTEND_S)
        machine.lease_events = self.keeper
        self.hub = WatchHub(lambda: machine.mvcc, self._header_at, self._wake_watchers)
        self._tick_call: IDelayedCall | None = None
        self._pending = 0
        self._alarming = False
        self.disk_full = False
        self._leader_id = 0
        self._leader_lost_at = float("-inf")
        self._prune_waiters: list[Deferred[None]] = []
        self._stopped = False

    def attach(self, group: RaftGroup, membership: Membership, line: LeaderLine) -> None:
        """Connect the service to its group, whose state machine it is."""
        self.group, self.membership = group, membership
        self._reads = Reads(self._turns, group, REQUEST_S)
        self._leader = LeaderCalls(self._reactor, line, self._own_answer)
        group.add_leader_observer(self._leader_is)

    def startService(self) -> None:
        """Begin to keep time."""
        super().startService()  # type: ignore[no-untyped-call]
        self._tick_call = self._reactor.callLater(TICK_S, self._tick)

    def stopService(self) -> None:
        """Answer nothing more: who waits is told, watches are ended."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._stopped = True
        self.hub.close_all(errors.Stopped.text)
        if self._tick_call is not None:
            self._tick_call.cancel()
        self._turns.stop()
        self._reads.stop(errors.Stopped())
        self._leader.stop()
        for waiter in self._prune_waiters:
            waiter.errback(errors.Stopped())

    # --- what Raft calls ---------------------------------------------------------------

    def apply(self, data: bytes, index: int, term: int) -> Result:
        """Do a committed command; see ``Machine.apply``."""
        before = self.machine.mvcc.compact_revision
        result = self.machine.apply(data, index, term)
        if self.hub.watches or self.hub.flush():  # with none it only notes the revision
            self._turns.soon("flush", self.hub.flush)
        if self.machine.mvcc.compact_revision != before:
            self._turns.soon("prune", self._prune)
        return result

    def disk_is(self, full: bool) -> None:
        """This replica's disk has no room, or has room again: until then it only reads.

        The alarm is this replica's own, and ends by itself: the others may well go on.
        """
        self.disk_full = full

    @property
    def state_machine(self) -> Driven:
        """What the group is to drive."""
        return Driven(self.machine, self.apply, self._adopt)

    def _adopt(self, restored: Machine) -> None:
        self.machine.adopt(restored)
        self.hub.restored()

    # --- keys --------------------------------------------------------------------------

    def range(self, request: api.Range) -> Deferred[api.RangeResult]:
        """Read."""
        return self._read(request, request.serializable, lambda: self._range(request))

    def put(self, request: api.Put) -> Deferred[api.PutResult]:
        """Write one key."""
        return self._write(request)

    def delete_range(self, request: api.DeleteRange) -> Deferred[api.DeleteRangeResult]:
        """Delete keys."""
        return self._write(request)

    def txn(self, request: api.Txn) -> Deferred[api.TxnResult]:
        """Compare, then do one branch or the other."""
        if not check.is_read_only(request):
            return self._write(request)
        serializable = check.is_serializable(request)
        return self._read(request, serializable, lambda: self.machine.read_txn(request))

    def compact(self, request: api.Compact) -> Deferred[api.CompactResult]:
        """Forget history."""
        done: Deferred[api.CompactResult] = self.propose(request)
        return done.addCallback(self._after_pruning) if request.physical else done

    def _range(self, request: api.Range) -> Any:
        if ranges.is_small(self.machine.mvcc, request):
            return self.machine.range(request)
        return self._turns.run(self.machine.range_slices(request))

    def _read(self, request: api.Op, serializable: bool, read: Callable[[], Any]) -> Deferred[Any]:
        def call() -> Deferred[Any]:
            check.check(request)
            if serializable:
                return maybeDeferred(read)
            return self._reads.current().addCallback(lambda _: read())

        return self.guarded(call)

    def _write(self, request: api.Put | api.DeleteRange | api.Txn) -> Deferred[Any]:
        def call() -> Deferred[Any]:
            check.check(request)
            self._check_room(request)
            return self._proposed(request)

        return self.guarded(call)

    def _check_room(self, request: api.Op) -> None:
        cost = quota.op_cost(request)
        if cost and self.quota_bytes and self.machine.mvcc.size + cost >= self.quota_bytes:
            self._look_at_space(self.quota_bytes)
            raise errors.NoSpace
        if cost and self.machine.alarms.full:
            raise errors.NoSpace

    def _after_pruning(self, result: api.CompactResult) -> Deferred[api.CompactResult]:
        if self.machine.mvcc.pruned:
            return succeed(result)
        waiter: Deferred[None] = Deferred()
        self._prune_waiters.append(waiter)
        waiter.addTimeout(PHYSICAL_S, self._reactor)
        return self.guarded(lambda: waiter.addCallback(lambda _: result))

    def _prune(self) -> bool:
        mvcc = self.machine.mvcc
        if self.hub.revision < mvcc.compact_revision:
            return True  # what nobody was told of yet is still needed
        if mvcc.prune(PRUNE_VERSIONS):
            return True
        if mvcc.pruned:
            waiters, self._prune_waiters = self._prune_waiters, []
            for waiter in waiters:
                if not waiter.called:
                    waiter.callback(None)
        return False

    # --- watches -----------------------------------------------------------------------

    def watch_stream(self, sink: WatchSink) -> Stream:
        """Open a stream of watches."""
        return self.hub.stream(sink)

    def header(self) -> api.Header:
        """As of now."""
        return self.machine.header()

    def _header_at(self, revision: int) -> api.Header:
        now = self.machine.header()
        return api.Header(now.cluster_id, now.member_id, revision, now.raft_term)

    def _wake_watchers(self) -> None:
        self._turns.soon("sync", self.hub.sync)

    # --- a snapshot for people ---------------------------------------------------------

    def snapshot(self, sink: SnapshotSink) -> Deferred[None]:
        """Stream a snapshot into a sink, at its pace."""
        return self.guarded(lambda: Deferred.fromCoroutine(self._save(sink)))

    async def _save(self, sink: SnapshotSink) -> None:
        saving, chunks = snapshot_file.Saving(), self.machine.snapshot()
        estimate = self.machine.mvcc.size
        try:
            await self._send(sink, saving.begin(), estimate)
            for chunk in chunks:
                data = saving.chunk(chunk)
                await self._send(sink, data, max(1, estimate - saving.written))
                await deferLater(self._reactor, 0)
            await self._send(sink, saving.end(), 0)
        finally:
            chunks.close()  # type: ignore[attr-defined]

    async def _send(self, sink: SnapshotSink, data: bytes, remaining: int) -> None:
        taken = sink.snapshot_chunk(upkeep.SnapshotChunk(data, remaining, self.machine.header()))
        if taken is not None:
            await taken

    # --- ways to do things: ``ports.Ports`` --------------------------------------------

    def propose(self, command: commands.Command) -> Deferred[Any]:
        """Have a command done by the log."""
        return self.guarded(lambda: self._proposed(command))

    @property
    def pending(self) -> int:
        """Commands of this node that wait for the log."""
        return self._pending

    def current(self) -> Deferred[None]:
        """Fires when this replica knows all that was committed."""
        return self.guarded(self._reads.current)

    def sliced(self, steps: Steps[T]) -> Deferred[T]:
        """Do something in slices."""
        return self.guarded(lambda: self._turns.run(steps))

    def local(self, call: Callable[[], T]) -> Deferred[T]:
        """Do something at once."""
        return self.guarded(lambda: maybeDeferred(call))

    def ask_leader(self, payload: list[Any]) -> Deferred[list[Any]]:
        """Have the leader's ``answer``."""
        return self.guarded(lambda: self._leader.ask(payload))

    def guarded(self, call: Callable[[], Deferred[T]]) -> Deferred[T]:
        """Do something that takes time; whatever it fails with becomes a ``KvError``."""
        if self._stopped:
            return _failed(errors.Stopped())
        started = self._reactor.seconds()
        try:
            waiting = call()
        except Exception:
            waiting = _failed(Failure())
        return waiting.addErrback(self._as_kv_error, started)

    def _proposed(self, command: commands.Command) -> Deferred[Any]:
        if self.disk_full:
            raise errors.NoSpace
        if self._pending >= MAX_PENDING:
            raise errors.TooManyRequests
        data = commands.encode(command)
        if len(data) > api.MAX_REQUEST_BYTES:
            raise errors.RequestTooLarge
        self._pending += 1
        return self.group.propose(data, REQUEST_S).addBoth(self._answered)

    def _answered(self, result: Any) -> Any:
        self._pending -= 1
        return Failure(result) if isinstance(result, errors.KvError) else result

    def _as_kv_error(self, failure: Failure, started: float) -> Failure:
        if failure.check(CancelledError) and self._stopped:
            return Failure(errors.Stopped())
        if failure.check(errors.KvError, CancelledError):
            return failure
        if failure.check(mesh_errors.TimedOut, TimeoutError):
            lost = self._leader_lost_at >= started
            return Failure(errors.TimedOutLeaderFailed() if lost else errors.TimedOut())
        for kind, error in _KINDS.items():
            if failure.check(kind):
                return Failure(error())
        self.log.failure("a request to the store failed in an unforeseen way", failure)
        return Failure(errors.KvError())

    def _own_answer(self, payload: list[Any]) -> Deferred[list[Any]] | None:
        return self.answer(payload) if self.keeper.leading else None

    # --- time --------------------------------------------------------------------------

    def _leader_is(self, leader_id: int, term: int) -> None:
        if leader_id == self.machine.member_id:
            self.keeper.lead(term)
        else:
            self.keeper.follow()
        if self._leader_id not in (0, leader_id):
            self._leader_lost_at = self._reactor.seconds()
        self._leader_id = leader_id

    def _tick(self) -> None:
        self._tick_call = self._reactor.callLater(TICK_S, self._tick)
        for command in self.keeper.commands():
            self._aside(command)
        self._look_at_space(self.machine.mvcc.size)
        self.hub.tick(self._reactor.seconds())
        if self.machine.mvcc.prunable:
            self._turns.soon("prune", self._prune)

    def _look_at_space(self, size: int) -> None:
        wanted = quota.verdict(
            size, self.quota_bytes, self.machine.alarms, self.machine.member_id,
            self.keeper.leading,
        )  # fmt: skip
        if wanted is not None and not self._alarming:
            self._alarming = True
            self._aside(wanted).addBoth(self._alarm_proposed)

    def _alarm_proposed(self, _: None) -> None:
        self._alarming = False

    def _aside(self, command: commands.Command) -> Deferred[None]:
        """Propose something that nobody waits for and that is proposed again if need be."""
        self.counters.add("kv_proposals_aside_total", kind=type(command).__name__)
        return self.propose(command).addCallbacks(lambda _: None, lambda _: None)


def _failed(error: errors.KvError | Failure) -> Deferred[Any]:
    failed: Deferred[Any] = fail(error)
    return failed

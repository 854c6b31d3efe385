"""The state machine that Raft feeds: a committed command in, the answer out, the same everywhere.

``apply`` depends on nothing but the commands before it: no clock, no chance, no member's own
doings. A failure that the command deserves is an answer too (a ``KvError`` that is returned,
not raised); anything raised is a defect or a damaged log, and must stop the replica.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any, Protocol

from meshsvc.kv import api, commands, ranges, txn, upkeep
from meshsvc.kv.errors import Corrupt, KvError, NoSpace
from meshsvc.kv.hash import combine, hash_keys
from meshsvc.kv.index import bounds
from meshsvc.kv.lease import Lease, LeaseTable
from meshsvc.kv.mvcc import Mvcc
from meshsvc.kv.quota import Alarms
from meshsvc.kv.snapshot import Restore, chunks

Result = (
    api.PutResult | api.DeleteRangeResult | api.TxnResult | api.CompactResult
    | api.LeaseGrantResult | api.LeaseRevokeResult | upkeep.AlarmResult | KvError | None
)  # fmt: skip


class LeaseEvents(Protocol):
    """Who has to know what the log does to leases: the clock of a leader."""

    def granted(self, lease: Lease) -> None:
        """A lease was granted."""

    def revoked(self, lease_id: int) -> None:
        """A lease has ended."""


_TAKES_SPACE = (api.Put, api.LeaseGrant)


class Machine:
    """One replica of a keyspace.

    Args:
        cluster_id, member_id: for headers; no part of the state.

    Attributes:
        applied_index, applied_term: of the last command applied.
        lease_events: told what the log does to leases, when set.
    """

    __slots__ = (
        "_header",
        "alarms",
        "applied_index",
        "applied_term",
        "cluster_id",
        "lease_events",
        "leases",
        "member_id",
        "mvcc",
    )

    def __init__(self, cluster_id: int = 0, member_id: int = 0) -> None:
        self.cluster_id = cluster_id
        self.member_id = member_id
        self.lease_events: LeaseEvents | None = None
        self.leases = LeaseTable()
        self.alarms = Alarms()
        self.mvcc = Mvcc(self.leases)
        self.applied_index = 0
        self.applied_term = 0
        self._header = api.Header()

    def header(self) -> api.Header:
        """Who answers, as of the last command applied."""
        header = self._header
        if header.revision != self.mvcc.revision or header.raft_term != self.applied_term:
            header = self._header = api.Header(
                self.cluster_id, self.member_id, self.mvcc.revision, self.applied_term
            )
        return header

    # --- what the log does -------------------------------------------------------------

    def apply(self, data: bytes, index: int, term: int) -> Result:
        """Do a committed command; ``index`` and ``term`` are those of its entry.

        Returns:
            the answer, or the ``KvError`` that the command deserves; None for commands that
            nobody waits for.

        Raises:
            BadCommand: when the entry holds no command. The replica must stop.
        """
        command = commands.decode(data)
        self.applied_index, self.applied_term = index, term
        try:
            return self._do(command)
        except KvError as error:
            return error

    def _do(self, command: commands.Command) -> Result:
        if self.alarms.any:
            self._refuse(command)
        return _STEPS[type(command)](self, command)

    def _put(self, command: api.Put) -> Result:
        done = txn.put(self.mvcc, self.leases, command)
        self.mvcc.commit()
        return api.PutResult(done.prev_kv, self.header())

    def _delete(self, command: api.DeleteRange) -> Result:
        gone = txn.delete(self.mvcc, command)
        self.mvcc.commit()
        return api.DeleteRangeResult(gone.deleted, gone.prev_kvs, self.header())

    def _txn(self, command: api.Txn) -> Result:
        branch = txn.decide(self.mvcc, self.leases, command)
        done = txn.carry_out(self.mvcc, branch)
        self.mvcc.commit()
        return replace(done, header=self.header())

    def _compact(self, command: api.Compact) -> Result:
        self.mvcc.compact(command.revision)
        return api.CompactResult(self.header())

    def _grant(self, command: api.LeaseGrant) -> Result:
        lease = self.leases.grant(command.lease_id, command.ttl_s)
        if self.lease_events is not None:
            self.lease_events.granted(lease)
        return api.LeaseGrantResult(lease.lease_id, lease.ttl_s, self.header())

    def _revoke(self, command: api.LeaseRevoke) -> Result:
        self._end_lease(command.lease_id)
        return api.LeaseRevokeResult(self.header())

    def _alarm(self, command: upkeep.AlarmRequest) -> Result:
        return upkeep.AlarmResult(self.alarms.apply(command), self.header())

    def _end_leases(self, command: commands.EndLeases) -> Result:
        # Another leader counts leases anew: what the one before it saw run out has not.
        if command.term == self.applied_term:
            for lease_id in command.lease_ids:
                if lease_id in self.leases:
                    self._end_lease(lease_id)
        return None

    def _checkpoint(self, command: commands.Checkpoint) -> Result:
        if command.term == self.applied_term:
            for lease_id, left in command.remaining:
                self.leases.checkpoint(lease_id, left)
        return None

    def _refuse(self, command: commands.Command) -> None:
        if self.alarms.corrupt and isinstance(
            command, api.Put | api.Txn | api.DeleteRange | api.Compact | api.LeaseGrant
        ):
            raise Corrupt
        if self.alarms.full and (
            isinstance(command, _TAKES_SPACE)
            or (isinstance(command, api.Txn) and txn.puts_anything(command))
        ):
            raise NoSpace

    def _end_lease(self, lease_id: int) -> None:
        for key in self.leases.revoke(lease_id):
            self.mvcc.delete(bounds(key, b""))
        self.mvcc.commit()
        if self.lease_events is not None:
            self.lease_events.revoked(lease_id)

    # --- reading -----------------------------------------------------------------------

    def range(self, request: api.Range) -> api.RangeResult:
        """Answer a range from this replica's state, at once.

        Raises:
            KvError: Compacted, FutureRevision, Corrupt.
        """
        self._readable()
        return ranges.run(self.mvcc, request, self.header())

    def range_slices(self, request: api.Range) -> ranges.Slices:
        """The same in steps, as of the first."""
        self._readable()
        return ranges.in_slices(self.mvcc, request, self.header())

    def read_txn(self, request: api.Txn) -> api.TxnResult:
        """Answer a txn that only reads.

        Raises:
            KvError: as ``range``.
        """
        self._readable()
        branch = txn.decide(self.mvcc, self.leases, request)
        return replace(txn.carry_out(self.mvcc, branch), header=self.header())

    def _readable(self) -> None:
        if self.alarms.corrupt:
            raise Corrupt

    # --- as a whole --------------------------------------------------------------------

    def hash(self) -> Generator[None, None, int]:
        """A hash over everything, in steps; keys as of the first, the rest as of the last."""
        value, compact_revision = yield from hash_keys(self.mvcc, 0)
        leases = sorted((le.lease_id, le.ttl_s, le.remaining_s) for le in self.leases)
        return combine(value, [compact_revision, leases, self.alarms.rows()])

    def snapshot(self) -> Iterator[bytes]:
        """The whole state as of now, in chunks: see ``snapshot.py``."""
        return chunks(self)

    def restore(self) -> Restore:
        """Begin to fill a machine that will take this one's place, by ``adopt``."""
        return Restore(Machine(self.cluster_id, self.member_id))

    def adopt(self, restored: Machine) -> None:
        """Take over the state of another machine, which must not be used any more."""
        self.mvcc, self.leases, self.alarms = restored.mvcc, restored.leases, restored.alarms
        self.applied_index = restored.applied_index
        self.applied_term = restored.applied_term


_STEPS: dict[type, Callable[[Machine, Any], Result]] = {
    api.Put: Machine._put,
    api.Txn: Machine._txn,
    api.DeleteRange: Machine._delete,
    api.Compact: Machine._compact,
    api.LeaseGrant: Machine._grant,
    api.LeaseRevoke: Machine._revoke,
    upkeep.AlarmRequest: Machine._alarm,
    commands.EndLeases: Machine._end_leases,
    commands.Checkpoint: Machine._checkpoint,
}

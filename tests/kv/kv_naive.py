"""etcd as simply as it can be written: a full copy of all keys for each revision.

It shares the vocabulary with the store and nothing else, so that the two can be compared.
"""

from __future__ import annotations

from operator import eq, gt, lt, ne

from meshsvc.kv import api, upkeep
from meshsvc.kv.api import KeyValue
from meshsvc.kv.errors import (
    Compacted,
    FutureRevision,
    KeyNotFound,
    KvError,
    LeaseExists,
    LeaseNotFound,
    LeaseTtlTooLarge,
    NoSpace,
)

HOLDS = [eq, gt, lt, ne]
FIELDS = ["version", "create_revision", "mod_revision", "value", "lease"]
SORTS = ["key", "version", "create_revision", "mod_revision", "value"]


def inside(key, first, end):
    if not end:
        return key == first
    return key >= first and (end == b"\0" or key < end)


class Naive:
    """States, events and leases by revision; ``do`` answers as ``Machine.apply`` does."""

    def __init__(self):
        self.revision = 1
        self.compacted = -1
        self.states = {1: {}}
        self.events = {}
        self.leases = {}
        self.full = False
        self.draft = None
        self.changes = []

    # --- writing

    def do(self, command):
        self.draft, self.changes = dict(self.states[self.revision]), []
        before = dict(self.leases)
        try:
            result = self._do(command)
        except KvError as error:
            self.leases = before
            return type(error)
        if self.changes:
            self.revision += 1
            self.states[self.revision] = self.draft
            self.events[self.revision] = self.changes
        return result, self.revision

    def _do(self, command):
        takes = isinstance(command, api.LeaseGrant | api.Put) or (
            isinstance(command, api.Txn) and self._puts(command)
        )
        if self.full and takes:
            raise NoSpace
        if isinstance(command, api.Txn):
            self._check(command, dict(self.draft))
            return self._txn(command, dict(self.draft))
        if isinstance(command, api.Put):
            self._check_put(command, self.draft)
            return self._put(command)
        if isinstance(command, api.DeleteRange):
            return self._delete(command)
        return self._other(command)

    def _other(self, command):
        match command:
            case api.Compact(revision):
                if revision <= self.compacted:
                    raise Compacted
                if revision > self.revision:
                    raise FutureRevision
                self.compacted = revision
            case api.LeaseGrant(ttl_s, lease_id):
                return self._grant(ttl_s, lease_id)
            case api.LeaseRevoke(lease_id):
                if lease_id not in self.leases:
                    raise LeaseNotFound
                del self.leases[lease_id]
                for key in sorted(k for k, kv in self.draft.items() if kv.lease == lease_id):
                    self._delete(api.DeleteRange(key))
            case upkeep.AlarmRequest(action, _, _):
                self.full = action == 1 or (self.full and action == 0)
        return None

    def _grant(self, ttl_s, lease_id):
        if not lease_id:
            raise LeaseNotFound
        if ttl_s > 9_000_000_000:
            raise LeaseTtlTooLarge
        if lease_id in self.leases:
            raise LeaseExists
        self.leases[lease_id] = max(2, ttl_s)
        return self.leases[lease_id]

    def _put(self, op):
        old = self.draft.get(op.key)
        now = self.revision + 1
        kv = KeyValue(
            op.key,
            old.create_revision if old else now,
            now,
            old.version + 1 if old else 1,
            old.value if op.ignore_value and old else op.value,
            old.lease if op.ignore_lease and old else op.lease,
        )
        self.draft[op.key] = kv
        self.changes.append((0, kv))
        return old if op.prev_kv else None

    def _delete(self, op):
        gone = [kv for k, kv in sorted(self.draft.items()) if inside(k, op.key, op.range_end)]
        for kv in gone:
            del self.draft[kv.key]
            self.changes.append((1, KeyValue(kv.key, mod_revision=self.revision + 1)))
        return len(gone), tuple(gone) if op.prev_kv else ()

    def _txn(self, txn, before):
        ok = self._holds(txn, before)
        return ok, [
            self._txn(op, before)
            if isinstance(op, api.Txn)
            else self._put(op)
            if isinstance(op, api.Put)
            else self._delete(op)
            if isinstance(op, api.DeleteRange)
            else self._range(op, self.draft, self.revision + bool(self.changes))
            for op in (txn.success if ok else txn.failure)
        ]

    def _check(self, txn, before, kinds=(api.Put, api.Range)):
        for kind in kinds:  # all puts of all branches come before all ranges
            for op in txn.success if self._holds(txn, before) else txn.failure:
                if isinstance(op, api.Txn):
                    self._check(op, before, (kind,))
                elif isinstance(op, kind) and kind is api.Put:
                    self._check_key(op, before)  # in a txn etcd looks for the key first
                    self._check_lease(op)
                elif isinstance(op, kind):
                    self._check_revision(op.revision)

    def _check_put(self, op, state):
        self._check_lease(op)
        self._check_key(op, state)

    def _check_lease(self, op):
        if op.lease and op.lease not in self.leases:
            raise LeaseNotFound

    def _check_key(self, op, state):
        if (op.ignore_value or op.ignore_lease) and op.key not in state:
            raise KeyNotFound

    def _check_revision(self, revision):
        if revision > self.revision:
            raise FutureRevision
        if 0 < revision < self.compacted:
            raise Compacted

    def _holds(self, txn, state):
        return all(self._compare(c, state) for c in txn.compare)

    def _compare(self, c, state):
        kvs = [kv for k, kv in state.items() if inside(k, c.key, c.range_end)]
        if not kvs and c.target == 3:
            return False
        return all(
            HOLDS[c.result](getattr(kv, FIELDS[c.target]), c.operand)
            for kv in kvs or [KeyValue(b"")]
        )

    def _puts(self, txn):
        return any(
            self._puts(op) if isinstance(op, api.Txn) else isinstance(op, api.Put)
            for op in txn.success + txn.failure
        )

    # --- reading

    def range(self, op):
        try:
            self._check_revision(op.revision)
        except KvError as error:
            return type(error)
        return self._range(op, self.states[self.revision], self.revision)

    def _range(self, op, now, current):
        state = now if op.revision <= 0 or op.revision == current else self.states[op.revision]
        kvs = [kv for k, kv in sorted(state.items()) if inside(k, op.key, op.range_end)]
        count = len(kvs)
        if op.count_only:
            return api.RangeResult((), False, count)
        for bound, name, keep in (
            (op.min_mod_revision, "mod_revision", lambda a, b: a >= b),
            (op.max_mod_revision, "mod_revision", lambda a, b: a <= b),
            (op.min_create_revision, "create_revision", lambda a, b: a >= b),
            (op.max_create_revision, "create_revision", lambda a, b: a <= b),
        ):
            if bound:
                kvs = [kv for kv in kvs if keep(getattr(kv, name), bound)]
        kvs.sort(key=lambda kv: getattr(kv, SORTS[op.sort_target]), reverse=op.sort_order == 2)
        more = 0 < op.limit < len(kvs)
        kvs = kvs[: op.limit] if op.limit > 0 else kvs
        if op.keys_only:
            kvs = [kv._replace(value=b"") for kv in kvs]
        return api.RangeResult(tuple(kvs), more, count)


PLAIN = {
    api.RangeResult: lambda r: api.RangeResult(r.kvs, r.more, r.count),
    api.PutResult: lambda r: r.prev_kv,
    api.DeleteRangeResult: lambda r: (r.deleted, r.prev_kvs),
    api.TxnResult: lambda r: (r.succeeded, [plain(response) for response in r.responses]),
    api.LeaseGrantResult: lambda r: r.ttl_s,
}


def plain(result):
    """A store's answer in the naive model's form."""
    if isinstance(result, KvError):
        return type(result)
    return PLAIN.get(type(result), lambda r: None)(result)

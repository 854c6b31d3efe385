"""Bugs in the store: its history, its watches, its leases and its snapshots.

All are found by rules over one replica or one group, because the store behind Raft is
deterministic: what the simulator could add, other orders of commands, the rules make up faster.
"""

from __future__ import annotations

from planting import bug, swap

from meshsvc.kv.index import KeyIndex
from meshsvc.kv.lease import LeaseClock
from meshsvc.kv.machine import Machine
from meshsvc.kv.mvcc import Mvcc
from meshsvc.kv.watch import WatchHub


@bug(rules="kv")
def compaction_takes_the_version_in_force():
    """What was written before the compaction and not since is gone with it (KV-1)."""

    def prune(self, key, revision):
        history = self._histories.get(key)
        if history is not None and isinstance(history[0], bytes) and history[2] < revision:
            del self._histories[key]
            self._keys.remove(key)
            self._dead.discard(key)
            return [history]
        return right(self, key, revision)

    with swap(KeyIndex, "prune", prune) as right:
        yield


@bug(rules="kv")
def each_change_of_a_txn_takes_a_revision():
    """The revisions of a txn with two writes differ (KV-1)."""

    def commit(self):
        changes, self._changes = self._changes, []
        for version in changes:
            self._log.append(version)
            self.revision += 1
        return self.revision

    with swap(Mvcc, "commit", commit):
        yield


@bug(rules="kv")
def a_count_counts_what_was_deleted():
    """The keys whose newest version says that they are gone are counted (KV-1)."""
    with swap(KeyIndex, "count", KeyIndex.width):
        yield


@bug(rules="kv")
def a_deleted_key_stays_on_its_lease():
    """When the lease ends, it takes what was put in its place since (KV-3)."""

    def delete(self, interval):
        leases, self._leases = self._leases, Deaf()
        try:
            return right(self, interval)
        finally:
            self._leases = leases

    with swap(Mvcc, "delete", delete) as right:
        yield


class Deaf:
    """Hears of no key that is taken off a lease."""

    def detach(self, lease_id, key):
        """Nothing."""


@bug(rules="watches")
def what_came_while_a_sink_was_full_is_left_out():
    """A stream that is resumed goes on with what comes next (KV-2)."""

    def resume(self, stream):
        for watch in stream.watches.values():
            watch.lagging = False
        right(self, stream)

    with swap(WatchHub, "resume", resume) as right:
        yield


@bug(rules="watches")
def a_restored_snapshot_is_told_to_nobody():
    """Watches go on after the snapshot, and what it brought is missing (KV-2)."""

    def restored(self):
        self.revision = self._mvcc().revision

    with swap(WatchHub, "restored", restored):
        yield


@bug(rules="kv")
def a_snapshot_does_not_keep_what_it_reads():
    """Compaction goes on under it (KV-4)."""
    with swap(Mvcc, "pin", lambda self: None), swap(Mvcc, "unpin", lambda self: None):
        yield


@bug(rules="leases")
def a_lease_ends_on_the_word_of_an_earlier_leader():
    """What an old leader saw run out is ended, whatever was promised since (KV-3)."""

    def end_leases(self, command):
        for lease_id in command.lease_ids:
            if lease_id in self.leases:
                self._end_lease(lease_id)

    from meshsvc.kv import machine
    from meshsvc.kv.commands import EndLeases

    with swap(machine._STEPS, EndLeases, end_leases):
        yield


@bug(rules="leases")
def a_new_leader_gives_leases_no_time():
    """It counts from nothing, as if no lease had ever been renewed (KV-3)."""

    def promote(self, now, extend_s):
        right(self, now, extend_s)
        self._ends = dict.fromkeys(self._ends, now + extend_s)
        self._queue = sorted((end, lease_id) for lease_id, end in self._ends.items())

    with swap(LeaseClock, "promote", promote) as right:
        yield


@bug(rules="kv")
def an_alarm_is_not_in_a_snapshot():
    """A replica that was restored does what the others refuse (KV-8)."""

    def snapshot(self):
        alarms, self.alarms = self.alarms, type(self.alarms)()
        try:
            return right(self)
        finally:
            self.alarms = alarms

    with swap(Machine, "snapshot", snapshot) as right:
        yield

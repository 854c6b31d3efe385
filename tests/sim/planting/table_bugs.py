"""Bugs in replicated tables: what is promised of writes, copies, owners and leaders."""

from __future__ import annotations

from planting import bug, swap
from twisted.internet.defer import succeed

from meshsvc.tables import replica
from meshsvc.tables.clock import Clock
from meshsvc.tables.digest import Digest
from meshsvc.tables.leading import service as leading
from meshsvc.tables.lives import Lives
from meshsvc.tables.replica import Replica
from meshsvc.tables.sending.service import Sending
from meshsvc.tables.table import Table
from meshsvc.tables.writes import Write


@bug(scenario="table-splits", section="TABLES")
def the_row_that_comes_last_wins():
    """Versions are not compared, so that two copies may swap their values (TBL-4)."""
    with swap(replica, "beats", lambda new, old: new != old):
        yield


@bug(scenario="table-splits", section="TABLES")
def a_member_says_that_it_has_what_it_dropped():
    """It answers as if it had merged the batch (TBL-2)."""
    with swap(Sending, "_apply", lambda self, batch: []):
        yield


@bug(scenario="table-restarts", section="TABLES")
def siblings_are_not_given_what_came():
    """The shard at the link answers for all shards of its node (TBL-2)."""

    def written(self, call):
        return self._apply(self._host.reader.read(call.payload))

    with swap(Sending, "written", written):
        yield


@bug(scenario="table-splits", section="TABLES")
def who_was_lost_counts_as_one_that_acked():
    """A result is ok although nobody knows whether a member has the row (TBL-2)."""
    with swap(Write, "lost", lambda self, member, why: self.acked(member)):
        yield


@bug(scenario="table-restarts", section="TABLES")
def rows_of_a_dead_life_stay():
    """Nobody notices that an owner's life is over (TBL-5)."""
    with (
        swap(Lives, "learn", lambda self, member: False),
        swap(Lives, "gone", lambda self, owner: False),
    ):
        yield


@bug(scenario="table-restarts", section="TABLES")
def rows_are_cleaned_by_node_and_not_by_life():
    """A node that came back loses the rows of its new life as well (TBL-5)."""

    def gone(self, owner):
        return owner.node != self._me and owner.node in self._known and (
            right(self, owner) or self._known[owner.node][0] >= owner.incarnation
        )  # fmt: skip

    with swap(Lives, "gone", gone) as right:
        yield


@bug(scenario="table-splits", section="TABLES")
def deletes_leave_no_trace():
    """Without a tombstone a deleted row comes back from whoever missed it (TBL-4)."""

    def put_one(self, rid, row, value):
        won = right(self, rid, row, value)
        if won and row.dead:
            del self.rows[rid]
            self._tombstones.pop(rid, None)
        return won

    with swap(Replica, "_put_one", put_one) as right:
        yield


@bug(scenario="table-splits", section="TABLES")
def copies_are_compared_by_their_keys():
    """Fingerprints do not tell two versions of a row apart (TBL-4)."""

    with swap(Digest, "_version", lambda self, row: 0):
        yield


@bug(scenario="table-splits", section="TABLES", seeds=40)
def a_minority_decides():
    """One member is enough for a leader (TBL-3)."""
    with (
        swap(leading, "majority", lambda members: 1),
        swap(leading, "lacking", lambda config, answers, departed: []),
    ):
        yield


@bug(scenario="table-splits", section="TABLES")
def everybody_decides_for_itself():
    """A key is new when this shard has not heard of it (TBL-3)."""

    def lead(self, verb, key, value, timeout_s):
        if key in self:
            return succeed([False, self[key]])
        self.insert(key, value)
        return succeed([True, value])

    with swap(Table, "_lead", lead):
        yield


@bug(scenario="new-leaders", section="TABLES")
def a_leader_begins_with_what_it_happens_to_hold():
    """It takes office at once, without asking what others hold and may decide (TBL-3)."""

    async def take_office(self, name, epoch):
        self._active[name] = epoch

    with swap(leading.Leading, "_take_office", take_office):
        yield


@bug(scenario="table-splits", section="TABLES")
def a_clock_learns_nothing_from_what_it_sees():
    """A writer whose clock is behind loses against what it had read (TBL-4)."""
    with swap(Clock, "observe", lambda self, stamp, wall_s: True):
        yield

"""What the store of a node remembers of its members, and what it shows of itself."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from meshsvc.counters import Counters
from meshsvc.kv.machine import Machine
from meshsvc.kv.upkeep import AlarmAction, AlarmKind, AlarmRequest
from meshsvc.node.store import system
from meshsvc.node.store.keyspace import GroupSlot
from meshsvc.node.store.showing import Seen, StoreView
from meshsvc.node.store.system import MAX_HOUSED, SystemState
from meshsvc.raft.core import Role
from meshsvc.raft.progress import Mode
from meshsvc.raft.quorum import Config
from meshsvc.raft.status import PeerStatus, Status

WHERE = ("0" * 32, "n1", "10.0.0.1:7700", "10.0.0.1:2379")


def state_of(*commands):
    state = SystemState()
    for index, command in enumerate(commands, 1):
        state.apply(command, index, 1)
    return state


def restored(state):
    fresh = SystemState()
    filling = fresh.restore()
    for chunk in state.snapshot():
        filling.feed(chunk)
    filling.finish()
    return fresh


@pytest.mark.contract("RAFT-5")
def test_where_members_live_and_who_was_removed_survive_a_snapshot():
    """The system group's state is the same after its snapshot was taken in."""
    state = state_of(system.house(7, WHERE), system.remove(9), system.remove(8), system.admit(8))
    for each in (state, restored(state)):
        assert each.houses == {7: WHERE}
        assert list(each.removed) == [9]


def test_only_so_many_places_are_remembered():
    """The oldest is forgotten first; what is told anew is the newest again."""
    commands = [system.house(member, WHERE) for member in range(1, MAX_HOUSED + 1)]
    state = state_of(*commands, system.house(1, WHERE), system.house(MAX_HOUSED + 1, WHERE))
    assert len(state.houses) == MAX_HOUSED
    assert 1 in state.houses
    assert 2 not in state.houses


class FakeGroup:
    pending = 3

    def __init__(self, **changes):
        self.fields = {
            **{"me": 1, "role": Role.LEADER, "term": 4, "leader": 1, "quorum": True},
            **{"commit": 10, "applied": 9, "last": 12, "stable": 11, "first": 3, "snapshot": 2},
            **{"config": Config((1, 2, 3)), "removed": False, "reads": 0},
            "peers": (PeerStatus(2, Mode.REPLICATE, 12, 13, 0, 0.01),),
            **changes,
        }

    def status(self):
        return Status(**self.fields)

    def add_leader_observer(self, observer):
        observer(self.fields["leader"], self.fields["term"])


def view_of(group, waits_for="", disk_full=False):
    counters, machine = Counters(), Machine(5, 1)
    slot = GroupSlot(counters, "default")
    if group is not None:
        slot.fill(group)
    kv = SimpleNamespace(
        machine=machine,
        disk_full=disk_full,
        quota_bytes=100,
        hub=SimpleNamespace(watches=1, behind=0),
    )
    members = SimpleNamespace(place=lambda member: None)
    view = StoreView(Seen(None, members, kv, (slot,)))
    view.founding = SimpleNamespace(core=SimpleNamespace(waits_for=waits_for))
    return view, counters


@pytest.mark.contract("OPS-4")
def test_a_node_without_a_leader_says_so_and_stays_ready_once_it_had_one():
    """Reasons name what is missing; only a store that never had a leader here makes not-ready."""
    view, _ = view_of(None, waits_for="1 of 3 nodes to found the store are there")
    assert view.missing() == ["the store: 1 of 3 nodes to found the store are there"]
    assert not view.was_ready
    group = FakeGroup(leader=0, role=Role.FOLLOWER)
    view, _ = view_of(group)
    assert view.missing() == ["the store: group default has no leader"]
    assert not view.was_ready
    group.fields["leader"] = 2
    assert not view.missing()
    assert view.was_ready
    group.fields["leader"] = 0
    assert view.missing()
    assert view.was_ready


@pytest.mark.contract("LOG-3")
def test_a_full_disk_and_alarms_are_reasons():
    """Whoever asks whether a node is well hears that it takes no writes, and why."""
    view, _ = view_of(FakeGroup(), disk_full=True)
    assert view.missing() == ["the store: the disk is full, so this node takes no writes"]
    view, _ = view_of(FakeGroup())
    request = AlarmRequest(AlarmAction.ACTIVATE, 2, AlarmKind.NOSPACE)
    view._kv.machine.alarms.apply(request)
    assert view.missing() == ["the store: alarm NOSPACE"]


def test_progress_and_gauges():
    """The leader tells how far each member is; gauges carry term, indices and what waits."""
    view, counters = view_of(FakeGroup())
    (row,) = view.progress("default")
    assert (row["member"], row["match"], row["behind"], row["vote"]) == ("2", 12, 0, True)
    assert view.progress("no such group") == []
    view.gauges(counters)
    group = (("group", "default"),)
    assert counters.gauges["raft_term", group] == 4
    assert counters.gauges["raft_waiting", group] == 3
    assert counters.gauges["kv_watches", ()] == 1
    assert counters.counters["raft_leader_changes_total", group].value == 1

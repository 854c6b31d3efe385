"""The copy of the membership that every shard holds, and what it tells applications."""

from dataclasses import replace

import pytest
from twisted.internet.defer import succeed
from twisted.internet.task import Clock

from meshsvc.errors import NoSuchTarget, TimedOut
from meshsvc.gossip.members import Member, Status
from meshsvc.model import Address, Epoch, Incarnation, NodeId, NodeInfo, Roster
from meshsvc.node.directory import NodeDirectory
from meshsvc.node.members import MAX_UNREAD, Members, difference


def member(letter, status=Status.ALIVE, generation=1, **values):
    name = f"n{letter}"
    at = Address("127.0.0.1", 7000)
    return Member(NodeId(letter * 32), name, status, generation, 1, at, 2, values)


def kinds(events):
    return [event.name for event in events]


@pytest.fixture
def members():
    return Members(Clock(), lambda key, value: succeed(None))


def feed(members, *rows, whole=False):
    members.apply(members.index + 1, whole or not members.index, [row.row() for row in rows])


@pytest.mark.contract("GSP-5")
@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (None, member("a"), ["joined"]),
        (None, member("a", Status.JOINING), []),
        (None, member("a", Status.DEAD), ["dead"]),
        (member("a", Status.JOINING), member("a"), ["joined"]),
        (member("a"), member("a"), []),
        (member("a"), member("a", Status.SUSPECT), ["suspect"]),
        (member("a", Status.SUSPECT), member("a"), ["alive"]),
        (member("a", Status.SUSPECT), member("a", Status.DEAD), ["dead"]),
        (member("a", Status.DEAD), member("a"), ["alive"]),
        (member("a"), member("a", Status.LEFT), ["left"]),
        (member("a"), member("a", zone="x"), ["changed"]),
        (member("a"), member("a", Status.SUSPECT, zone="x"), ["suspect", "changed"]),
        (member("a"), member("a", generation=2), ["restarted", "joined"]),
        (member("a"), member("a", Status.JOINING, generation=2), ["restarted"]),
        (member("a", Status.JOINING, 2), member("a", generation=2), ["joined"]),
    ],
)
def test_what_happened_is_read_off_two_rows(old, new, expected):
    """Each difference of two rows is the events of one life in their order."""
    assert kinds(difference(old, new, 0.0)) == expected


def test_changed_holds_all_keys_of_one_update():
    """One update is one Changed with every key, None for those that are gone."""
    [event] = difference(member("a", x=1, y=2), member("a", x=3, z=4), 0.0)
    assert event.changed == {"x": 3, "y": None, "z": 4}


def test_a_delta_before_the_whole_view_is_refused(members):
    """A copy that never had the whole view says so instead of showing a part of it."""
    assert not members.apply(5, False, [member("a").row()])
    assert members.apply(5, True, [member("a").row()])
    assert members.apply(6, False, [member("b").row()])
    assert [m.name for m in members.alive] == ["na", "nb"]


def test_members_are_found_by_name_and_id(members):
    """Of two nodes of one name, the one that is alive is meant."""
    old = replace(member("c", Status.DEAD), name="na")
    feed(members, old, member("a"))
    assert members["na"].node_id == "a" * 32
    assert members["c" * 32].status is Status.DEAD
    with pytest.raises(NoSuchTarget, match="nx"):
        members["nx"]


@pytest.mark.contract("GSP-14")
def test_wait_alive_fires_when_all_are(members):
    """wait_alive fires with the last of the nodes, and leaves no timer behind."""
    fired = []
    members.wait_alive(["na", "nb"], 5).addCallback(fired.append)
    feed(members, member("a"))
    assert fired == []
    feed(members, member("b"))
    assert fired == [None]
    assert members._clock.getDelayedCalls() == []


@pytest.mark.contract("GSP-14")
def test_wait_alive_names_who_is_missing(members):
    """At its deadline wait_alive fails with the names it still waits for."""
    failed = []
    members.wait_alive(["na", "nb"], 5).addErrback(lambda f: failed.append(f.value))
    feed(members, member("b"))
    members._clock.advance(5)
    [error] = failed
    assert isinstance(error, TimedOut)
    assert str(error).endswith(": na")


@pytest.mark.contract("GSP-6", "GSP-14")
def test_a_watcher_that_does_not_read_gets_a_resync(members):
    """Unread events are bounded; the overrun is one Resync with the whole view."""
    watch = members.watch()
    for n in range(MAX_UNREAD + 10):
        feed(members, member("a", count=n))
    first = []
    watch.__anext__().addCallback(first.append)
    assert kinds(first) == ["resync"]
    assert first[0].view[0].values["count"] == MAX_UNREAD


def test_a_callback_that_raises_delays_nobody(members, logged_errors):
    """A failing callback is logged; the next callback still hears the event."""
    heard = []
    members.on_change(lambda event: 1 / 0)
    members.on_change(heard.append)
    feed(members, member("a"))
    assert kinds(heard) == ["joined"]
    assert len(logged_errors.flush(ZeroDivisionError)) == 1


def info(letter):
    at = Address("127.0.0.1", 7000)
    return NodeInfo(NodeId(letter * 32), f"n{letter}", Incarnation(1), at, 2)


def test_keys_are_owned_by_the_rosters_members_that_are_alive(members):
    """No owner before a mesh; then the roster's nodes that count; callbacks say when."""
    directory = NodeDirectory(NodeId("a" * 32), 2, members)
    moved = []
    directory.on_placement_change(lambda: moved.append(len(directory.candidates)))
    feed(members, member("a"), member("b"), member("c"))
    assert directory.owner("k") is None
    directory.set_roster(Roster(Epoch(1, 1), (info("a"), info("b"))))
    assert {node for node, _ in directory.candidates} == {"a" * 32, "b" * 32}
    assert directory.owner("k") is not None
    feed(members, member("b", Status.DEAD))
    assert directory.owner("k").node == "a" * 32
    assert moved == [2, 1]


def test_a_node_outside_the_roster_knows_no_owner(members):
    """A node that the epoch leaves out does not hand out keys of its own."""
    directory = NodeDirectory(NodeId("c" * 32), 2, members)
    feed(members, member("a"), member("c"))
    directory.set_roster(Roster(Epoch(1, 1), (info("a"),)))
    assert directory.owner("k") is None

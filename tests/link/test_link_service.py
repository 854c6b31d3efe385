"""LinkService over in-memory connections: dialing, admission, epochs, the end."""

from __future__ import annotations

from typing import Any

import pytest
from link_net import (
    CONTROL,
    DATA,
    E1,
    E2,
    E3,
    World,
    envelope,
    info,
    node,
    roster,
)
from twisted.internet.testing import StringTransport

from meshsvc.link.service import MAX_STRANGERS
from meshsvc.model import NO_EPOCH, Epoch, Incarnation, NodeId, Sent
from meshsvc.wire.messages import ShardGone


def linked(*, data: bool = False) -> World:
    """Two nodes, the first of which keeps links to the second."""
    world = World(node(1), node(2))
    a, b = world.members
    a.keep(b.me.address, CONTROL, b.me.node_id)
    if data:
        for member in world.members:
            member.set_epoch(E1, roster(E1, a.me, b.me))
        a.keep(b.me.address, DATA, b.me.node_id)
    world.settle()
    assert len(a.links()) == len(b.links()) == 1 + data
    return world


def test_a_kept_target_comes_up() -> None:
    """Both sides hear of the link, know each other, and measure the way."""
    world = linked()
    a, b = world.members
    link = a.link(b.me.node_id, CONTROL)
    assert link is not None
    assert link.peer == info(b.me)
    assert link.dialed_by_us
    assert link.since == 1000
    assert link.rtt_ms is not None
    assert link.agreed
    assert b.link(a.me.node_id, DATA) is None
    assert world.watchers[0].of("link_up") == [[link]]
    assert link.send(ShardGone(1, 1)) is Sent.ACCEPTED
    world.settle()
    assert world.watchers[1].of("received") == [[*b.links(), ShardGone(1, 1)]]
    world.stop()


@pytest.mark.contract("WIRE-5")
def test_one_turn_is_one_write() -> None:
    """All that is sent within a turn, to a link of either side, leaves in one write."""
    world = linked()
    link = world.members[0].links()[0]
    near = next(world.live())
    before = len(near.writes)
    for number in range(500):
        link.send(ShardGone(number % 250, 1))
    world.settle()
    assert len(near.writes) == before + 1
    assert len(world.watchers[1].of("received")) == 500
    world.stop()


def test_a_target_that_is_down_is_dialed_until_it_is_there() -> None:
    """Dials repeat with growing waits, and the link comes within seconds of the peer."""
    world = World(node(1), node(2))
    a, b = world.members
    world.down.add(b.me.address)
    a.keep(b.me.address, CONTROL, b.me.node_id)
    world.pass_time(60)
    world.down.clear()
    world.pass_time(5)
    assert len(a.links()) == 1
    assert a._counters.total("link_connect_failures_total") < 25
    world.stop()


@pytest.mark.contract("MESH-8")
def test_a_lost_link_is_redialed_under_the_same_epoch() -> None:
    """The network drops the connection: down, then up again, at the same epoch."""
    world = linked(data=True)
    for end in [*world.live()]:
        end.cut()
    world.pass_time(2)
    for watcher in world.watchers:
        assert watcher.flow == ["link_up"] * 2 + ["link_down"] * 2 + ["link_up"] * 2
    link = world.members[0].link(world.members[1].me.node_id, DATA)
    assert link is not None
    assert link.agreed
    assert link.epoch == E1
    world.stop()


@pytest.mark.contract("LINK-4")
def test_a_half_dead_connection_is_replaced_without_a_flap() -> None:
    """One end alone notices: it dials again, and the other end, where the old connection
    still seems up, takes the new one without telling anybody of an end."""
    world = linked()
    near = next(world.live())
    near.cut()
    near.other.outgoing.clear()
    world.pass_time(0.15)
    near.other.outgoing.clear()
    world.pass_time(3)
    assert world.watchers[0].flow == ["link_up", "link_down", "link_up"]
    assert world.watchers[1].flow == ["link_up"]
    assert len(world.members[1].links()) == 1
    assert len(list(world.live())) == 2
    world.stop()


@pytest.mark.contract("LINK-4")
def test_a_silent_peer_is_down_in_five_seconds() -> None:
    """A peer whose packets are lost is down after 5 s, with the reason."""
    world = linked()
    for end in world.live():
        end.reading = False
    world.pass_time(5.2)
    for watcher in world.watchers:
        assert [reason for _, reason, _ in watcher.of("link_down")] == ["silent"]
    world.stop()


@pytest.mark.contract("LINK-2")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cluster": "prod"}, "wrong-cluster"),
        ({"protocol_min": 2, "protocol_max": 2}, "version"),
    ],
)
def test_a_refusal_that_lasts_is_seen_on_both_sides_and_not_repeated(
    changes: dict[str, Any], reason: str
) -> None:
    """In a minute each side saw it once or twice, counted it, and nobody dialed in a loop."""
    world = World(node(1), node(2, **changes))
    a, b = world.members
    a.keep(b.me.address, CONTROL, None)
    world.pass_time(59)
    for watcher in world.watchers:
        assert [said for _, said, _ in watcher.of("refused")] == [reason]
    assert a._counters.total("link_refusals_total", reason=reason, side="remote") == 1
    assert b._counters.total("link_refusals_total", reason=reason, side="local") == 1
    world.pass_time(10)
    assert len(world.transports) == 4
    world.stop()


@pytest.mark.contract("LINK-2")
def test_a_name_that_is_taken_is_tried_again_within_seconds_but_not_in_a_loop() -> None:
    """The other node of the name may have died a moment ago; ten seconds at most apart."""
    world = World(node(1), node(2, name="n1"))
    a, b = world.members
    a.keep(b.me.address, CONTROL, None)
    world.pass_time(60)
    refused = a._counters.total("link_refusals_total", reason="name-collision", side="remote")
    assert 6 <= refused <= 60
    world.stop()


@pytest.mark.contract("LINK-2")
def test_a_node_that_dials_itself_says_so_and_waits_long() -> None:
    """Its own address among its seeds: refused as self-dial, tried again after a minute."""
    world = World(node(1))
    (a,) = world.members
    a.keep(a.me.address, CONTROL, None)
    world.pass_time(59)
    assert {reason for _, reason, _ in world.watchers[0].of("refused")} == {"self-dial"}
    assert len(world.transports) == 2
    assert not a.links()
    world.stop()


def test_two_nodes_with_one_name_are_told_apart() -> None:
    """A third node refuses the second holder of a name while the first is linked."""
    world = World(node(1), node(2), node(3, name="n2"))
    a, b, c = world.members
    b.keep(a.me.address, CONTROL, None)
    world.settle()
    c.keep(a.me.address, CONTROL, None)
    world.settle()
    assert [each.peer.node_id for each in a.links()] == [b.me.node_id]
    assert world.watchers[2].of("refused")[0][1] == "name-collision"
    world.stop()


def test_removed_nodes_are_put_out_and_kept_out() -> None:
    """Links to a node that is removed close, with the reason, and do not come back."""
    world = linked()
    a, b = world.members
    b.set_known(frozenset({a.me.node_id}), {})
    world.pass_time(30)
    assert not a.links()
    assert not b.links()
    assert [reason for _, reason, _ in world.watchers[0].of("link_down")] == ["removed"]
    assert len(world.transports) == 2
    world.stop()


@pytest.mark.contract("MESH-7")
def test_a_later_life_takes_the_place_of_an_earlier() -> None:
    """The earlier life's link goes down as restarted before the later's comes up; the earlier
    life is refused from then on."""
    world = linked()
    a, b = world.members
    again = world.add(node(1, incarnation=Incarnation(11)))
    again.keep(b.me.address, CONTROL, b.me.node_id)
    world.pass_time(2)
    assert [link.peer.incarnation for link in b.links()] == [11]
    flow = world.watchers[1].flow
    assert flow[:3] == ["link_up", "link_down", "link_up"]
    assert world.watchers[1].of("link_down")[0][1] == "restarted"
    assert world.watchers[0].of("refused")[0][1] == "stale-incarnation"
    assert not a.links()
    world.members.append(again)
    world.stop()


@pytest.mark.contract("LINK-1")
def test_the_oldest_stranger_gives_way() -> None:
    """Of 300 silent connections 256 are left, the oldest were cut, and a peer gets in."""
    world = World(node(1), node(2))
    a, b = world.members
    strangers = [b.accept() for _ in range(300)]
    transports = []
    for stranger in strangers:
        assert stranger is not None
        transport = StringTransport()
        transport.abortConnection = transport.loseConnection
        stranger.makeConnection(transport)
        transports.append(transport)
    cut = [transport.disconnecting for transport in transports]
    assert cut.count(True) == 300 - MAX_STRANGERS
    assert cut[:44] == [True] * 44
    a.keep(b.me.address, CONTROL, None)
    world.settle()
    assert len(a.links()) == 1
    world.clock.pump([0.5] * 14)
    assert all(transport.disconnecting for transport in transports)


@pytest.mark.contract("MESH-9")
def test_a_new_epoch_keeps_links_and_drops_what_is_old() -> None:
    """Unchanged members agree in band: no link goes down, old frames are not delivered."""
    world = linked(data=True)
    a, b = world.members
    mine, theirs = a.link(b.me.node_id, DATA), b.link(a.me.node_id, DATA)
    assert mine is not None
    assert theirs is not None
    theirs.send(envelope(E1, 1))
    a.set_epoch(E2, roster(E2, a.me, b.me))
    assert mine.send(envelope(E2)) is Sent.DISCONNECTED
    world.settle()
    assert not mine.agreed
    assert world.watchers[1].of("epoch_seen") == [[E2]]
    assert world.watchers[0].of("received") == []
    assert [reason for _, _, reason in world.watchers[0].of("dropped")] == ["stale-epoch"]
    assert a._counters.total("frame_drops_total", reason="stale-epoch") == 1
    b.set_epoch(E2, roster(E2, a.me, b.me))
    world.settle()
    assert mine.agreed
    assert theirs.agreed
    assert theirs.send(envelope(E2, 2)) is Sent.ACCEPTED
    world.settle()
    assert [message.seq for _, message in world.watchers[0].of("received")] == [2]
    for watcher in world.watchers:
        assert watcher.of("link_down") == []
        assert [link.epoch for (link,) in watcher.of("link_epoch")][-1] == E2
    world.stop()


@pytest.mark.contract("MESH-9")
def test_a_roster_closes_links_to_those_it_leaves_out() -> None:
    """Left out, or listed with another life: closed with the reason; control links stay."""
    for members, reason in (
        ((node(1),), "not-in-roster"),
        ((node(1), node(2, incarnation=Incarnation(11))), "restarted"),
        ((node(2),), "not-in-roster"),
    ):
        world = linked(data=True)
        world.members[0].set_epoch(E2, roster(E2, *members))
        world.settle()
        assert [each for _, each, _ in world.watchers[0].of("link_down")] == [reason]
        assert [each for _, each, _ in world.watchers[1].of("link_down")] == [reason]
        assert [link.link_class for link in world.members[0].links()] == [CONTROL]
        world.stop()


@pytest.mark.contract("MESH-3", "MESH-5")
def test_a_data_link_comes_up_when_the_epochs_meet() -> None:
    """While they differ the dialer tries again and the one behind hears of the other's; once
    equal the link is up within seconds."""
    world = World(node(1), node(2))
    a, b = world.members
    both = (a.me, b.me)
    a.set_epoch(E1, roster(E1, *both))
    b.set_epoch(E3, roster(E3, *both))
    a.keep(b.me.address, DATA, b.me.node_id)
    world.pass_time(3)
    assert [E3] in world.watchers[0].of("epoch_seen")
    assert world.watchers[1].of("epoch_seen") == []
    assert {reason for _, reason, _ in world.watchers[0].of("refused")} == {"epoch-low"}
    a.set_epoch(E3, roster(E3, *both))
    world.pass_time(5)
    assert [link.agreed for link in a.links()] == [True]
    world.stop()


def test_no_data_link_before_the_first_epoch() -> None:
    """Two nodes without an epoch have no data link, and try in no tight loop."""
    world = World(node(1), node(2))
    a, b = world.members
    a.set_epoch(NO_EPOCH, None)
    a.keep(b.me.address, DATA, None)
    world.pass_time(20)
    assert not a.links()
    assert len(world.transports) < 30
    world.stop()


def test_forget_stops_dialing_and_leaves_the_link() -> None:
    """A live link stays, a lost one is not dialed again; a dial under way is given up."""
    world = linked()
    a, b = world.members
    a.forget(b.me.address, CONTROL)
    assert len(a.links()) == 1
    next(world.live()).cut()
    world.pass_time(8)
    assert not a.links()
    assert len(world.transports) == 2
    a.keep(b.me.address, CONTROL, None)
    a.forget(b.me.address, CONTROL)
    world.pass_time(8)
    assert not a.links()
    world.stop()


def test_nothing_is_dialed_while_a_link_is_there() -> None:
    """keep of a node that dialed us dials only once that link is gone."""
    world = linked()
    a, b = world.members
    b.keep(a.me.address, CONTROL, a.me.node_id)
    world.pass_time(2)
    assert len(world.transports) == 2
    a.forget(b.me.address, CONTROL)
    next(world.live()).cut()
    world.pass_time(8)
    assert [link.dialed_by_us for link in b.links()] == [True]
    world.stop()


def test_close_by_its_owner_ends_the_link_on_both_sides() -> None:
    """Both observers hear the owner's reason, and the dialer comes back."""
    world = linked()
    world.members[1].links()[0].close("shed", "too many links")
    world.settle()
    for watcher in world.watchers:
        assert watcher.of("link_down")[0][1:] == ["shed", "too many links"]
    world.pass_time(2)
    assert len(world.members[0].links()) == 1
    world.stop()


def test_stop_says_goodbye() -> None:
    """Peers hear "stopping", the Deferred fires when all is gone, nobody gets in any more."""
    world = linked()
    a, b = world.members
    done: list[Any] = []
    b.stopService().addCallback(done.append)
    assert not done
    world.pass_time(1)
    assert done == [None]
    assert world.watchers[0].of("link_down")[0][1] == "stopping"
    assert b.accept() is None
    assert not a.links()
    world.stop()


def test_stop_does_not_wait_for_those_who_do_not_listen() -> None:
    """A peer that reads nothing delays the stop by two seconds at most."""
    world = linked()
    for end in world.live():
        end.reading = False
    done: list[Any] = []
    world.members[0].stopService().addCallback(done.append)
    world.pass_time(2.1)
    assert done == [None]
    world.stop()


def test_an_observer_that_fails_costs_nobody_anything(logged_errors: Any) -> None:
    """Its error is logged, the next observer is told, the link stays."""

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise ZeroDivisionError(name)

    world = World(node(1), node(2))
    a, b = world.members
    b._observers.insert(0, Broken())
    a.keep(b.me.address, CONTROL, None)
    world.settle()
    a.links()[0].send(ShardGone(1, 1))
    world.settle()
    assert world.watchers[1].flow == ["link_up"]
    assert len(world.watchers[1].of("received")) == 1
    world.stop()
    assert len(logged_errors.flush(ZeroDivisionError)) == 3


def test_a_dial_that_cannot_even_begin_is_a_failure() -> None:
    """A connector that raises is waited out like a refused connection."""
    world = World(node(1))
    (a,) = world.members
    calls: list[object] = []

    def broken(address: object, factory: object) -> Any:
        calls.append(address)
        raise ValueError("no such host")

    a._connect_to = broken
    a.keep(node(2).address, CONTROL, None)
    world.pass_time(5)
    assert 2 < len(calls) < 12
    world.stop()


def test_dial_numbers_rise_across_restarts() -> None:
    """A later process dials with greater numbers, as they begin with the time."""
    world = linked()
    first = next(world.live()).protocol.session.peer.key.dial
    assert first == 1000 * 1000


def test_keep_again_learns_whom_it_is_for() -> None:
    """Naming the node of a kept seed address neither dials again nor forgets the link."""
    world = linked()
    a, b = world.members
    a.keep(b.me.address, CONTROL, None)
    a.keep(b.me.address, CONTROL, b.me.node_id)
    world.pass_time(5)
    assert len(world.transports) == 2
    assert world.watchers[0].flow == ["link_up"]
    world.stop()


def test_an_address_that_changes_hands_is_dialed_anew() -> None:
    """keep of another node at the same address takes the place of the first."""
    world = World(node(1), node(2))
    a, b = world.members
    a.keep(b.me.address, CONTROL, NodeId("f" * 32))
    world.settle()
    assert world.watchers[0].of("refused")[0][1] == "wrong-node"
    a.keep(b.me.address, CONTROL, b.me.node_id)
    world.settle()
    assert len(a.links()) == 1
    world.stop()


@pytest.mark.contract("MESH-5")
def test_twenty_epochs_leave_nothing_behind() -> None:
    """Epochs that come and go faster than links: links at the last one only, and no dial,
    socket or timer of an earlier one."""
    world = World(node(1), node(2), node(3))
    a, b, c = world.members
    for attempt in range(1, 21):
        epoch = Epoch(1, attempt)
        members = [a, b, c] if attempt in (1, 20) or attempt % 3 else [a, c]
        for member in members:
            member.set_epoch(epoch, roster(epoch, *(each.me for each in members)))
        for member in (b, c):
            for other in (a, b)[: world.members.index(member)]:
                member.forget(other.me.address, DATA)
                if member in members and other in members:
                    member.keep(other.me.address, DATA, other.me.node_id)
        world.pass_time(0.1)
    world.pass_time(10)
    for member in world.members:
        assert [link.epoch for link in member.links()] == [Epoch(1, 20)] * 2
        assert all(link.agreed for link in member.links())
    assert len(list(world.live())) == 6
    world.stop()

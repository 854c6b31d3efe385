"""Two nodes that dial each other at once, in every interleaving (LINK-6)."""

from __future__ import annotations

from typing import Any

import pytest
from link_net import (
    CONTROL,
    DATA,
    E1,
    E2,
    Chooser,
    Dice,
    World,
    envelope,
    explore,
    info,
    node,
    roster,
)

from meshsvc.link.service import LinkService
from meshsvc.model import NO_EPOCH, Epoch, LinkClass, Sent

pytestmark = pytest.mark.contract("LINK-6")


class Talker:
    """Sends numbered envelopes: two when a link comes up, more when told to."""

    def __init__(self, service: LinkService, link_class: LinkClass, epoch: Epoch) -> None:
        self.sent = 0
        self._service = service
        self._about = (epoch, link_class)
        service.add_observer(self)

    def link_up(self, link: Any) -> None:
        self.talk()
        self.talk()

    def talk(self) -> None:
        epoch, link_class = self._about
        for link in self._service.links():
            if link.send(envelope(epoch, self.sent, link_class)) is Sent.ACCEPTED:
                self.sent += 1

    def __getattr__(self, name: str) -> Any:
        return lambda *about: None


def race(
    chooser: Chooser,
    link_class: LinkClass = CONTROL,
    *,
    expecting: bool = False,
    talking: bool = False,
) -> World:
    """Both dial at once; what must hold in the end is checked here."""
    world = World(node(1), node(2))
    a, b = world.members
    epoch = E1 if link_class is DATA else NO_EPOCH
    if link_class is DATA:
        for member in world.members:
            member.set_epoch(E1, roster(E1, a.me, b.me))
    talkers = [Talker(member, link_class, epoch) for member in world.members]
    a.keep(b.me.address, link_class, b.me.node_id if expecting else None)
    b.keep(a.me.address, link_class, a.me.node_id if expecting else None)
    steps = 0
    while world.step(chooser):
        steps += 1
        if talking and steps < 40:
            talkers[steps // 2 % 2].talk()
    world.pass_time(3)
    check_one_link(world, link_class)
    for end in (0, 1):
        got = [message.seq for _, message in world.watchers[1 - end].of("received")]
        assert got == list(range(talkers[end].sent))
    return world


def check_one_link(world: World, link_class: LinkClass) -> None:
    """One link, one connection, the same on both ends, and it came up once."""
    (mine,), (theirs,) = (member.links() for member in world.members)
    assert mine.link_class is theirs.link_class is link_class
    assert mine.dialed_by_us is not theirs.dialed_by_us
    assert mine.agreed
    assert theirs.agreed
    assert len(list(world.live())) == 2
    for watcher in world.watchers:
        assert watcher.flow == ["link_up"]


@pytest.mark.slow
@pytest.mark.parametrize("link_class", list(LinkClass))
def test_every_interleaving_of_a_double_dial(link_class: LinkClass) -> None:
    """Exactly one link is left, neither side sees it go down, all that was sent arrives once
    and in order: for every order in which connections, chunks and ends can arrive."""
    runs = explore(lambda chooser: _quietly(race(chooser, link_class)), most=20_000)
    assert runs > 1000


def _quietly(world: World) -> None:
    world.stop()


@pytest.mark.parametrize("seed", range(50))
def test_a_double_dial_under_traffic(seed: int) -> None:
    """The same in random orders, while both sides talk all the time."""
    for expecting in (False, True):
        race(Dice(seed), expecting=expecting, talking=True).stop()


def test_nobody_dials_on_after_the_race() -> None:
    """Ten minutes later there was not one more dial."""
    world = race(Chooser([]))
    connections = len(world.transports)
    world.pass_time(600, step_s=0.25)
    check_one_link(world, CONTROL)
    assert len(world.transports) == connections


@pytest.mark.parametrize("seed", range(20))
def test_three_dials_of_one_pair(seed: int) -> None:
    """A seed address and a member address for one node still leave one link a class."""
    world = World(node(1), node(2))
    a, b = world.members
    world.services[info(node(9)).address] = b  # another name for the same node
    a.keep(b.me.address, CONTROL, b.me.node_id)
    a.keep(info(node(9)).address, CONTROL, None)
    b.keep(a.me.address, CONTROL, None)
    world.settle(Dice(seed))
    world.pass_time(10)
    check_one_link(world, CONTROL)
    world.stop()


@pytest.mark.parametrize("seed", range(20))
def test_an_epoch_in_the_middle_of_a_race(seed: int) -> None:
    """Both adopt a new epoch at some point of a double dial: one link, agreed on it."""
    world = World(node(1), node(2))
    a, b = world.members
    both = (a.me, b.me)
    for member, other in ((a, b), (b, a)):
        member.set_epoch(E1, roster(E1, *both))
        member.keep(other.me.address, DATA, other.me.node_id)
    dice = Dice(seed)
    for member in world.members:
        for _ in range(dice.pick(8)):
            world.step(dice)
        member.set_epoch(E2, roster(E2, *both))
    world.settle(dice)
    world.pass_time(10)
    (mine,), (theirs,) = (member.links() for member in world.members)
    assert mine.agreed
    assert theirs.agreed
    assert mine.epoch == theirs.epoch == E2
    assert len(list(world.live())) == 2
    world.stop()


@pytest.mark.parametrize("seed", range(30))
def test_a_connection_that_breaks_in_the_race(seed: int) -> None:
    """Whichever connection breaks at whatever point, one link is there in the end."""
    world = World(node(1), node(2))
    a, b = world.members
    a.keep(b.me.address, CONTROL, b.me.node_id)
    b.keep(a.me.address, CONTROL, a.me.node_id)
    dice = Dice(seed)
    for _ in range(dice.pick(14)):
        world.step(dice)
    broken = [each for each in world.live() if dice.pick(2)][:1]
    for end in broken:
        end.cut()
    world.settle(dice)
    world.pass_time(20)
    (mine,), (theirs,) = (member.links() for member in world.members)
    assert mine.dialed_by_us is not theirs.dialed_by_us
    assert len(list(world.live())) == 2
    for watcher in world.watchers:
        flow = [kind for kind in watcher.flow if kind.startswith("link")]
        assert flow == (["link_up", "link_down"] * 9)[: len(flow)]
    world.stop()

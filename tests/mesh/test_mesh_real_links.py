"""The mesh over the real links of its neighbour floor, on loopback sockets."""

from __future__ import annotations

from random import Random

import pytest
import pytest_twisted
from mesh_net import node_info
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory

from meshsvc.counters import Counters
from meshsvc.link.admission import Local
from meshsvc.link.service import LinkService
from meshsvc.mesh.epoch import Became, MeshState
from meshsvc.mesh.service import DataLinks
from meshsvc.model import (
    Address,
    Epoch,
    Incarnation,
    LinkClass,
    NodeInfo,
    Roster,
    Sent,
    ShardId,
)


class NoBus:
    """A node of one shard has no siblings."""

    def add_observer(self, observer):
        """Nobody ever calls."""

    def send(self, shard, message):
        """There is nobody to take it."""
        return Sent.DISCONNECTED


class OneShard:
    """A node of one shard: real links, a listening socket, its part of the mesh."""

    def __init__(self, number, incarnation=1):
        factory = Factory.forProtocol(self._accept)
        self.port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        plain = node_info(number, incarnation)
        address = Address("127.0.0.1", self.port.getHost().port)
        self.info = NodeInfo(plain.node_id, plain.name, Incarnation(incarnation), address, 1)
        me = Local("test", plain.node_id, plain.name, plain.incarnation, address, 1)
        self.links = LinkService(reactor, me, Counters(), Random(number))
        self.mesh = DataLinks(reactor, self.info, ShardId(0), self.links, NoBus(), Counters())
        self.mesh.add_observer(self._event)
        self.waiting = []
        self.links.startService()
        self.mesh.startService()

    def _accept(self):
        return self.links.accept()

    def _event(self, event):
        if isinstance(event, Became):
            self._look()

    def _look(self):
        for entry in self.waiting[:]:
            state, epoch, waiter = entry
            if self.mesh.core.state is state and self.mesh.core.epoch.epoch == epoch:
                self.waiting.remove(entry)
                waiter.callback(None)

    def when(self, state, epoch):
        waiter = Deferred()
        self.waiting.append((state, epoch, waiter))
        self._look()
        return waiter.addTimeout(10, reactor)

    def link(self, other):
        return self.links.link(other.info.node_id, LinkClass.DATA)

    def stop(self):
        self.mesh.stopService()
        return gatherResults([self.links.stopService(), self.port.stopListening()])


@pytest.fixture
def cluster():
    made = []

    def make(*numbers, incarnation=1):
        fresh = [OneShard(number, incarnation) for number in numbers]
        made.extend(fresh)
        return fresh

    yield make
    pytest_twisted.blockon(gatherResults([node.stop() for node in made if node.port.connected]))


def create(nodes, term, attempt, members=None):
    """CreateMesh to ``nodes``; a Deferred of all of them formed."""
    epoch = Epoch(term, attempt)
    roster = Roster(epoch, tuple(node.info for node in members or nodes))
    for node in nodes:
        assert node.mesh.offer(roster).accepted
    return gatherResults([node.when(MeshState.FORMED, epoch) for node in nodes])


@pytest.mark.contract("MESH-1", "MESH-9")
@pytest_twisted.inlineCallbacks
def test_three_nodes_form_and_move_on_without_a_new_link(cluster):
    """The later index dialed; the next epoch is agreed on the very same links."""
    nodes = cluster(1, 2, 3)
    yield create(nodes, 1, 1)
    first, second, third = nodes
    before = {(a, b): a.link(b) for a in nodes for b in nodes if a is not b}
    assert all(len(node.links.links()) == 2 for node in nodes)
    assert second.link(first).dialed_by_us
    assert not second.link(third).dialed_by_us
    yield create(nodes, 1, 2, members=[third, first, second])
    for (a, b), link in before.items():
        assert a.link(b) is link
        assert (link.epoch, link.agreed) == (Epoch(1, 2), True)


@pytest.mark.contract("MESH-3")
@pytest_twisted.inlineCallbacks
def test_who_is_behind_learns_it_from_its_peers(cluster):
    """Superseded by what the others announce, then formed by its own CreateMesh."""
    nodes = cluster(1, 2, 3)
    yield create(nodes, 1, 1)
    late = nodes[2]
    ready = create(nodes[:2], 2, 1, members=nodes)
    yield late.when(MeshState.WAITING, Epoch(1, 1))
    assert late.mesh.core.epoch.greatest == Epoch(2, 1)
    yield gatherResults([create([late], 2, 1, members=nodes), ready])


@pytest.mark.contract("MESH-5")
@pytest_twisted.inlineCallbacks
def test_twenty_epochs_at_once_end_at_the_last(cluster):
    """To random subsets, the last to all: every link is at the last, one a pair."""
    nodes, rng = cluster(1, 2, 3, 4), Random(7)
    for attempt in range(1, 20):
        members = rng.sample(nodes, 4)
        roster = Roster(Epoch(1, attempt), tuple(node.info for node in members))
        for node in rng.sample(nodes, rng.randint(1, 3)):
            node.mesh.offer(roster)
        pause = Deferred()
        reactor.callLater(0.02, pause.callback, None)
        yield pause
    yield create(nodes, 1, 20)
    for node in nodes:
        assert [link.epoch for link in node.links.links()] == [Epoch(1, 20)] * 3


@pytest.mark.contract("MESH-8")
@pytest_twisted.inlineCallbacks
def test_a_lost_link_comes_back_and_a_restarted_peer_waits_for_its_epoch(cluster):
    """Same life: redialed, same epoch. Another life: not before a roster lists it."""
    first, second = cluster(1, 2)
    yield create([first, second], 1, 1)
    degraded = second.when(MeshState.DEGRADED, Epoch(1, 1))
    second.link(first).close("lost", "the test cut it")
    yield degraded
    yield second.when(MeshState.FORMED, Epoch(1, 1))
    yield second.stop()
    yield first.when(MeshState.DEGRADED, Epoch(1, 1))
    (again,) = cluster(2, incarnation=2)
    yield create([first, again], 1, 2)
    assert first.link(again).peer.incarnation == 2

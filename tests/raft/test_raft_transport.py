"""Raft messages over the verbs of the mesh."""

from __future__ import annotations

from collections import namedtuple

import pytest

from meshsvc.counters import Counters
from meshsvc.model import LinkClass, NodeId, Sent, ShardAddress, ShardId
from meshsvc.raft.transport import MAX_QUEUED, VERB, MeshTransport
from meshsvc.wire.codec import decode

pytestmark = pytest.mark.contract("RAFT-3")

A, B, C = (NodeId(letter * 32) for letter in "abc")
Call = namedtuple("Call", "payload source")


class Mesh:
    """Records tells, and answers as the test says."""

    def __init__(self):
        self.told, self.answer, self.verbs, self.turn = [], Sent.ACCEPTED, {}, []
        self.counters = Counters()
        self.transport = MeshTransport(
            self, lambda _, call: self.turn.append(call), self.counters, ShardId(0)
        )
        self.transport.start()

    def tell_now(self, target, verb, data, link_class):
        self.told.append((target, verb, decode(data), link_class))
        return self.answer

    def register_oneway(self, verb, handler):
        self.verbs[verb] = handler

    def unregister(self, verb):
        del self.verbs[verb]

    def end_turn(self):
        turn, self.turn = self.turn, []
        for call in turn:
            call()


class Receiver:
    def __init__(self):
        self.got, self.cut = [], []

    def received(self, source, messages):
        self.got.append((source, messages))

    def unreachable(self, member):
        self.cut.append(member)


@pytest.fixture
def mesh():
    made = Mesh()
    made.receiver = Receiver()
    made.group = made.transport.group(7, 1)
    made.group.attach(made.receiver)
    made.transport.learn(2, B)
    made.transport.learn(3, C)
    return made


def test_the_messages_of_a_turn_leave_in_one_tell_a_node(mesh):
    """Of all groups together, on the control plane."""
    other = mesh.transport.group(8, 11)
    other.attach(Receiver())
    mesh.transport.learn(12, B)
    for data in (b"x", b"y"):
        mesh.group.send(2, data)
    other.send(12, b"z")
    mesh.group.send(3, b"w")
    assert mesh.told == []
    mesh.end_turn()
    assert mesh.told == [
        (
            ShardAddress(B, 0),
            VERB,
            [[7, 1, 2, [b"x", b"y"]], [8, 11, 12, [b"z"]]],
            LinkClass.CONTROL,
        ),
        (ShardAddress(C, 0), VERB, [[7, 1, 3, [b"w"]]], LinkClass.CONTROL),
    ]


@pytest.mark.parametrize("sent", [Sent.DISCONNECTED, Sent.FULL])
def test_what_finds_no_way_is_reported_to_the_core(mesh, sent):
    """It is not kept: Raft asks again."""
    mesh.answer = sent
    mesh.group.send(2, b"x")
    mesh.end_turn()
    assert mesh.receiver.cut == [2]
    assert mesh.counters.total("raft_messages_dropped_total") == 1
    assert mesh.turn == []


def test_the_end_of_a_link_is_told_to_the_cores(mesh):
    """Of every member that lives at its other end, in every group."""
    other = Receiver()
    mesh.transport.group(8, 11).attach(other)
    mesh.transport.way_lost(B)
    assert (mesh.receiver.cut, other.cut) == ([2], [2])


def test_a_member_nobody_knows_is_unreachable(mesh):
    """Until it, or gossip, says where it lives."""
    mesh.group.send(9, b"x")
    assert mesh.receiver.cut == [9]
    mesh.verbs[VERB](Call([[7, 9, 1, [b"hi"]]], ShardAddress(A, 0)))
    assert mesh.transport.place(9) == A
    mesh.group.send(9, b"x")
    mesh.end_turn()
    assert mesh.told[0][0] == ShardAddress(A, 0)


def test_messages_reach_their_group(mesh):
    """In their order, with the member that sent them."""
    mesh.verbs[VERB](Call([[7, 2, 1, [b"x", b"y"]], [9, 2, 1, [b"z"]]], ShardAddress(B, 0)))
    assert mesh.receiver.got == [(2, [b"x", b"y"])]
    assert mesh.counters.total("raft_messages_dropped_total", reason="unknown-group") == 1


def test_what_is_meant_for_another_member_of_this_node_is_dropped(mesh):
    """A node that is back as another member does not answer for its old self, nor is confused
    with it by those who send."""
    mesh.verbs[VERB](Call([[7, 2, 5, [b"x"]]], ShardAddress(B, 0)))
    assert mesh.receiver.got == []
    assert mesh.counters.total("raft_messages_dropped_total", reason="unknown-member") == 1
    mesh.transport.learn(22, B)
    mesh.group.send(2, b"to the old one")
    mesh.group.send(22, b"to the new one")
    mesh.end_turn()
    payload = [[7, 1, 2, [b"to the old one"]], [7, 1, 22, [b"to the new one"]]]
    assert mesh.told == [(ShardAddress(B, 0), VERB, payload, LinkClass.CONTROL)]


@pytest.mark.parametrize(
    "payload",
    [
        *(None, 5, [5], {}, [[7, 2]], [[7, 2, []]], [[7, 0, 1, []]], [[7, 2, 1, [5]]]),
        *([["7", 2, 1, []]], [[7, 2**64, 1, []]], [[7, 2, None, []]]),
    ],
)
def test_malformed_payloads_are_counted(mesh, payload):
    """And nothing else happens."""
    mesh.verbs[VERB](Call(payload, ShardAddress(B, 0)))
    assert mesh.receiver.got == []
    assert mesh.counters.total("raft_messages_dropped_total", reason="malformed") == 1


def test_a_turn_is_bounded(mesh):
    """What is over the bound is dropped and counted."""
    for _ in range(20):
        mesh.group.send(2, bytes(MAX_QUEUED // 16))
    mesh.end_turn()
    ((_, _, payload, _),) = mesh.told
    assert len(payload[0][3]) == 16
    assert mesh.counters.total("raft_messages_dropped_total", reason="full") == 4


def test_after_the_end_nothing_is_delivered(mesh):
    """A group that left hears nothing, and the verb goes with the transport."""
    mesh.group.send(2, b"x")
    mesh.group.detach()
    mesh.end_turn()
    mesh.verbs[VERB](Call([[7, 2, 1, [b"x"]]], ShardAddress(B, 0)))
    assert mesh.receiver.got == []
    mesh.transport.stop()
    assert mesh.verbs == {}

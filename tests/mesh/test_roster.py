"""Rosters: their order, the links they ask for, and rows from the wire."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from mesh_net import node_info, nodes

from meshsvc.errors import WireError
from meshsvc.mesh import roster as rosters
from meshsvc.model import Epoch, Incarnation, NodeId, Roster, ShardId
from meshsvc.shards.placement import link_owner
from meshsvc.wire.codec import decode, encode


def test_order_is_the_same_from_any_view():
    """Configured names first, in their order, then the others by name."""
    view = list(nodes(5))
    random.Random(1).shuffle(view)
    ordered = rosters.order(view, ("n4", "n9", "n2"))
    assert [node.name for node in ordered] == ["n4", "n2", "n1", "n3", "n5"]


def test_order_takes_the_later_life():
    """Of two lives of one node only the later is listed."""
    old, new = node_info(1, 3), node_info(1, 4)
    assert rosters.order([new, old], ()) == (new,)
    assert rosters.order([old, new], ()) == (new,)


@pytest.mark.contract("MESH-1")
def test_of_each_pair_exactly_one_side_dials():
    """Over all members' duties each pair appears twice, dialed by the later one."""
    roster = Roster(Epoch(1, 1), nodes(6, shards=3))
    dialed, awaited = set(), set()
    for member in roster.members:
        for duty in rosters.duties(roster, member.node_id, 3, link_owner):
            assert duty.owner == link_owner(duty.peer.node_id, 3)
            pair = (member.name, duty.peer.name)
            (dialed if duty.dial else awaited).add(pair)
    assert len(dialed) == 15
    assert awaited == {(b, a) for a, b in dialed}
    assert all(a > b for a, b in dialed)


def test_a_roster_without_me_asks_nothing_of_me():
    """A node that is left out has no duties."""
    roster = Roster(Epoch(1, 1), nodes(2))
    assert rosters.duties(roster, node_info(9).node_id, 1, lambda *_: ShardId(0)) == ()


def test_rows_survive_the_wire():
    """Members come back equal from their CBOR rows; fields a newer version adds are ignored."""
    members = nodes(3, incarnation=7, shards=2)
    rows = decode(encode(list(rosters.rows(members))))
    assert rosters.from_wire(2, 3, rows) == Roster(Epoch(2, 3), members)
    assert rosters.from_wire(2, 3, [[*row, "new"] for row in rows]).members == members


GOOD = list(rosters.rows(nodes(1))[0])


@pytest.mark.parametrize(
    ("term", "attempt", "members"),
    [
        (0, 1, [GOOD]),
        (1, 0, [GOOD]),
        (True, 1, [GOOD]),
        ("1", 1, [GOOD]),
        (2**63, 1, [GOOD]),
        (1, 1, []),
        (1, 1, "n1"),
        (1, 1, [GOOD] * 2),
        (1, 1, [GOOD] * 2000),
        (1, 1, [7]),
        (1, 1, [GOOD[:5]]),
        (1, 1, [["", *GOOD[1:]]]),
        (1, 1, [[GOOD[0], "x" * 300, *GOOD[2:]]]),
        (1, 1, [[*GOOD[:2], 0, *GOOD[3:]]]),
        (1, 1, [[*GOOD[:4], 65536, 1]]),
        (1, 1, [[*GOOD[:5], 257]]),
        (1, 1, [[*GOOD[:5], None]]),
    ],
)
def test_rubbish_rows_are_refused(term, attempt, members):
    """Every wrong epoch or row is a WireError, whatever its types."""
    with pytest.raises(WireError):
        rosters.from_wire(term, attempt, members)


def test_index_and_life_are_of_the_wire_types():
    """What was checked is typed: ids and lives compare equal to those of the model."""
    (member,) = rosters.from_wire(1, 1, [GOOD]).members
    assert member == replace(member, node_id=NodeId(GOOD[0]), incarnation=Incarnation(GOOD[2]))

"""The data links of one shard: what is dialed, what stays, what siblings are told."""

from __future__ import annotations

import pytest
from mesh_net import FakeLink, node_info, nodes

from meshsvc.mesh.formation import MAX_HEARD, Forget, Formation, Keep, PeerState, SetEpoch
from meshsvc.model import Epoch, NodeId, Roster, ShardId
from meshsvc.wire.messages import LinkState
from meshsvc.wire.registry import Role, decode_message, encode_message

A, B, ME, D = MEMBERS = nodes(4, shards=2)
FIRST, SECOND = ShardId(0), ShardId(1)


def owner(peer: NodeId, shards: int) -> ShardId:
    """D's link belongs to shard 1, all others to shard 0."""
    return SECOND if peer == D.node_id else FIRST


def roster(attempt=1, members=MEMBERS):
    return Roster(Epoch(1, attempt), members)


def formation(shard=FIRST):
    formed = Formation(ME.node_id, shard, 2, owner)
    formed.adopt(roster())
    return formed


def link(peer, attempt=1, agreed=True):
    return FakeLink(peer, Epoch(1, attempt), agreed)


def states(core):
    return [row["state"] for row in core.rows()]


@pytest.mark.contract("MESH-1")
def test_it_dials_those_before_and_awaits_those_after():
    """The epoch is set first, then lower members are dialed, by the owning shard only."""
    assert formation().take_effects() == [
        SetEpoch(Epoch(1, 1), roster()),
        Keep(A.address, A.node_id),
        Keep(B.address, B.node_id),
    ]
    assert formation(SECOND).take_effects() == [SetEpoch(Epoch(1, 1), roster())]
    assert states(formation()) == [PeerState.DIALING, PeerState.DIALING, PeerState.DOWN]
    assert states(formation(SECOND)) == [PeerState.DOWN, PeerState.DOWN, PeerState.AWAITING]


@pytest.mark.contract("MESH-9")
def test_a_live_link_to_the_same_life_is_left_alone():
    """With the next epoch it is agreeing, then up, and was never forgotten."""
    core = formation()
    kept = link(A)
    core.link_up(kept)
    core.take_effects()
    core.adopt(roster(2))
    assert core.take_effects() == [
        SetEpoch(Epoch(1, 2), roster(2)),
        Forget(B.address),
        Keep(B.address, B.node_id),
    ]
    assert states(core)[0] == PeerState.AGREEING
    kept.epoch, kept.agreed = Epoch(1, 2), False
    assert states(core)[0] == PeerState.AGREEING
    kept.agreed = True
    assert states(core)[0] == PeerState.UP


def test_a_new_life_or_address_is_dialed_anew():
    """The dial of the former life is forgotten even while its link is still up."""
    core = formation()
    core.link_up(link(A))
    core.take_effects()
    again = node_info(1, 2, shards=2)
    core.adopt(roster(2, (again, ME)))
    assert core.take_effects() == [
        SetEpoch(Epoch(1, 2), roster(2, (again, ME))),
        Forget(A.address),
        Forget(B.address),
        Keep(again.address, again.node_id),
    ]
    assert states(core) == [PeerState.DIALING]


def test_a_link_stays_when_the_roles_change_sides():
    """I dialed A; in the next roster A comes after me: the dial ends, the link does not."""
    core = formation()
    core.link_up(link(A))
    core.take_effects()
    core.adopt(roster(2, (ME, A)))
    assert Forget(A.address) in core.take_effects()
    core.link_up(link(A, 2))
    assert states(core) == [PeerState.UP]
    assert core.complete


@pytest.mark.contract("MESH-3")
def test_a_void_attempt_dials_no_more_but_keeps_its_links():
    """Only dials without a link are forgotten."""
    core = formation()
    core.link_up(link(A))
    core.take_effects()
    core.stop_dialing()
    assert core.take_effects() == [Forget(B.address)]
    core.stop_dialing()
    assert core.take_effects() == []
    assert states(core) == [PeerState.UP, PeerState.DOWN, PeerState.DOWN]


def test_a_link_that_was_replaced_does_not_take_the_new_one_down():
    """Up(new) may come before down(old)."""
    core = formation()
    old, new = link(A), link(A)
    core.link_up(old)
    core.link_up(new)
    core.link_down(old)
    assert states(core)[0] == PeerState.UP
    core.link_down(new)
    assert states(core)[0] == PeerState.DIALING


def test_complete_counts_the_links_of_siblings():
    """Every member's link must be up at this epoch, whichever shard owns it."""
    core = formation()
    for peer in (A, B):
        core.link_up(link(peer))
    assert not core.complete
    theirs = formation(SECOND)
    theirs.link_up(link(D))
    (report,) = theirs.take_reports()
    core.heard(SECOND, decode_message(encode_message(report), Role.SHARD))
    assert core.complete
    assert core.reachable == {A.node_id, B.node_id, D.node_id}
    core.sibling_down(SECOND)
    assert states(core)[2] == PeerState.DOWN
    assert not core.complete


def test_reports_of_another_epoch_life_or_shard_do_not_count():
    """Only what the owner says of this life at this epoch makes a link up."""
    core = formation()
    good = LinkState(D.node_id, D.incarnation, 1, True, 1, 1, 900, "up")
    core.heard(FIRST, good)
    assert states(core)[2] == PeerState.DOWN
    core.heard(SECOND, LinkState(D.node_id, 9, 1, True, 1, 1, 900, "up"))
    assert states(core)[2] == PeerState.DOWN
    core.heard(SECOND, LinkState(D.node_id, D.incarnation, 1, True, 1, 9, 900, "up"))
    assert states(core)[2] == PeerState.AGREEING
    core.heard(SECOND, LinkState("f" * 32, 1, 1, True, 1, 1, 900, "up"))
    core.heard(SECOND, good)
    assert states(core)[2] == PeerState.UP


def test_a_report_may_come_before_the_roster():
    """Siblings adopt at different moments: what the owner said early counts later."""
    core = Formation(ME.node_id, FIRST, 2, owner)
    core.heard(SECOND, LinkState(D.node_id, D.incarnation, 1, True, 1, 3, 900, "up"))
    core.adopt(roster(2, (A, B, ME)))
    core.adopt(roster(3))
    assert states(core)[2] == PeerState.UP


def test_reports_are_bounded():
    """The oldest report makes room for one of ever new nodes."""
    core = formation()
    core.heard(SECOND, LinkState(D.node_id, D.incarnation, 1, True, 1, 1, 900, "up"))
    core._owner = lambda peer, shards: SECOND
    for number in range(MAX_HEARD):
        core.heard(SECOND, LinkState(f"{number:032x}f", 1, 1, True, 1, 1, 0, "up"))
    assert len(core._heard) == MAX_HEARD
    assert D.node_id not in core._heard


def test_a_link_to_a_life_the_roster_does_not_list_is_none():
    """A peer of another incarnation is not the member."""
    core = formation()
    core.link_up(FakeLink(node_info(1, 5, shards=2), Epoch(1, 1)))
    assert states(core)[0] == PeerState.DIALING


def test_changes_are_reported_once_and_round_trips_on_request():
    """A new round-trip time alone is no news until it is asked for."""
    core = formation()
    assert [state.state for state in core.take_reports()] == ["dialing", "dialing"]
    first = link(A)
    core.link_up(first)
    (report,) = core.take_reports()
    assert (report.state, report.up, report.rtt_us) == ("up", True, 1500)
    first.rtt_ms = 2.25
    assert core.take_reports() == []
    (report,) = core.take_reports(rtt_too=True)
    assert report.rtt_us == 2250
    assert core.take_reports(rtt_too=True) == []
    assert len(core.all_reports()) == 2


def test_rows_are_what_people_are_shown():
    """peer, state, epoch, owner_shard and rtt_ms, in roster order."""
    core = formation()
    core.link_up(link(A))
    assert core.rows() == [
        {"peer": "n1", "state": "up", "epoch": "1.1", "owner_shard": 0, "rtt_ms": 1.5},
        {"peer": "n2", "state": "dialing", "epoch": None, "owner_shard": 0, "rtt_ms": None},
        {"peer": "n4", "state": "down", "epoch": None, "owner_shard": 1, "rtt_ms": None},
    ]


def test_alone_it_is_complete():
    """A mesh of one node has every link it needs."""
    core = Formation(ME.node_id, FIRST, 2, owner)
    assert not core.complete
    core.adopt(roster(1, (ME,)))
    assert core.complete
    assert core.rows() == []

"""Which peers are remembered, the file they are kept in, and the contacts that come of it."""

from __future__ import annotations

from random import Random

import pytest
from disco_fakes import address, info, member, node_id

from meshsvc.counters import Counters
from meshsvc.discovery.memory import MAX_REMEMBERED, remembered
from meshsvc.gossip.dialing import DialPlan
from meshsvc.gossip.effects import Entered, Forget, Keep
from meshsvc.gossip.members import Status
from meshsvc.gossip.membership import Membership
from meshsvc.gossip.settings import Contacts, Settings
from meshsvc.model import Address
from meshsvc.sim.disk import PowerCut, SimDisk
from meshsvc.storage.peers import PeersDamaged, PeerStore

ADDRESSES = (Address("10.0.0.2", 7700), Address("fd00::1", 7700), Address("n3.example", 1))


@pytest.mark.contract("GSP-11")
def test_all_others_of_a_small_cluster_are_remembered():
    """Also the dead and those that left: they may be started again. Not removed ones."""
    members = [
        *(member(1), member(2), member(3, Status.DEAD), member(4, Status.LEFT)),
        *(member(5, Status.REMOVED), member(6, Status.JOINING)),
    ]
    assert remembered(node_id(1), members) == (address(2), address(3), address(4))


@pytest.mark.contract("GSP-11")
def test_the_memories_of_a_large_cluster_hold_together():
    """Each node keeps 64; from any node every other is reached along what they keep."""
    members = [member(number) for number in range(1, 251)]
    keeps = {each.address: remembered(each.node_id, members) for each in members}
    assert {len(kept) for kept in keeps.values()} == {MAX_REMEMBERED}
    assert all(at not in kept for at, kept in keeps.items())
    # Without the first fifty, which everybody keeps, the rest still holds together.
    left = {each.address for each in members[50:]}
    reached, edge = set(), {address(250)}
    while edge:
        reached |= edge
        edge = {at for each in edge for at in keeps[each] if at in left} - reached
    assert reached == left


@pytest.mark.contract("GSP-11")
def test_the_living_come_first():
    """Of too many, those that answer are kept."""
    members = [member(number, Status.DEAD) for number in range(2, 201)]
    members += [member(number) for number in range(201, 231)]
    kept = remembered(node_id(1), members)
    assert {address(number) for number in range(201, 231)} <= set(kept)


@pytest.mark.contract("GSP-11")
def test_a_peers_file_gives_back_what_was_saved():
    """In order, and the empty list too; none is there at first."""
    store = PeerStore(SimDisk(Random(1)), "/d/peers")
    assert store.load() == ()
    for addresses in (ADDRESSES, (), ADDRESSES[:1]):
        store.save(addresses)
        assert store.load() == addresses


@pytest.mark.contract("GSP-11")
def test_a_damaged_peers_file_is_never_half_believed():
    """Every single byte that changes, and every cut, is noticed."""
    disk = SimDisk(Random(1))
    store = PeerStore(disk, "/d/peers")
    store.save(ADDRESSES)
    good = disk.files()["/d/peers"]
    damaged = [good[:at] for at in range(1, len(good))]
    damaged += [good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :] for at in range(len(good))]
    damaged += [b"\x00" * 100, b"x" * 100_000, good + b"10.0.0.9:1\n"]
    for data in damaged:
        disk.put("/d/peers", data)
        with pytest.raises(PeersDamaged, match="is ignored, and written anew"):
            store.load()


@pytest.mark.contract("GSP-11")
def test_a_power_cut_at_each_step_leaves_the_old_file_or_the_new():
    """Replaced as a whole or not at all."""
    for stop_after in range(6):
        disk = SimDisk(Random(stop_after))
        disk.make_dir("/d")
        store = PeerStore(disk, "/d/peers")
        store.save(ADDRESSES[:1])
        disk.stop_after = stop_after
        try:
            store.save(ADDRESSES)
        except PowerCut:
            disk.crash()
        disk.stop_after = None
        assert store.load() in (ADDRESSES[:1], ADDRESSES)


def test_a_disk_that_does_not_read_is_said_to_be_that():
    """The caller goes on without."""
    disk = SimDisk(Random(1))
    disk.faults.eio = 1.0
    with pytest.raises(PeersDamaged, match="cannot be read"):
        PeerStore(disk, "/d/peers").load()


# --- contacts ------------------------------------------------------------------------------


def test_found_contacts_are_dialed_until_others_are_found():
    """Those from the start stay; this node's own address is never dialed."""
    plan = DialPlan(info(1), [address(2)])
    plan.update(0.0)
    plan.find([address(1), address(3)])
    assert plan.contacts == (address(2), address(3))
    assert plan.update(0.0) == [Keep(address(3), None)]
    plan.find([address(3), address(1)])
    assert plan.update(0.0) == []
    plan.find([])
    assert plan.update(0.0) == [Forget(address(3))]


def test_a_known_node_is_dialed_although_it_is_found_no_more():
    """What a backend says last never cuts a node off."""
    plan = DialPlan(info(1), [])
    plan.find([address(2)])
    plan.know(info(2), 0.0)
    plan.update(10.0)
    plan.find([])
    assert plan.update(10.0) == [Keep(address(2), node_id(2))]


def entered(membership):
    return [each for each in membership.take_events() if isinstance(each, Entered)]


@pytest.mark.contract("DISC-5", "GSP-13")
def test_a_node_is_not_alone_before_discovery_has_answered():
    """It waits for contacts that are being looked for, and no longer when there are none."""
    contacts = Contacts(awaited=True)
    membership = Membership(info(1), Random(1), Counters(), Settings(), contacts)
    membership.start(0.0)
    assert entered(membership) == []
    membership.set_contacts([address(1)], 1.0)
    assert entered(membership) == [Entered(alone=True)]


@pytest.mark.contract("DISC-5", "GSP-13")
def test_contacts_that_are_found_are_given_their_time():
    """From then on it is as with seeds: the time for a first contact, counted from the start."""
    contacts = Contacts(awaited=True)
    membership = Membership(info(1), Random(1), Counters(), Settings(), contacts)
    membership.start(0.0)
    membership.set_contacts([address(2)], 1.0)
    assert Keep(address(2), None) in membership.take_events()
    for tenth in range(11, 100):
        membership.tick(tenth / 10)
    assert entered(membership) == []
    membership.tick(10.0)
    assert entered(membership) == [Entered(alone=True)]

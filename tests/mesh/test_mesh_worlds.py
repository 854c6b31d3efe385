"""Meshes of whole nodes, in virtual time: they form, heal and converge, whatever happens."""

from __future__ import annotations

import itertools
import random
from contextlib import suppress

import pytest
from mesh_net import World

from meshsvc.errors import EpochConflict
from meshsvc.mesh.controller import EpochUsed
from meshsvc.mesh.epoch import MeshState
from meshsvc.mesh.formation import PeerState
from meshsvc.model import Epoch, LinkClass, Roster

NAMES = ("n1", "n2", "n3", "n4")


def world_of(names, seed=1, shards=1):
    """A formed world of the given nodes."""
    world = World(seed, tuple(names), shards)
    world.gossip_every(1.0)
    for name in names:
        world.start(name)
    assert world.run(10, world.formed)
    return world


@pytest.mark.contract("MESH-1")
@pytest.mark.parametrize("starts", list(itertools.permutations(NAMES)))
def test_any_start_order_of_four_forms(starts):
    """Four nodes started in any order, half a second apart, form in under 10 s."""
    world = World(NAMES.index(starts[0]), NAMES)
    for position, name in enumerate(starts):
        world.later(0.5 * position, lambda name=name: world.start(name))
    assert world.run(10, lambda: len(world.nodes) == 4 and world.formed())
    world.check_links()
    world.check_minted()


@pytest.mark.contract("MESH-1")
def test_the_later_member_dials_and_each_pair_has_one_link():
    """A node dials members before it and awaits those after it."""
    world = world_of(NAMES)
    for position, name in enumerate(NAMES):
        (shard,) = world.nodes[name].shards
        assert sorted(shard.links) == sorted(
            world.nodes[n].info.node_id for n in NAMES if n != name
        )
        assert sorted(shard.kept) == [world.nodes[n].info.address for n in NAMES[:position]]


@pytest.mark.contract("MESH-1")
def test_shards_share_the_links_and_all_know_them():
    """Each shard holds the links it owns, and every shard lists every peer as up."""
    world = world_of(NAMES, shards=3)
    for node in world.nodes.values():
        for shard in node.shards:
            rows = shard.core.rows()
            assert [row["state"] for row in rows] == [PeerState.UP] * 3
            assert len(shard.core.reachable(LinkClass.DATA)) == 3
            mine = {row["peer"] for row in rows if row["owner_shard"] == shard.index}
            assert {link.peer.name for link in shard.links.values()} == mine


@pytest.mark.contract("MESH-2", "MESH-11")
def test_epochs_rise_across_controller_crashes():
    """A controller that crashes, even between saving and sending, never repeats an epoch."""
    world = world_of(NAMES)
    for delay in (0.0, 0.003, 0.01, 0.7, 2.5):
        world.run(delay)
        before = world.nodes["n1"].shards[0].epoch
        world.kill("n1")
        world.start("n1")
        assert world.run(30, world.formed)
        assert world.nodes["n1"].shards[0].epoch > before
    world.check_minted()


@pytest.mark.contract("MESH-2", "MESH-11")
def test_a_controller_that_lost_its_counter_mints_above_what_it_is_shown():
    """With an empty disk it starts at 1.1, is refused by name, and jumps above."""
    world = world_of(NAMES)
    for _ in range(3):
        world.kill("n1")
        world.start("n1")
        assert world.run(30, world.formed)
    high = world.nodes["n2"].shards[0].epoch
    assert high.term == 4
    world.kill("n1")
    del world.disks["n1"]
    world.start("n1")
    assert world.run(30, world.formed)
    assert world.nodes["n1"].shards[0].epoch > high


@pytest.mark.contract("MESH-3")
def test_a_node_that_sees_a_greater_epoch_gives_up_and_waits():
    """The lower side stops dialing, says so by name, and follows its own CreateMesh later."""
    world = world_of(NAMES)
    roster = world.nodes["n1"].core.roster
    higher = Roster(Epoch(9, 1), roster.members)
    last = world.nodes["n4"]
    for name in NAMES[:3]:
        world.nodes[name].core.offer(higher)
        world.drain(world.nodes[name])
    for link in list(last.shards[0].links.values()):
        world.cut(link)
    assert world.run(2, lambda: bool(last.superseded) and not last.shards[0].kept)
    assert str(last.superseded[0].error()).startswith("epoch 1.1 is superseded by 9.1")
    assert last.core.state is MeshState.WAITING
    assert world.run(20, world.formed)
    assert last.shards[0].epoch >= higher.epoch


@pytest.mark.contract("MESH-5")
@pytest.mark.parametrize("seed", range(5))
def test_a_storm_of_epochs_ends_at_the_last(seed):
    """Twenty rising epochs in 2 s to random subsets, the last to all: only that one is left."""
    rng = random.Random(seed)
    names = tuple(f"n{number}" for number in range(1, 7))
    world = World(seed)
    members = tuple(world.start(name).info for name in names)
    for attempt in range(1, 21):
        roster = Roster(Epoch(5, attempt), tuple(rng.sample(members, len(members))))
        chosen = names if attempt == 20 else rng.sample(names, rng.randint(1, 5))
        for name in chosen:
            world.nodes[name].core.offer(roster)
            world.drain(world.nodes[name])
        world.run(0.1)
        world.check_links()
    assert world.run(5, world.formed)
    last = Epoch(5, 20)
    world.run(1)
    for name in names:
        (shard,) = world.nodes[name].shards
        assert shard.epoch == last
        assert all(link.epoch == last and link.agreed for link in shard.links.values())
        before = roster.members[: roster.index(world.nodes[name].info.node_id)]
        assert sorted(shard.kept) == sorted(node.address for node in before)
        assert world.nodes[name].controller.deadline() is None
    dials = world.dials
    world.run(5)
    assert world.dials == dials, "something of a superseded attempt still dials"


@pytest.mark.contract("MESH-8")
def test_a_lost_link_is_redialed_under_the_same_epoch():
    """Both lives go on, so the mesh is degraded, then formed again, at the epoch it had."""
    world = world_of(NAMES)
    epoch, minted = world.nodes["n1"].shards[0].epoch, len(world.minted)
    world.cut(next(iter(world.nodes["n2"].shards[0].links.values())))
    assert world.run(1, lambda: world.nodes["n2"].core.state is MeshState.DEGRADED)
    assert world.run(5, world.formed)
    assert world.nodes["n1"].shards[0].epoch == epoch
    assert len(world.minted) == minted


@pytest.mark.contract("MESH-8", "MESH-9")
def test_a_restarted_peer_causes_a_new_epoch_and_spares_the_others():
    """The links between nodes that live on are the same objects afterwards."""
    world = world_of(NAMES)
    epoch = world.nodes["n1"].shards[0].epoch
    before = {
        (a, b): world.nodes[a].shards[0].links[world.nodes[b].info.node_id]
        for a, b in itertools.permutations(("n1", "n2", "n4"), 2)
    }
    world.kill("n3")
    world.start("n3")
    assert world.run(30, world.formed)
    assert world.nodes["n1"].shards[0].epoch > epoch
    for (a, b), link in before.items():
        assert world.nodes[a].shards[0].links[world.nodes[b].info.node_id] is link


@pytest.mark.contract("MESH-8")
def test_a_dead_peer_is_left_out_and_taken_back():
    """A node declared dead is not in the next epoch; alive again, it is in one more."""
    world = world_of(NAMES)
    world.kill("n2")
    assert world.run(10, lambda: world.formed("n1", "n3", "n4"))
    first = world.nodes["n1"].shards[0].epoch
    world.start("n2")
    assert world.run(10, world.formed)
    assert world.nodes["n2"].shards[0].epoch > first


@pytest.mark.contract("MESH-8")
@pytest.mark.parametrize("victims", [("n1",), ("n2",), NAMES, NAMES[1:], NAMES[:3]])
def test_kills_heal_without_a_hand(victims):
    """kill -9 of the first, a middle one, all, and all but one: one epoch within 30 s."""
    world = world_of(NAMES)
    for name in victims:
        world.kill(name)
    world.run(1)
    for name in victims:
        world.start(name)
    assert world.run(30, world.formed)
    world.check_links()
    world.check_minted()


def disturb(world):
    """One fault: a stop, a kill and restart, a shard's restart, a lost link, a hand's epoch."""
    rng, name = world.rng, world.rng.choice(NAMES)
    node, act = world.nodes[name], rng.random()
    if act < 0.3:
        world.pause(name, rng.uniform(0.5, 8))
    elif act < 0.6:
        world.kill(name)
        world.run(rng.uniform(0, 4))
        world.start(name)
    elif act < 0.75:
        world.restart_shard(name, rng.randrange(world.shard_count))
    elif act < 0.9:
        for link in [link for shard in node.shards for link in shard.links.values()][:1]:
            world.cut(link)
    elif world.now >= node.resumes:
        with suppress(EpochUsed, EpochConflict):
            node.controller.form(Epoch(rng.randint(1, 9), rng.randint(1, 3)), world.now)
            world.drain(node)


@pytest.mark.contract("MESH-8")
@pytest.mark.parametrize("seed", range(60))
def test_any_mix_of_faults_heals(seed):
    """Stops, kills, restarts, lost links and lost CreateMesh: one epoch within 30 s after."""
    world = World(seed, NAMES, shards=1 + seed % 3)
    world.gossip_every(1.0)
    world.loss = 0.3 * (seed % 2)
    for name in NAMES:
        world.start(name)
    for _ in range(8):
        disturb(world)
        world.run(world.rng.uniform(0, 3))
        world.check_links()
    world.run(max(0.0, *(node.resumes - world.now for node in world.nodes.values())))
    assert world.run(30, world.formed)
    world.check_links()


def test_a_flapping_node_costs_no_epoch_when_it_is_quick():
    """Dead and alive again within the form delay: nothing is minted."""
    world = world_of(NAMES)
    controller = world.nodes["n1"].controller
    view = tuple(node.info for node in world.nodes.values())
    minted = len(world.minted)
    for _ in range(20):
        controller.members_changed(view[:3], world.now)
        world.run(0.2)
        controller.members_changed(view, world.now)
        world.run(0.1)
    assert len(world.minted) == minted


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("name", ["n1", "n2"])
def test_a_restarted_shard_zero_gets_the_mesh_back(name, shards):
    """From its siblings, or from the controller that sees it behind; others keep theirs."""
    world = world_of(NAMES, shards=shards)
    epoch = world.nodes["n3"].shards[0].epoch
    world.restart_shard(name, 0)
    assert world.run(20, world.formed)
    assert world.nodes["n3"].shards[0].epoch == epoch


@pytest.mark.contract("MESH-8")
def test_a_restarted_shard_brings_its_links_back():
    """Any shard but the first: shard 0 tells it the mesh, the peers are redialed or awaited."""
    world = world_of(NAMES, shards=3)
    epoch = world.nodes["n3"].shards[0].epoch
    for index in (1, 2):
        world.restart_shard("n2", index)
        assert world.nodes["n2"].shards[0].core.state is not MeshState.WAITING
        assert world.run(20, world.formed)
    assert world.nodes["n3"].shards[0].epoch == epoch


@pytest.mark.contract("MESH-11")
def test_a_mesh_is_formed_by_hand_and_again():
    """Without configured names nothing forms by itself; any node can form from its view."""
    world = World(3)
    world.gossip_every(1.0)
    for name in NAMES:
        world.start(name)
    world.run(10)
    assert all(node.core.state is MeshState.WAITING for node in world.nodes.values())
    for name, epoch in (("n2", Epoch(3, 1)), ("n4", Epoch(3, 2))):
        world.nodes[name].controller.form(epoch, world.now)
        world.drain(world.nodes[name])
        world.run(0.5)
        assert world.run(10, world.formed)
        assert world.nodes["n1"].shards[0].epoch == epoch
        assert world.disks[name] == epoch
    world.check_minted()


def test_two_controllers_by_mistake_come_to_rest():
    """A mesh of the right nodes serves a controller as well when another one minted it."""
    world = World(4, NAMES)
    world.gossip_every(1.0)
    for name in NAMES[:3]:
        world.start(name)
    world.names = ("n4", "n1", "n2", "n3")
    world.start("n4")
    assert world.run(30, world.formed)
    world.run(5)
    minted = len(world.minted)
    world.run(30)
    assert len(world.minted) == minted
    assert world.formed()

"""Rendezvous placement: golden, even, stable, and group 0 apart."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
from zope.interface.verify import verifyObject

from meshsvc.interfaces import IPlacement
from meshsvc.shards import placement
from meshsvc.shards.placement import (
    CONTROL_GROUP,
    Contest,
    Rendezvous,
    group_shard,
    key_hash,
    link_owner,
    mix,
    shard_of,
)

pytestmark = pytest.mark.contract("SHD-5")

GOLDEN = json.loads((Path(__file__).parent / "golden_placement.json").read_text())
KEYS = [f"key-{number}" for number in range(6000)]


def nodes(count, shards=4):
    return tuple((f"{number:032x}", shards) for number in range(1, count + 1))


def test_mix_is_the_finaliser_of_splitmix64():
    """The published first outputs of splitmix64 seeded with 1234567."""
    gamma, state, outputs = 0x9E3779B97F4A7C15, 1234567, []
    for _ in range(3):
        state = (state + gamma) % 2**64
        outputs.append(mix(state))
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_lanes_score_like_one_at_a_time():
    """Scoring all candidates in one integer equals mixing each by itself, edge words too."""
    seeds = [0, 1, 2**64 - 1, 2**63, *(key_hash(key) for key in KEYS[:20])]
    contest = Contest(seeds)
    for word in (0, 2**64 - 1, *(key_hash(key) for key in KEYS[:200])):
        assert list(contest.scores(word)) == [mix(word ^ seed) for seed in seeds]


@pytest.mark.parametrize("case", GOLDEN["owner"], ids=lambda case: case["key"])
def test_golden_owners(case):
    """The owner of a key among given nodes never changes between versions."""
    candidates = [tuple(row) for row in case["candidates"]]
    owner = Rendezvous().owner(case["key"], candidates)
    assert [owner.node, owner.shard] == case["owner"]


def test_golden_shards():
    """Key hashes, shards of keys, owners of links and shards of groups are pinned."""
    for key, value in GOLDEN["key_hash"].items():
        assert key_hash(key) == int(value, 16)
    for row in GOLDEN["shard_of"]:
        assert [shard_of(row["key"], count) for count in range(1, 9)] == row["shards_1_to_8"]
    for row in GOLDEN["link_owner"]:
        assert [link_owner(row["peer"], count) for count in range(1, 9)] == row["shards_1_to_8"]
    for row in GOLDEN["group_shard"]:
        assert [group_shard(row["group"], count) for count in range(1, 9)] == row["shards_1_to_8"]


def test_the_interface_is_provided():
    """Rendezvous is an IPlacement."""
    assert verifyObject(IPlacement, Rendezvous())


def test_order_and_container_do_not_matter():
    """Every node computes the same owner, however it lists the candidates."""
    candidates = (("a" * 32, 2), ("b" * 32, 3), ("c" * 32, 2), ("d" * 32, 0))
    expected = [Rendezvous().owner(key, candidates) for key in KEYS[:50]]
    for order in itertools.permutations(candidates):
        shared = Rendezvous()
        assert [shared.owner(key, list(order)) for key in KEYS[:50]] == expected


def test_str_and_bytes_of_one_key_agree():
    """A str key is its UTF-8 bytes, lone surrogates included."""
    assert Rendezvous().owner("schlüssel", nodes(5)) == Rendezvous().owner(
        "schlüssel".encode(), nodes(5)
    )
    assert key_hash("\ud800") == key_hash(b"\xed\xa0\x80")


def test_no_candidates_no_owner():
    """None, or nodes without a shard, own nothing."""
    assert Rendezvous().owner("key", ()) is None
    assert Rendezvous().owner("key", (("a" * 32, 0),)) is None


def test_a_changed_list_is_seen():
    """A list that changes in place is not mistaken for what it was."""
    place, candidates = Rendezvous(), list(nodes(1))
    before = {place.owner(key, candidates).node for key in KEYS[:50]}
    candidates[0] = ("f" * 32, 4)
    assert {place.owner(key, candidates).node for key in KEYS[:50]} == {"f" * 32} != before


def test_remembered_candidates_are_bounded():
    """A view that changes for ever does not grow the memory."""
    place = Rendezvous()
    for count in range(1, 3 * placement.MAX_TABLES):
        place.owner("key", (("a" * 32, 1 + count % 200), ("b" * 32, 1 + count // 200)))
    assert len(place._tables) <= placement.MAX_TABLES


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_a_joining_node_takes_its_share_and_nothing_else_moves(count):
    """From N to N+1 nodes about 1/(N+1) of the keys move, all of them to the new node."""
    place, before, after = Rendezvous(), nodes(count), nodes(count + 1)
    moved = 0
    for key in KEYS:
        old, new = place.owner(key, before), place.owner(key, after)
        if old != new:
            moved += 1
            assert new.node == after[-1][0]
    assert moved / len(KEYS) == pytest.approx(1 / (count + 1), abs=0.02)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 15, 73])
def test_one_more_shard_takes_its_share_and_nothing_else_moves(count):
    """From N to N+1 shards about 1/(N+1) of the keys move, all of them to the new shard."""
    moved = [(shard_of(key, count), shard_of(key, count + 1)) for key in KEYS]
    moved = [new for old, new in moved if old != new]
    assert set(moved) == {count}
    assert len(moved) / len(KEYS) == pytest.approx(1 / (count + 1), abs=0.02)


def test_keys_are_even_over_nodes_and_shards():
    """Each of 5 x 4 shards owns a twentieth of the keys, within four standard deviations."""
    place, candidates = Rendezvous(), nodes(5)
    owners = Counter(place.owner(key, candidates) for key in KEYS)
    assert len(owners) == 20
    mean = len(KEYS) / 20
    assert max(abs(owned - mean) for owned in owners.values()) < 4 * (mean * 0.95) ** 0.5


def test_nodes_are_weighted_by_their_shards():
    """A node with three times the shards owns three times the keys."""
    place, candidates = Rendezvous(), (("a" * 32, 2), ("b" * 32, 6), ("c" * 32, 2))
    owners = Counter(place.owner(key, candidates).node for key in KEYS)
    assert owners["b" * 32] / len(KEYS) == pytest.approx(0.6, abs=0.02)
    assert owners["a" * 32] / len(KEYS) == pytest.approx(0.2, abs=0.02)


def test_links_spread_over_all_shards():
    """The data links of many peers use every shard about equally."""
    owners = Counter(link_owner(f"{key_hash(key):032x}", 4) for key in KEYS)
    assert set(owners) == {0, 1, 2, 3}
    assert max(owners.values()) / min(owners.values()) < 1.2


@pytest.mark.parametrize("shards", [*range(1, 9), 73, 256])
def test_the_control_group_is_on_shard_0(shards):
    """Group 0 is never hashed: it is on shard 0 for every number of shards."""
    assert group_shard(CONTROL_GROUP, shards) == 0
    assert all(0 <= group_shard(group, shards) < shards for group in range(1, 50))


def test_a_group_is_not_what_its_bytes_as_control_would_be(monkeypatch):
    """Group 0 does not depend on the hash, whatever that makes of it."""
    monkeypatch.setattr(placement, "key_hash", lambda _: pytest.fail("group 0 was hashed"))
    assert group_shard(0, 73) == 0


@pytest.mark.parametrize("group", [-1, 2**64])
def test_a_group_out_of_range_is_refused(group):
    """Never aliased onto another group."""
    with pytest.raises(ValueError, match="is no group"):
        group_shard(group, 4)


@pytest.mark.parametrize("shards", [0, -1, 257])
def test_a_number_of_shards_out_of_range_is_refused(shards):
    """A node has 1 to 256 shards."""
    with pytest.raises(ValueError, match="1 to 256"):
        shard_of("key", shards)

"""The next step of a message, for every pairing of shard, target and class."""

from __future__ import annotations

import pytest

from meshsvc.model import LinkClass
from meshsvc.shards.placement import link_owner
from meshsvc.shards.routing import Local, Router, ViaBus, ViaLink

pytestmark = pytest.mark.contract("SHD-5")

ME, OTHER = "1" * 32, "2" * 32


@pytest.mark.parametrize("link_class", LinkClass)
def test_my_node(link_class):
    """My own shard is local and a sibling is reached over the bus, in either class."""
    router = Router(ME, 1, 4)
    assert router.route(ME, 1, link_class) == Local()
    assert router.route(ME, 3, link_class) == ViaBus(3)


def test_a_shard_that_is_not_there_is_left_to_the_bus():
    """The bus counts it as unroutable; routing does not fail."""
    assert Router(ME, 0, 2).route(ME, 9, LinkClass.DATA) == ViaBus(9)
    assert Router(ME, 0, 2).route(ME, -1, LinkClass.DATA) == ViaBus(-1)


@pytest.mark.parametrize("shards", [1, 2, 4, 73])
def test_control_goes_through_shard_0(shards):
    """Shard 0 holds every control link, whatever the peer hashes to."""
    for peer in (OTHER, "a" * 32, "0" * 32):
        assert Router(ME, 0, shards).route(peer, 0, LinkClass.CONTROL) == ViaLink()
        for shard in range(1, shards):
            assert Router(ME, shard, shards).route(peer, 5, LinkClass.CONTROL) == ViaBus(0)


@pytest.mark.parametrize("shards", [1, 2, 4, 73])
def test_data_goes_through_the_owner_of_the_link(shards):
    """The owner uses its link; every other shard hands the message to the owner."""
    owner = link_owner(OTHER, shards)
    for shard in range(shards):
        expected = ViaLink() if shard == owner else ViaBus(owner)
        assert Router(ME, shard, shards).route(OTHER, 0, LinkClass.DATA) == expected


@pytest.mark.parametrize(("shard", "shards"), [(2, 2), (-1, 2), (0, 0)])
def test_a_router_is_one_of_its_shards(shard, shards):
    """A shard index that the node does not have is refused."""
    with pytest.raises(ValueError, match="is not one of"):
        Router(ME, shard, shards)

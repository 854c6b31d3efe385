"""Clusters of real processes, started as a user starts them."""

import sys
from pathlib import Path

import pytest

# Tests are not a package: helpers are found here, those that run etcd's clients in tests/etcd.
sys.path.insert(0, str(Path(__file__).parent.parent / "etcd"))
sys.path.insert(0, str(Path(__file__).parent))

from dev_cluster import DevCluster
from store_cluster import StoreCluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Three nodes of two shards each, formed; shared by the tests of a module."""
    with DevCluster(tmp_path_factory.mktemp("dev"), nodes=3) as running:
        yield running


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three nodes of one shard that hold the store; whoever disturbs them waits till they heal."""
    with StoreCluster(tmp_path_factory.mktemp("store"), nodes=3, shards=1) as running:
        running.wait_well()
        yield running

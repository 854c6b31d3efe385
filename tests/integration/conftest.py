"""Clusters of real processes, started as a user starts them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from dev_cluster import DevCluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Three nodes of two shards each, formed; shared by the tests of a module."""
    with DevCluster(tmp_path_factory.mktemp("dev"), nodes=3) as running:
        yield running

"""Real nodes are killed, stopped and started while real clients use the store.

``MESHSVC_CHAOS_S=600 MESHSVC_CHAOS_SEED=7`` make it last, and be another run: ``make chaos``.
"""

from __future__ import annotations

import os
import sys

import pytest
from chaos import RECOVERY_S, Chaos
from dev_cluster import DevCluster

SECONDS = float(os.environ.get("MESHSVC_CHAOS_S", "12"))
SEED = int(os.environ.get("MESHSVC_CHAOS_SEED", "1"))


@pytest.mark.slow
@pytest.mark.timeout(SECONDS * 3 + 4 * RECOVERY_S)
@pytest.mark.contract("SIM-3", "RAFT-7", "KV-1", "LOG-1")
def test_what_was_acknowledged_is_there_and_reads_are_never_old(tmp_path):
    """Histories of concurrent clients over gRPC and JSON are linearizable, with nothing lost."""
    with DevCluster(tmp_path, nodes=3, shards=1) as cluster:
        run = Chaos(cluster, SEED).run(SECONDS)
    outcomes = run.ledger.outcomes
    sys.stdout.write(f"{run.faults} {len(run.ledger.acked)} acknowledged writes {outcomes}\n")
    assert not run.problems, run.problems[:5]
    assert run.faults
    assert len(run.ledger.acked) > SECONDS

"""When a leader that has nothing to say speaks."""

from __future__ import annotations

import pytest

from meshsvc.raft.settings import Settings

pytestmark = pytest.mark.contract("RAFT-1")


@pytest.mark.parametrize("heartbeat_s", [0.01, 0.1, 0.3, 7.0])
@pytest.mark.parametrize("start", [0.0, 3.3, 1.8e9 + 0.049])
def test_groups_of_one_process_speak_in_the_same_turn(start, heartbeat_s):
    """Whenever each spoke last, all their next times are on one grid, never soon after."""
    settings = Settings(heartbeat_s=heartbeat_s)
    for step in range(1000):
        now = start + step * heartbeat_s / 97
        then = settings.next_beat(now)
        rounding = 1e-6 if start > 1e6 else 1e-9
        assert abs(then / heartbeat_s - round(then / heartbeat_s)) * heartbeat_s < rounding
        assert now < then
        assert heartbeat_s / 2 - rounding <= then - now <= 1.5 * heartbeat_s + rounding

"""The systemd unit: accepted by systemd, hardened, and in step with the node's own limits."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from meshsvc.node import exits
from meshsvc.node.config_sections import Shards

UNIT = Path(__file__).parents[2] / "etc" / "systemd" / "meshsvc.service"
TEXT = UNIT.read_text()

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze: apt-get install systemd"
)


def setting(name):
    return re.search(rf"^{name}=(.*)$", TEXT, re.MULTILINE)[1]


@needs_systemd
def test_systemd_accepts_the_unit():
    """systemd-analyze verify has nothing to say."""
    ended = subprocess.run(
        ["systemd-analyze", "verify", str(UNIT)], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@needs_systemd
def test_unit_is_hardened():
    """The exposure that systemd computes stays at most 1.3."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNIT)]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.search(r"Overall exposure level.*: ([\d.]+)", told)
    if found is None:
        pytest.skip("this systemd-analyze cannot judge a unit that is not loaded")
    assert float(found[1]) <= 1.3


def test_unit_runs_the_node_in_the_foreground():
    """Type=notify needs the supervisor itself: no fork, no pid file."""
    assert setting("Type") == "notify"
    assert "twistd --nodaemon --pidfile= meshsvc run --config" in setting("ExecStart")


def test_times_leave_room_for_the_node_to_act_first():
    """systemd waits longer than the drain, and longer than finding a wedged shard takes."""
    shards = Shards()
    assert int(setting("TimeoutStopSec")) > shards.drain_s
    assert int(setting("WatchdogSec")) > 2 * shards.heartbeat_timeout_s


def test_config_mistakes_are_not_retried():
    """A start that cannot heal by itself is not repeated; a locked data dir is."""
    never = setting("RestartPreventExitStatus").split()
    assert str(exits.CONFIG) in never
    assert str(exits.RETRY) not in never
    assert setting("Restart") == "on-failure"

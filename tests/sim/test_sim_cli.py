"""``meshsvc sim``: seeds in, one summary out; a replay prints the same run again."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

BROKEN = """
text = "a node that is never started again within the time that is stated"
nodes = 2
safety_s = 6.0
converge_s = 0.05

[[step]]
at = 3
do = "crash n2"
"""


def meshsvc(*arguments):
    command = [sys.executable, "-m", "meshsvc.admin.cli.main", "sim", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.contract("SIM-1")
def test_a_replay_is_the_same_run(tmp_path):
    """Run reports, replay prints the log and writes a page that needs nothing else."""
    ran = meshsvc("run", "--scenario", "quiet-death", "--seeds", "2", "-o", "json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["seeds"] == 2
    page = tmp_path / "page.html"
    first = meshsvc("replay", "1", "--scenario", "quiet-death", "--html", str(page))
    again = meshsvc("replay", "1", "--scenario", "quiet-death")
    assert first.returncode == again.returncode == 0
    assert first.stdout == again.stdout
    assert "n2    crash" in first.stdout
    text = page.read_text("utf-8")
    assert "crash" in text
    assert "{{" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_a_failure_says_how_to_see_it_again(tmp_path):
    """Exit code 1, the invariant in words, the last events and the command."""
    path = tmp_path / "broken.toml"
    path.write_text(BROKEN, encoding="utf-8")
    ran = meshsvc("run", "--scenario", str(path), "--seeds", "1", "--seed", "4")
    assert ran.returncode == 1
    assert "seed 4 of scenario broken: LIVENESS: not converged 0.05 s after" in ran.stderr
    assert f"replay: meshsvc sim replay 4 --scenario {path}" in ran.stderr


def test_an_unknown_scenario_is_wrong_usage():
    """It names those there are."""
    ran = meshsvc("run", "--scenario", "nothing")
    assert ran.returncode == 64
    assert "there are" in ran.stderr

"""``meshsvc sim``: seeds in, one summary out; a replay prints the same run again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from base64 import b64encode
from hashlib import sha256

import pytest

from meshsvc.sim.flights import MAX_HOLDS, Flights
from meshsvc.sim.replay import page
from meshsvc.sim.runner import Run
from meshsvc.sim.scenario import load

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
    assert first.stderr.partition("hash ")[2] == again.stderr.partition("hash ")[2]
    assert "n2    crash" in first.stdout
    text = page.read_text("utf-8")
    assert "{{" not in text
    assert set(re.findall(r"https?:[^\"]*", text)) == {"http://www.w3.org/2000/svg"}
    story = json.loads(text.partition('type="application/json">')[2].partition("</script>")[0])
    assert ["life", "n2", "down"] in [change[1:] for change in story["changes"]]
    assert 0 < len(story["flights"]) <= story["seen"]
    assert {node for path in story["paths"] for node in path} == set(story["nodes"])


def test_the_page_runs_nothing_but_its_own_script():
    """Its policy names the hashes of its one script and its one style, and allows no more."""
    simulation = Run(load("quiet-death"), 1)
    text = page(simulation, simulation.go())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for kind in ("style", "script"):
        [inner] = re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = b64encode(sha256(inner.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert " style=" not in text
    assert not re.search(r"<[^>]* on[a-z]+=", text.partition("<script")[0])


def test_messages_on_their_way_are_a_bounded_sample():
    """Slots get longer until what is kept fits, over the whole run and on every path."""
    flights = Flights(most=100)
    for number in range(5000):
        flights.sent(number / 100, number / 100 + 0.01, ("a", f"b{number % 3}"), 10)
        flights.sent(number / 100, number / 100, ("a", "a"), 10)
    assert flights.seen == 5000
    assert 25 <= len(flights.kept) <= 100
    assert {path for _, _, path, _ in flights.kept} == {("a", f"b{n}") for n in range(3)}
    assert flights.kept[-1][0] > 40
    for _ in range(2 * MAX_HOLDS):
        flights.held(1.0, ("a", "b"), 1)
    assert len(flights.holds) == MAX_HOLDS


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

"""Every scenario holds for some seeds; what went wrong once is kept as a regression."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshsvc.errors import StartError
from meshsvc.sim.runner import checked, run_seed
from meshsvc.sim.scenario import _KEYS, BadScenario, load, names, parse

SEEDS = {"swarm": range(12), "join-storm": range(1), "ten-nodes": range(1)}
STORE_SEEDS = range(1)

FOUND = Path(__file__).parent / "regressions"
"""Scenarios as they were when a seed found something: another fault is another run."""

REGRESSIONS = [
    # A dial that another link made needless came up after its service had stopped, and kept
    # the stop waiting until the budget was spent.
    ("swarm-1", 17),
    # A pause was counted as a stall once for each message that waited, so that a probe ran
    # on for minutes and a suspect that was well was never cleared.
    ("swarm-1", 243),
    # A node that was stopped while it stood still was not started again.
    ("swarm-1", 176),
    # A node was stopped while its only shard waited to be restarted, and never ended.
    ("swarm-1", 2883),
    # A refutation from before its node's end, that a partition held up, cleared a suspicion.
    ("swarm-1", 5339),
    # A node that had just stopped being slow was held to deadlines while it caught up.
    ("swarm-2", 40185),
    # A node that drained, and had said goodbye, took itself for a newcomer at the next epoch.
    ("swarm-2", 40298),
    # A node that was late several times a second put its next echo off each time, and then
    # gave up who had never been asked again.
    ("ten-nodes-1", 30258),
    # Links that were lost and back within a second were taken for links that never changed.
    ("ten-nodes-1", 100016),
    # A shard took the moment in which a sibling's link agrees on an epoch for the link's end,
    # and threw away its answers to asks that were not told.
    ("swarm-3", 200027),
    # A node whose disk was damaged does not come back by itself, and a leader of tables rightly
    # waits for it: nobody else remembers all of a roster of which it was.
    ("swarm-3", 600062),
    # A shard whose tables had stopped was held to what its siblings took while it ended.
    ("swarm-3", 610030),
    # A save of peers that was reported failed had been made, and was taken for not made.
    ("swarm-3", 610060),
    # A shard 0 that had just begun could not give a broadcast to its sibling, whom the bus had
    # yet to reach.
    ("swarm-3", 610089),
    # The time that a broadcast was on its way was not counted, so that it was new to a shard 0
    # that began after it, and whose life before had heard it.
    ("swarm-3", 610110),
    # A journal that opened read its last batch a second time and wrote what it got: a bit that
    # was misread became one that is wrong on the disk, and the node stayed away.
    ("swarm-3", 706),
]


@pytest.mark.slow
@pytest.mark.contract(
    "SIM-1",
    "MESH-4",
    "MESH-5",
    "MESH-6",
    "MESH-8",
    "MESH-12",
    "GSP-8",
    "GSP-11",
    "VERB-2",
    "LINK-6",
    "LOG-1",
    "LOG-3",
    "RAFT-2",
    "RAFT-3",
    "RAFT-4",
    "RAFT-6",
    "RAFT-7",
    "KV-1",
    "KV-2",
    "KV-3",
)
@pytest.mark.parametrize("name", names())
def test_a_scenario_holds(name, logged_errors):
    """No invariant is violated, and the cluster converges in the time it states."""
    usual = STORE_SEEDS if name.startswith("store-") else range(2)
    for seed in SEEDS.get(name, usual):
        result = run_seed(name, seed)
        assert result.ok, result.report()
    logged_errors.flush(OSError, StartError)


@pytest.mark.parametrize(("name", "seed"), REGRESSIONS)
def test_what_was_found_stays_fixed(name, seed, logged_errors):
    """A seed that found a bug once finds none."""
    result = run_seed(str(FOUND / f"{name}.toml"), seed)
    logged_errors.flush(OSError, StartError)
    assert result.ok, result.report()


def test_a_bad_scenario_is_named():
    """A scenario that is not there, or has a key it should not have, is an error that says so."""
    with pytest.raises(BadScenario, match="there are busy-crash"):
        load("nothing")
    with pytest.raises(BadScenario, match="x: nods: unknown key, nearest: nodes"):
        parse("x", 'text = "t"\nnods = 3\n')


MISTAKES = """
nodes = "three"
shards = [3, 1]
start = "sometimes"
name = "q"
safety_s = -1
step = [{at = 1, do = "explode n1"}, {do = "crash n1"}, 5]
[weather]
rain = 3
loss = 5
[swarm]
kinds = "crash"
[config]
gossip = 3
"""


def test_all_mistakes_of_a_scenario_are_told_at_once():
    """Each with its key, what stands there and what is taken."""
    with pytest.raises(BadScenario) as found:
        parse("x", MISTAKES, "x.toml")
    assert str(found.value).splitlines() == [
        "x.toml: nodes: got 'three', expected a whole number from 1 to 100, or a range of them:"
        " [low, high]",
        "x.toml: shards: got [3, 1], expected a whole number from 1 to 16, or a range of them:"
        " [low, high]",
        "x.toml: start: got 'sometimes', expected one of 'all', 'shuffled', 'none'",
        f"x.toml: name: unknown key, there are {', '.join(_KEYS)}",
        "x.toml: safety_s: got -1, expected a number from 0.001 to 86400",
        "x.toml: step 2: it lacks 'at'",
        "x.toml: step 3: got 5, expected a table",
        "x.toml: swarm.kinds: got 'crash', expected a list of texts",
        "x.toml: weather.rain: unknown key, there are delay_s, jitter_s, loss",
        "x.toml: weather.loss: got 5, expected a number from 0 to 1, or a range of them:"
        " [low, high]",
        "x.toml: config.gossip: got 3, expected a table",
    ]


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ('step = [{at = 1, do = "explode n1"}]', "step 1: 'explode' is no command: there are st"),
        ('step = [{at = 1, do = ""}]', "step 1: '' is no command"),
        ('step = [{at = 1, do = "kill n4/0"}]', "step 1: there is no node 'n4'"),
        ('[swarm]\nkinds = ["meteor"]', "'meteor' is no kind of fault: there are crash, power"),
    ],
)
def test_words_that_mean_nothing_are_told_before_anything_runs(written, says):
    """Faults, commands and nodes."""
    with pytest.raises(BadScenario, match=says):
        checked(parse("x", written))


def test_every_scenario_there_is_passes():
    """Those that come with meshsvc, and those of seeds that found something."""
    for name in [*names(), *(str(path) for path in FOUND.glob("*.toml"))]:
        checked(load(name))

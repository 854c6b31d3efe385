"""The life of a shard's processes: every event in every state, and the paths that matter."""

from __future__ import annotations

import pytest

from meshsvc.model import ShardId
from meshsvc.node.intensity import RestartIntensity
from meshsvc.node.worker import GaveUp, Kill, SendDrain, Spawn, Worker
from meshsvc.retry import fixed

STATES = [
    *("idle", "starting", "running", "killed", "waiting"),
    *("draining", "ending", "stopped", "failed"),
]


def worker(most=5):
    return Worker(ShardId(3), RestartIntensity(fixed(1.0), most, 60.0), start_s=30.0)


def kinds(made):
    return [type(effect).__name__ for effect in made.take_effects()]


def brought_to(state):
    """A worker in a state, its effects taken."""
    made = worker(most=0 if state == "failed" else 5)
    if state not in ("idle", "stopped"):
        made.start(0.0)
    if state == "running":
        made.ready(1.0)
    if state == "killed":
        made.silent(1.0)
    if state in ("waiting", "failed"):
        made.exited(1.0, "exit code 1")
    if state in ("draining", "ending"):
        made.drain(1.0, 31.0)
    if state == "ending":
        made.kill(2.0)
    if state == "stopped":
        made.drain(1.0, 31.0)
    assert made.state == state
    made.take_effects()
    return made


INPUTS = {
    "start": lambda made: made.start(2.0),
    "ready": lambda made: made.ready(2.0),
    "silent": lambda made: made.silent(2.0),
    "exited": lambda made: made.exited(2.0, "exit code 1"),
    "due": lambda made: made.tick(1e9),
    "drain": lambda made: made.drain(2.0, 32.0),
    "kill": lambda made: made.kill(2.0),
}

TABLE = {
    ("idle", "start"): ("starting", ["Spawn"]),
    ("idle", "drain"): ("stopped", []),
    ("idle", "kill"): ("stopped", []),
    ("starting", "ready"): ("running", []),
    ("starting", "silent"): ("killed", ["Kill"]),
    ("starting", "exited"): ("waiting", []),
    ("starting", "due"): ("killed", ["Kill"]),
    ("starting", "drain"): ("draining", ["SendDrain"]),
    ("starting", "kill"): ("ending", ["Kill"]),
    ("running", "silent"): ("killed", ["Kill"]),
    ("running", "exited"): ("waiting", []),
    ("running", "drain"): ("draining", ["SendDrain"]),
    ("running", "kill"): ("ending", ["Kill"]),
    ("killed", "exited"): ("waiting", []),
    ("killed", "drain"): ("ending", []),
    ("killed", "kill"): ("ending", []),
    ("waiting", "due"): ("starting", ["Spawn"]),
    ("waiting", "drain"): ("stopped", []),
    ("waiting", "kill"): ("stopped", []),
    ("draining", "exited"): ("stopped", []),
    ("draining", "due"): ("ending", ["Kill"]),
    ("draining", "kill"): ("ending", ["Kill"]),
    ("ending", "exited"): ("stopped", []),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("event", INPUTS)
def test_every_event_in_every_state(state, event):
    """Each pair is decided: a transition of the table, or nothing happens."""
    made = brought_to(state)
    INPUTS[event](made)
    assert (made.state, kinds(made)) == TABLE.get((state, event), (state, []))


@pytest.mark.contract("SHD-8")
def test_each_life_has_a_greater_incarnation():
    """A process that ended is started again after its pause, as the next incarnation."""
    made = worker()
    made.start(0.0)
    made.ready(1.0)
    made.exited(10.0, "killed by SIGKILL")
    assert made.deadline() == 11.0
    made.tick(10.9)
    assert made.state == "waiting"
    made.tick(11.0)
    assert made.take_effects() == [Spawn(1), Spawn(2)]
    assert (made.incarnation, made.restarts, made.cause) == (2, 1, "killed by SIGKILL")
    assert made.deadline() == 41.0


@pytest.mark.contract("SHD-8")
def test_gives_up_naming_shard_and_cause():
    """One end too many within the window: no restart, and a text for the exit."""
    made = worker(most=1)
    made.start(0.0)
    made.exited(1.0, "exit code 1")
    made.tick(2.0)
    made.exited(3.0, "killed by SIGSEGV")
    assert made.take_effects()[-1] == GaveUp(
        "shard 3 ended more than 1 times in 60 s, last: killed by SIGSEGV"
    )
    assert (made.over, made.deadline()) == (True, None)


@pytest.mark.contract("SHD-9")
def test_drain_has_one_budget():
    """The budget counts from the first signal; a repeat does not extend it."""
    made = brought_to("running")
    made.drain(100.0, 130.0)
    made.drain(120.0, 150.0)
    assert made.take_effects() == [SendDrain(30.0)]
    made.tick(130.0)
    assert made.take_effects() == [Kill("did not stop within its budget")]
    made.exited(131.0, "killed by SIGKILL")
    assert (made.over, made.wedged) == (True, True)


def test_late_start_says_how_late():
    """A process that does not get ready in time is killed with the reason."""
    made = brought_to("starting")
    made.tick(30.0)
    assert made.take_effects() == [Kill("not ready within 30 s")]


class TestIntensity:
    """How often is too often."""

    def test_pause_grows_with_the_ends_in_the_window(self):
        """The policy is asked with the number of ends in the window."""
        intensity = RestartIntensity(float, most=3, window_s=60.0)
        assert [intensity.ended(at) for at in (0.0, 1.0, 2.0, 3.0)] == [1.0, 2.0, 3.0, None]

    def test_a_good_run_is_remembered(self):
        """Ends that are older than the window do not count."""
        intensity = RestartIntensity(float, most=1, window_s=60.0)
        assert [intensity.ended(at) for at in (0.0, 60.0, 120.0)] == [1.0, 1.0, 1.0]
        assert intensity.ended(179.0) is None

    def test_no_restarts_at_all(self):
        """A limit of 0 gives up at the first end."""
        assert RestartIntensity(float, most=0, window_s=60.0).ended(0.0) is None

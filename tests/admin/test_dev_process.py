"""``meshsvc dev`` as a process, over nodes that only look like nodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKE_NODE = Path(__file__).with_name("fake_node.py")

DEV = """
import sys
from pathlib import Path
from meshsvc.admin.cli.dev import run_cluster
from meshsvc.admin.cli.exits import CliError
try:
    sys.exit(run_cluster(Path(sys.argv[1]), 2, 1, heal=sys.argv[2] == "heal", command=sys.argv[3:]))
except CliError as error:
    print(error)
    sys.exit(error.code)
"""


class Dev:
    """One run of dev; what it prints is what tells a test that something has happened."""

    def __init__(self, folder, mode="", command=(sys.executable, str(FAKE_NODE))):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", DEV, str(folder), mode, *command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines = []

    def until(self, words):
        """Read what it prints until a line has these words in it."""
        for line in self.process.stdout:
            self.lines.append(line)
            if words in line:
                return line
        raise AssertionError(f"dev ended without {words!r}:\n" + "".join(self.lines))

    def stop(self, number=signal.SIGTERM):
        """Signal it, and return its exit code."""
        self.process.send_signal(number)
        self.lines += self.process.stdout.readlines()
        return self.process.wait(30)

    def nodes(self):
        """The rows of cluster.json by name."""
        found = json.loads((self.folder / "cluster.json").read_text())
        assert found["cluster"] == "dev"
        return {row["name"]: row for row in found["nodes"]}


@pytest.fixture
def dev(tmp_path):
    """Starts dev in one folder; whatever it leaves running is killed."""
    started = []

    def start(mode="", **options):
        started.append(Dev(tmp_path, mode, **options))
        return started[-1]

    yield start
    pids = set()
    for each in started:
        with suppress(OSError, ValueError):
            pids |= {row["pid"] for row in each.nodes().values()} - {None}
        each.process.kill()
        each.process.communicate()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def alive(pid):
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.contract("OPS-1")
def test_a_cluster_starts_shows_itself_and_stops(dev):
    """Progress, a table, cluster.json; SIGTERM ends every node and dev with 0."""
    run = dev()
    run.until("formed in")
    run.until("Ctrl-C stops all nodes")
    nodes = run.nodes()
    assert list(nodes) == ["n1", "n2"]
    for row in nodes.values():
        assert alive(row["pid"])
        assert row["shards"] == [{"index": 0, "pid": row["pid"]}]
        assert Path(row["config"]).exists()
    assert any(line.split()[:2] == ["n1", str(nodes["n1"]["pid"])] for line in run.lines)
    assert run.stop() == 0
    assert not any(alive(row["pid"]) for row in nodes.values())
    assert [row["pid"] for row in run.nodes().values()] == [None, None]


def test_the_same_folder_gives_the_same_ports(dev):
    """Started again, the cluster is found where it was."""
    first = dev()
    first.until("Ctrl-C stops")
    before = first.nodes()
    assert first.stop(signal.SIGINT) == 0
    second = dev()
    second.until("Ctrl-C stops")
    after = second.nodes()
    same = ("peer", "admin", "client", "config", "data_dir")
    assert [[row[key] for key in same] for row in after.values()] == [
        [row[key] for key in same] for row in before.values()
    ]
    assert second.stop() == 0


def test_a_killed_node_stays_down_until_it_is_started_by_hand(dev):
    """Its pid leaves cluster.json, the command to start it is printed, and it is adopted."""
    run = dev()
    run.until("Ctrl-C stops")
    node = run.nodes()["n2"]
    os.kill(node["pid"], signal.SIGKILL)
    assert "killed by SIGKILL" in run.until("n2 is down")
    assert f"meshsvc run --config {node['config']}" in run.until("meshsvc run")
    by_hand = subprocess.Popen([sys.executable, FAKE_NODE, node["config"]])
    assert f"(pid {by_hand.pid})" in run.until("n2 is back, started by hand")
    assert run.stop() == 0
    assert by_hand.wait(5) == 0


def test_heal_restarts_a_killed_node(dev):
    """With --heal nobody has to do anything."""
    run = dev("heal")
    run.until("Ctrl-C stops")
    before = run.nodes()["n2"]["pid"]
    os.kill(before, signal.SIGKILL)
    assert "restarting it" in run.until("n2 is down")
    after = int(run.until("n2 restarted").split("pid ")[1].strip(")\n"))
    assert after != before
    assert alive(after)
    assert run.stop() == 0
    assert not alive(after)


def test_nodes_survive_dev_and_are_adopted_by_the_next(dev):
    """Killing dev costs nothing: the next one has the same processes."""
    first = dev()
    first.until("Ctrl-C stops")
    before = first.nodes()
    first.process.kill()
    first.process.wait()
    second = dev()
    second.until("Ctrl-C stops")
    assert second.nodes() == before
    assert second.stop() == 0
    assert [row["pid"] for row in second.nodes().values()] == [None, None]


def test_a_folder_in_use_is_refused(dev):
    """Two devs would fight for the same nodes; the second says who has it."""
    first = dev()
    first.until("Ctrl-C stops")
    second = dev()
    assert f"in use by another dev (pid {first.process.pid})" in second.until("in use")
    assert second.process.wait(10) == 75
    assert first.stop() == 0


@pytest.mark.parametrize(("node_exit", "code"), [(78, 78), (5, 1)])
def test_a_node_that_cannot_start_ends_the_start(dev, node_exit, code):
    """Its exit code and the end of its log are shown; dev ends with a code that says why."""
    text = f"import sys; print('the reason'); sys.exit({node_exit})"
    run = dev(command=(sys.executable, "-c", text))
    assert f"exit code {node_exit}" in run.until("ends with:")
    run.until("the reason")
    assert run.process.wait(10) == code
    assert not (run.folder / "cluster.json").exists()


def test_a_stop_while_starting_is_a_stop(dev):
    """Ctrl-C before the cluster is formed ends what was started."""
    run = dev(command=(sys.executable, "-c", "import time; time.sleep(60)"))
    run.until("no answer yet")
    assert run.stop() == 0

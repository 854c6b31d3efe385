"""Two nodes that find each other through a file, over real processes, as a user would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request

import pytest
from dev_cluster import MESHSVC, free_port, wait_until

CONFIG = """
[node]
name = "{name}"
cluster = "found"
data_dir = "{folder}/data"
cpu_allocation = 1
applications = []
pin_cores = false
[listen]
peer = "{peer}"
admin = "{admin}"
[discovery]
backend = "file"
[discovery.options]
path = "{peers}"
[mesh]
roster = ["n1", "n2"]
start_wait = "200 ms"
"""


class Node:
    """``meshsvc run`` on ports of its own, in a folder."""

    def __init__(self, folder, name, peers):
        folder.mkdir()
        self.folder, self.name = folder, name
        self.peer, self.admin = (f"127.0.0.1:{free_port()}" for _ in range(2))
        text = CONFIG.format(peers=peers, **vars(self))
        (folder / "meshsvc.toml").write_text(text)
        self.process = None

    def start(self):
        with (self.folder / "log").open("ab") as log:
            command = [MESHSVC, "run", "--config", str(self.folder / "meshsvc.toml")]
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(40)

    def cli(self, *arguments):
        """(exit code, parsed output, what it said on stderr) of a command with -o json."""
        ended = subprocess.run(
            [MESHSVC, *arguments, "-o", "json"],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "MESHSVC_ADMIN": f"http://{self.admin}"},
            check=False,
        )
        return ended.returncode, json.loads(ended.stdout or "null"), ended.stderr

    def alive(self):
        code, rows, _ = self.cli("members")
        return code == 0 and {row["name"] for row in rows if row["status"] == "alive"}


@pytest.fixture
def nodes(tmp_path):
    """Two nodes that run, and know of each other by nothing but a file that is not there."""
    made = [Node(tmp_path / name, name, tmp_path / "peers") for name in ("n1", "n2")]
    for node in made:
        node.start()
    yield made
    for node in made:
        if node.process.poll() is None:
            node.end()


@pytest.mark.slow
@pytest.mark.contract("DISC-4", "DISC-5", "DISC-6", "GSP-11")
def test_a_file_that_appears_later_brings_a_cluster_together(nodes, tmp_path):
    """Not ready with the reason, then ready; killed at once, they find each other by memory."""
    n1, n2 = nodes
    peers = tmp_path / "peers"
    wait_until(lambda: n1.cli("ready")[0] == 1, 20.0, "n1 answers")
    code, row, err = n1.cli("wait", "--ready", "--timeout", "0.5")
    assert (code, row["ready"], err) == (1, False, "")
    assert any("No such file" in reason for reason in row["reasons"]), row

    peers.write_text(f"# both\r\n{n1.peer} {n2.peer}\n")
    for node in nodes:
        assert node.cli("wait", "--ready", "--timeout", "30")[:2] == (
            0,
            {"ready": True, "reasons": []},
        )
        code, row, _ = node.cli("discovery")
        assert code == 0
        assert row["joined_nodes"] == row["discovered_nodes"] == ["n1", "n2"]
    wait_until(lambda: gauges(n1).get("discovery_discovered_nodes") == 2.0, 10.0, "the gauge")

    wait_until((n2.folder / "data/peers").exists, 15.0, "n2 wrote down its peers")
    for node in nodes:
        node.end(signal.SIGKILL)
    peers.write_text("garbage")
    for node in nodes:
        node.start()
    both = {"n1", "n2"}
    wait_until(lambda: all(node.alive() == both for node in nodes), 30.0, "they met again")
    code, row, _ = n1.cli("discovery")
    assert code == 1
    assert "'garbage' is not an address" in row["reason"]


def gauges(node):
    """{series: value} of the discovery series, without their labels."""
    with urllib.request.urlopen(f"http://{node.admin}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    rows = (line.rsplit(" ", 1) for line in lines if line.startswith("discovery_"))
    return {series.partition("{")[0]: float(value) for series, value in rows}

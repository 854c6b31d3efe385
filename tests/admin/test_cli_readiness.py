"""ready, wait and discovery against a fake admin server: what they print, how they end."""

from __future__ import annotations

import json
import re
import socket

import pytest

from meshsvc.admin.cli import exits, readiness
from meshsvc.admin.cli.main import main

WELL = {
    "backend": "dns",
    "phase": "regular",
    "discovery_works": True,
    "reason": "",
    "available_nodes": ["n1", "n2"],
    "joined_nodes": ["n1", "n2"],
    "discovered_nodes": ["n1", "n2"],
    "unavailable_nodes": [],
    "silent_nodes": [],
    "conflict_nodes": [],
    "places": [{"address": "h:1", "node": "n1", "standing": "this node", "reason": ""}],
    "history": [{"ago_s": 3.0, "node": "n2", "what": "up"}],
    "missing": [],
}


@pytest.fixture
def cli(fake, capsys, monkeypatch):
    """Runs a command against the fake: (exit code, stdout, stderr)."""
    monkeypatch.setenv("MESHSVC_ADMIN", fake.url)

    def cli(*arguments):
        code = main(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return cli


def test_ready_reads_a_503(cli, fake):
    """Not ready is an answer, not an error."""
    fake.answers["GET", "/readyz"] = (503, {"ready": False, "reasons": ["no epoch"]})
    code, out, _ = cli("ready", "-o", "jsonl")
    assert (code, json.loads(out)) == (1, {"ready": False, "reasons": ["no epoch"]})


@pytest.mark.contract("DISC-4", "OPS-3")
def test_wait_ends_as_soon_as_the_node_is_ready(cli, fake):
    """Ready at once is success at once; never ready is 1 after the time-out."""
    fake.answers["GET", "/readyz"] = (200, {"ready": True, "reasons": []})
    assert cli("wait")[0] == exits.OK
    assert cli("wait", "--ready", "--timeout", "60")[0] == exits.OK
    fake.answers["GET", "/readyz"] = (503, {"ready": False, "reasons": ["no epoch"]})
    code, out, _ = cli("wait", "--timeout", "0.01")
    assert code == exits.UNHEALTHY
    assert "no epoch" in out


@pytest.mark.contract("OPS-3")
def test_wait_tells_an_unreachable_node_from_one_that_is_not_ready(cli):
    """69 when nobody answered to the end, so that a script can tell what to look at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    code, out, _ = cli("--admin", f"http://127.0.0.1:{port}", "wait", "--timeout", "0.01")
    assert code == exits.UNREACHABLE
    assert "cannot reach a node" in out


def test_waiting_shows_for_what_on_a_terminal_only(cli, fake, monkeypatch):
    """One line that is written over, with nothing in it that steers the terminal."""
    answer = {"ready": False, "reasons": ["n2 \x1b[31mis late"]}
    fake.answers["GET", "/readyz"] = (503, answer)
    assert cli("wait", "--timeout", "0.01")[2] == ""
    monkeypatch.setattr(readiness.sys.stderr, "isatty", lambda: True)
    _, _, err = cli("wait", "--timeout", "0.3")
    assert err.startswith("\r\x1b[Kwaiting: n2 \\x1b[31mis late")
    assert err.endswith("\r\x1b[K")


@pytest.mark.contract("DISC-6", "OPS-3")
def test_discovery_is_a_table_or_json(cli, fake):
    """The JSON is what the node says; the table leaves out what is empty."""
    fake.answers["GET", "/v1/discovery"] = (200, WELL)
    code, out, _ = cli("discovery", "-o", "json")
    assert (code, json.loads(out)) == (exits.OK, WELL)
    out = cli("discovery")[1]
    assert re.search(r"backend +dns\n", out)
    assert re.search(r"joined_nodes +n1, n2\n", out)
    assert re.search(r"h:1 +n1 +this node +-\n", out)
    assert "conflict" not in out


@pytest.mark.contract("DISC-6", "OPS-3")
@pytest.mark.parametrize(
    "trouble",
    [
        {"discovery_works": False, "reason": "no answer in 10 s"},
        {"unavailable_nodes": ["n3"]},
        {"silent_nodes": ["n2"]},
        {"conflict_nodes": ["n2"]},
    ],
)
def test_discovery_that_is_not_well_is_1(cli, fake, trouble):
    """For scripts: a check that failed, or nodes that cannot be reached or agreed with."""
    fake.answers["GET", "/v1/discovery"] = (200, WELL | trouble)
    assert cli("discovery")[0] == exits.UNHEALTHY

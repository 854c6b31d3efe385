"""The command line against a fake admin server: what it prints, and how it ends."""

from __future__ import annotations

import io
import json
import re
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from meshsvc.admin.cli import exits, run
from meshsvc.admin.cli.output import cell, table

ROOT = Path(__file__).parents[2]
MEMBERS = [
    {"name": "n1", "id": "a" * 32, "status": "alive", "generation": 7, "address": "h:1"},
    {"name": "n2", "id": "b" * 32, "status": "dead", "generation": 9, "address": "h:2"},
]
MESH = {
    "epoch": "3.1",
    "state": "formed",
    "roster": ["n1", "n2"],
    "links": [{"peer": "n2", "state": "up", "epoch": "3.1", "owner_shard": 1, "rtt_ms": 0.25}],
}


@pytest.fixture
def cli(run_cli):
    return run_cli


# --- questions ---------------------------------------------------------------------------------


@pytest.mark.contract("OPS-3")
def test_members_in_three_forms(cli, fake):
    """A table for people, a list for programs, a line each for pipes."""
    fake.answers["GET", "/v1/members"] = (200, MEMBERS)
    code, out, _ = cli("members")
    assert code == 0
    assert out.splitlines() == [
        "NAME  ID        STATUS  GENERATION  ADDRESS  SHARDS  RTT_MS",
        "n1    aaaaaaaa  alive            7  h:1           -       -",
        "n2    bbbbbbbb  dead             9  h:2           -       -",
    ]
    assert json.loads(cli("members", "-o", "json")[1]) == MEMBERS
    assert [json.loads(line) for line in cli("-o", "jsonl", "members")[1].splitlines()] == MEMBERS


@pytest.mark.contract("OPS-3")
def test_mesh_shows_epoch_roster_and_links(cli, fake):
    """The JSON is what the node says; the table has the same in it."""
    fake.answers["GET", "/v1/mesh"] = (200, MESH)
    assert json.loads(cli("mesh", "-o", "json")[1]) == MESH
    out = cli("mesh")[1]
    assert re.search(r"epoch +3\.1\nstate +formed\nroster +n1, n2\n", out)
    assert re.search(r"n2 +up +3\.1 +1 +0\.25", out)


def test_status_is_unhealthy_when_not_ready(cli, fake):
    """The exit code tells a script what the table tells people."""
    row = {"name": "n1", "epoch": "3.1", "ready": True, "reasons": []}
    fake.answers["GET", "/v1/status"] = (200, row)
    assert cli("status")[0] == exits.OK
    fake.answers["GET", "/v1/status"] = (200, row | {"ready": False, "reasons": ["shard 1"]})
    code, out, _ = cli("status")
    assert code == exits.UNHEALTHY
    assert re.search(r"ready +no\nreasons +shard 1", out)


def test_status_tells_the_alive_from_the_known(cli, fake):
    """People are told how many are alive; programs get both numbers as they are."""
    row = {"name": "n1", "ready": True, "members": 5, "members_alive": 3}
    fake.answers["GET", "/v1/status"] = (200, row)
    assert re.search(r"members +3 alive of 5\n", cli("status")[1])
    assert json.loads(cli("status", "-o", "json")[1]) == row


def test_a_closed_output_is_no_fault(fake):
    """`meshsvc members >&-` prints nowhere and is fine; no socket is left open either."""
    fake.answers["GET", "/v1/members"] = (200, MEMBERS)
    python = [sys.executable, "-W", "error", "-m", "meshsvc.admin.cli.main"]
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *python, "--admin", fake.url, "members"]
    ended = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_shards_are_listed(cli, fake):
    """One row per shard."""
    fake.answers["GET", "/v1/shards"] = (200, [{"index": 0, "pid": 7, "state": "ready"}])
    code, out, _ = cli("shards")
    assert code == 0
    assert re.search(r"    0 +7 +ready", out)


def test_a_broken_plugin_is_shown_with_its_traceback(cli, fake):
    """The table has the last line, the whole traceback follows, and the exit code says it."""
    good = {"name": "a", "interface": "IMeshApplication", "state": "running", "error": None}
    bad = good | {"name": "b", "state": "broken", "error": "Traceback:\n  line\nOSError: x"}
    fake.answers["GET", "/v1/plugins"] = (200, [good, bad])
    code, out, _ = cli("plugins")
    assert code == exits.UNHEALTHY
    assert re.search(r"b +IMeshApplication +broken +OSError: x\n", out)
    assert "\nb:\n  Traceback:\n    line\n  OSError: x\n" in out
    fake.answers["GET", "/v1/plugins"] = (200, [good])
    assert cli("plugins", "-o", "json")[0] == exits.OK


def test_the_mesh_is_formed_by_hand(cli, fake):
    """The epoch goes out as it was written; a wrong one never leaves."""
    fake.answers["POST", "/v1/mesh/form"] = (200, MESH)
    assert json.loads(cli("mesh", "form", "--epoch", "3.1", "-o", "json")[1]) == MESH
    assert fake.asked == [("POST", "/v1/mesh/form", {"epoch": "3.1"})]
    code, _, err = cli("mesh", "form", "--epoch", "3")
    assert code == exits.USAGE
    assert "write TERM.ATTEMPT" in err
    assert len(fake.asked) == 1


# --- call --------------------------------------------------------------------------------------


@pytest.mark.contract("VERB-1")
@pytest.mark.parametrize("target", ["n1", "n1/1", "key:user:17"])
def test_a_call_prints_the_reply(cli, fake, target):
    """Each form of target is handed on with verb, payload and time-out."""
    fake.answers["POST", "/v1/call"] = (200, {"reply": {"tokens": 3}})
    code, out, _ = cli("call", target, "rate.take", '{"key": "a"}', "--timeout", "2")
    assert (code, json.loads(out)) == (0, {"tokens": 3})
    asked = {"target": target, "verb": "rate.take", "payload": {"key": "a"}, "timeout_s": 2.0}
    assert fake.asked == [("POST", "/v1/call", asked)]


def test_a_payload_is_null_or_comes_from_stdin(cli, fake, monkeypatch):
    """Without a payload it is null; "-" reads it."""
    fake.answers["POST", "/v1/call"] = (200, {"reply": None})
    assert cli("call", "n1", "sys.info")[:2] == (0, "null\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("[1]"))
    cli("call", "n1", "sys.echo", "-")
    assert [body["payload"] for _, _, body in fake.asked] == [None, [1]]


def test_answers_of_all_nodes_are_a_table(cli, fake):
    """Each node has a row; one that failed has its kind, and the exit code says so."""
    error = {"kind": "TimedOut", "text": "after 1 s"}
    answers = [{"node": "n1", "reply": 1}, {"node": "n2", "error": error}]
    fake.answers["POST", "/v1/call"] = (200, {"reply": answers})
    code, out, _ = cli("call", "all", "sys.info")
    assert code == exits.RETRY
    assert re.search(r"n1 +1 +-\nn2 +- +TimedOut: after 1 s", out)
    assert json.loads(cli("call", "all", "sys.info", "-o", "json")[1]) == answers
    fake.answers["POST", "/v1/call"] = (200, {"reply": answers[:1]})
    assert cli("call", "all", "sys.info")[0] == exits.OK


@pytest.mark.contract("OPS-3")
@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (404, "UnknownVerb", exits.UNHEALTHY),
        (502, "HandlerFailed", exits.UNHEALTHY),
        (503, "Cancelled", exits.UNHEALTHY),
        (404, "NoSuchTarget", exits.UNHEALTHY),
        (504, "TimedOut", exits.RETRY),
        (503, "Disconnected", exits.RETRY),
        (503, "Overloaded", exits.RETRY),
        (503, "Fenced", exits.RETRY),
        (503, "NoOwner", exits.RETRY),
        (409, "EpochConflict", exits.UNHEALTHY),
        (403, "HostRefused", exits.DENIED),
        (400, "BadRequest", exits.USAGE),
        (413, "BodyTooLarge", exits.USAGE),
        (500, "Internal", exits.BUG),
    ],
)
def test_each_error_has_its_exit_code(cli, fake, status, kind, code):
    """The kind is printed with whom it came from; what can be retried is 75."""
    fake.error("POST", "/v1/call", status, kind)
    got, out, err = cli("call", "n1", "x")
    assert (got, out) == (code, "")
    assert err.startswith(f"meshsvc: {fake.url} answered {kind}: because")
    assert ("trying again can help" in err) == (code == exits.RETRY)


# --- events ------------------------------------------------------------------------------------


def test_events_are_printed_without_heartbeats(cli, fake):
    """What happened, one line each; heartbeats are for the connection alone."""
    lines = [
        {"type": "alive", "at": 0, "node": "n2", "address": "h:2"},
        {"type": "heartbeat"},
        {"type": "dead", "node": "n2\x1b[31m"},
    ]
    stream = b"".join(json.dumps(each).encode() + b"\n" for each in lines)
    fake.answers["GET", "/v1/events?follow=0"] = (200, stream)
    fake.answers["GET", "/v1/events?follow=1"] = (200, stream)
    out = cli("events")[1].splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d  alive  n2  address=h:2", out[0])
    assert out[1] == "-  dead  n2\\x1b[31m"
    assert len(json.loads(cli("events", "-o", "json")[1])) == 2
    assert len(cli("events", "--follow", "--limit", "1", "-o", "json")[1].splitlines()) == 1


# --- failures ----------------------------------------------------------------------------------


@pytest.mark.contract("OPS-3")
def test_a_node_that_is_not_there_is_69(cli):
    """The error says where it looked and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    code, out, err = cli("--admin", f"http://127.0.0.1:{port}", "members")
    assert (code, out) == (exits.UNREACHABLE, "")
    assert f"cannot reach a node at http://127.0.0.1:{port}: Connection refused" in err
    assert "meshsvc run --config FILE" in err


@pytest.mark.parametrize("value", [(200, b"<html>"), (500, b"oops"), (302, b"")])
def test_another_service_is_not_taken_for_a_node(cli, fake, value):
    """An answer that no node gives is said to be that."""
    fake.answers["GET", "/v1/members"] = value
    code, _, err = cli("members")
    assert code == exits.UNREACHABLE
    assert "another service's port" in err


@pytest.mark.contract("OPS-3")
@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("fly",),
        ("members", "-o", "xml"),
        ("call", "n1"),
        ("call", "N 1", "x"),
        ("call", "n1", "x", "{"),
        ("call", "n1", "x", "--timeout", "0"),
        ("members", "--admin", "ftp://x"),
        ("members", "--admin", "http://x:port"),
        ("events", "--limit", "0"),
        ("dev", "--nodes", "0"),
        ("config",),
    ],
)
def test_wrong_usage_is_64(cli, arguments):
    """sysexits.h, not argparse's own 2; and nothing on stdout."""
    code, out, err = cli(*arguments)
    assert (code, out) == (exits.USAGE, "")
    assert "meshsvc" in err


def test_a_fault_of_ours_is_70_with_a_traceback(cli, fake):
    """What nobody foresaw is reported as such."""
    fake.answers["GET", "/v1/members"] = (200, 5)
    code, _, err = cli("members")
    assert code == exits.BUG
    assert "Traceback" in err
    assert "please report it" in err


# --- config ------------------------------------------------------------------------------------


def test_config_check_says_ok_or_everything_that_is_wrong(cli, tmp_path):
    """0 and one line, or 78 and a line for each problem."""
    assert cli("config", "check", str(ROOT / "etc" / "meshsvc.toml"))[0] == exits.OK
    path = tmp_path / "x.toml"
    path.write_text('[node]\nnaem = "n1"\n')
    code, out, err = cli("config", "check", str(path))
    assert (code, out) == (exits.CONFIG, "")
    assert f"{path}:2: node.naem: unknown key" in err
    assert "5 problems" not in err
    assert "4 problems" in err
    code, out, _ = cli("config", "check", str(path), "-o", "json")
    assert code == exits.CONFIG
    assert len(json.loads(out)["problems"]) == 4


def test_config_show_tells_origins(cli, monkeypatch):
    """Each value comes with the place that set it."""
    monkeypatch.setenv("MESHSVC_GOSSIP__INTERVAL", "2 s")
    path = str(ROOT / "etc" / "meshsvc.toml")
    arguments = ("config", "show", "--origin", path, "--set", "applications.rate.limit=5")
    out = cli(*arguments)[1]
    assert re.search(rf'name = "n1" +# {path}:\d+\n', out)
    assert re.search(r'interval = "2 s" +# environment MESHSVC_GOSSIP__INTERVAL\n', out)
    assert re.search(r"pin_cores = true +# default\n", out)
    assert re.search(r"\[applications\.rate\]\nlimit = 5 +# flag --set applications", out)
    rows = json.loads(cli(*arguments, "-o", "json")[1])
    assert rows["gossip.interval"]["value"] == "2 s"
    assert rows["mesh.controller"] == {"value": "static", "origin": "default"}


# --- run ---------------------------------------------------------------------------------------


@pytest.mark.contract("OPS-1")
def test_run_is_twistd(monkeypatch):
    """Every argument goes to the plugin's own subcommand, in the foreground, without pid file."""
    seen = []
    monkeypatch.setattr("twisted.scripts.twistd.run", lambda: seen.append(sys.argv))
    monkeypatch.setattr(sys, "argv", ["meshsvc"])
    assert run.run(["--config", "f"]) == 0
    assert seen == [["twistd", "--nodaemon", "--pidfile=", "meshsvc", "run", "--config", "f"]]


# --- speed -------------------------------------------------------------------------------------


@pytest.mark.contract("OPS-3")
def test_a_verb_takes_less_than_300_ms_and_no_twisted(fake):
    """Processor time, since that is what the command itself can do about it."""
    fake.answers["GET", "/v1/members"] = (200, MEMBERS)
    code = (
        "import sys; from meshsvc.admin.cli.main import main;"
        "code = main(['members', '--admin', sys.argv[1]]);"
        "sys.exit(code or any(m.split('.')[0] in ('twisted', 'zope', 'cbor2')"
        " for m in sys.modules))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code, fake.url], cwd=ROOT, capture_output=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert done.stdout
    assert took_s < 0.3


# --- tables ------------------------------------------------------------------------------------


def test_cells_are_one_safe_line():
    """Nothing a remote node says can move the cursor or break a row."""
    assert cell(None) == "-"
    assert cell(True) == "yes"
    assert cell(["a", "b"]) == "a, b"
    assert cell({"a": 1, "b": "x"}) == "a=1, b=x"
    assert cell("a\x1b[2J\nb") == "a\\x1b[2J\\nb"
    assert cell({"a": [1]}) == '{"a": [1]}'


def test_a_table_without_rows_has_its_heads():
    """An empty answer still says what was asked."""
    assert table([], ["name", "pid"]) == "NAME  PID"


# --- events and queries ------------------------------------------------------------------------


@pytest.mark.contract("GSP-12")
def test_an_event_is_sent(cli, fake):
    """The name and the JSON payload go to the node, which says that it sent it."""
    fake.answers["POST", "/v1/events"] = (200, {"sent": True, "name": "deploy"})
    assert cli("events", "send", "deploy", '{"v": 1}')[:2] == (0, "sent deploy\n")
    asked = {"name": "deploy", "payload": {"v": 1}, "coalesce": False}
    assert fake.asked == [("POST", "/v1/events", asked)]
    _, out, _ = cli("events", "send", "deploy", "--coalesce", "-o", "json")
    assert json.loads(out) == {"sent": True, "name": "deploy"}
    assert fake.asked[1][2] == {"name": "deploy", "payload": None, "coalesce": True}
    fake.error("POST", "/v1/events", 400, "TooLarge")
    assert cli("events", "send", "deploy")[0] == exits.USAGE


@pytest.mark.contract("GSP-12")
def test_a_query_prints_answers_and_names_who_is_missing(cli, fake):
    """All answers: 0. Somebody missing: named, with the exit code of the reason."""
    answers = [{"node": "n1", "reply": "pong"}, {"node": "n2", "reply": "pong"}]
    fake.answers["POST", "/v1/query"] = (200, {"answers": answers, "missing": []})
    code, out, err = cli("query", "ping", "--timeout", "2")
    assert (code, err) == (0, "")
    assert out.split() == ["NODE", "REPLY", "ERROR", "n1", '"pong"', "-", "n2", '"pong"', "-"]
    assert fake.asked[0][2] == {"name": "ping", "payload": None, "timeout_s": 2.0}
    late = {"node": "n2", "error": {"kind": "TimedOut", "text": "late"}}
    fake.answers["POST", "/v1/query"] = (200, {"answers": [answers[0], late], "missing": ["n2"]})
    code, out, err = cli("query", "ping", "--node", "n1", "--node", "n2", "--tag", "zone=eu")
    assert code == exits.RETRY
    assert "TimedOut: late" in out
    assert err == "1 of 2 answered; missing: n2\n"
    asked = fake.asked[1][2]
    assert (asked["nodes"], asked["tags"]) == (["n1", "n2"], {"zone": "eu"})
    _, out, err = cli("query", "ping", "-o", "json")
    assert json.loads(out) == [answers[0], late]
    assert err == ""
    assert cli("query", "ping", "--tag", "zone")[0] == exits.USAGE
    assert cli("query", "ping", "not json")[0] == exits.USAGE

"""``meshsvc tables``: what it sends, how it ends, and what it prints, without a node."""

from __future__ import annotations

import json

import pytest

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.main import main
from meshsvc.admin.cli.progress import Progress, bar

HEAD = {"table": {"name": "t", "keys": 2}}
ROWS = [
    {"key": "a", "value": {"base64": "AAE="}, "version": 7, "owner": "n1"},
    {"key": 2, "value": [1, None], "version": 8},
]
DUMP = ("GET", "/v1/tables/dump?table=t")


def stream(*lines):
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def run(fake, *args):
    return main(["--admin", fake.url, "tables", *args])


@pytest.mark.contract("OPS-3")
@pytest.mark.parametrize("output", ["table", "json", "jsonl"])
def test_a_dump_is_printed_as_asked(fake, capsys, output):
    """Rows and nothing else: the lines around them are for the client."""
    fake.answers[DUMP] = (200, stream(HEAD, *ROWS, {"end": 2}))
    assert run(fake, "dump", "t", "-o", output) == exits.OK
    out = capsys.readouterr().out
    if output == "json":
        assert json.loads(out) == ROWS
    elif output == "jsonl":
        assert [json.loads(line) for line in out.splitlines()] == ROWS
    else:
        heads, first, second = out.splitlines()
        assert heads.split() == ["KEY", "VALUE", "VERSION", "OWNER"]
        assert first.split(maxsplit=1)[0] == "a"
        assert '{"base64": "AAE="}' in first
        assert second.split()[0] == "2"


@pytest.mark.contract("OPS-3")
def test_half_a_dump_is_a_failure(fake, capsys):
    """A stream that ends early ends the command with 69, whatever was printed."""
    fake.answers[DUMP] = (200, stream(HEAD, ROWS[0]))
    assert run(fake, "dump", "t", "-o", "jsonl") == exits.UNREACHABLE
    assert "after 1 of 2 rows" in capsys.readouterr().err


def test_an_empty_table_is_a_list_of_none(fake, capsys):
    """JSON stays JSON."""
    fake.answers[DUMP] = (200, stream(HEAD, {"end": 0}))
    assert run(fake, "dump", "t", "-o", "json") == exits.OK
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("args", "key"),
    [
        (["17"], "17"),
        (["17", "--json-key"], 17),
        (['{"base64": "AA=="}', "--json-key"], {"base64": "AA=="}),
    ],
)
def test_a_key_is_text_unless_it_is_json(fake, args, key):
    """The shell has only texts: another key is asked for."""
    fake.answers["POST", "/v1/tables/get"] = (200, {"table": "t", "rows": ROWS[:1]})
    assert run(fake, "get", "t", *args) == exits.OK
    assert fake.asked[-1][2] == {"table": "t", "key": key}


@pytest.mark.contract("OPS-3", "TBL-2")
@pytest.mark.parametrize(
    ("result", "code"),
    [
        ({"ok": True, "changed": 1}, exits.OK),
        ({"ok": True, "changed": 0}, exits.UNHEALTHY),
        ({"ok": False, "changed": 1, "lost": {"n2": "no answer"}}, exits.UNHEALTHY),
    ],
)
def test_a_write_that_not_everybody_has_ends_with_1(fake, capsys, result, code):
    """The result says who; the exit code says that somebody is missing."""
    fake.answers["POST", "/v1/tables/put"] = (200, result)
    fake.answers["POST", "/v1/tables/delete"] = (200, result)
    assert run(fake, "put", "t", "k", "1") == code
    assert run(fake, "delete", "t", "k", "--if-value", "1", "-o", "jsonl") == code
    assert fake.asked[-1][2] == {"table": "t", "key": "k", "if_value": 1, "timeout_s": 5.0}
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result


@pytest.mark.contract("OPS-3")
@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("NoSuchTable", 404, exits.UNHEALTHY),
        ("NoSuchKey", 404, exits.UNHEALTHY),
        ("BadKey", 400, exits.USAGE),
        ("TooManyStreams", 503, exits.RETRY),
    ],
)
def test_errors_end_as_documented(fake, kind, status, code):
    """What is not there is no wrong usage."""
    for path in ("get", "dump?table=t"):
        method = "GET" if "?" in path else "POST"
        fake.error(method, f"/v1/tables/{path}", status, kind)
    assert run(fake, "get", "t", "k") == code
    assert run(fake, "dump", "t") == code


@pytest.mark.parametrize(
    "args",
    [
        ["put", "t", "k", "no json"],
        ["get", "t", "no json", "--json-key"],
        ["diff", "t", "--limit", "0"],
        ["put", "t", "k", "1", "--timeout", "nan"],
        ["join-status", "--wait", "-1"],
        ["delete", "t"],
        [],
    ],
)
def test_wrong_usage_ends_with_64(fake, args):
    """Before anything is asked."""
    try:
        code = run(fake, *args)
    except SystemExit as error:
        code = error.code
    assert (code, fake.asked) == (exits.USAGE, [])


@pytest.mark.contract("OPS-3")
def test_a_difference_ends_with_1(fake, capsys):
    """The keys are named with who holds what."""
    report = {
        "table": "t",
        "equal": False,
        "replicas": [{"replica": "n1/0", "rows": 1, "tombstones": 0, "content": "A"}],
        "silent": [],
        "differing": [
            {
                "key": "a",
                "behind": ["n2/0"],
                "versions": {
                    "n1/0": {"version": 9, "deleted": True, "writer": "n1/0"},
                    "n2/0": None,
                },
            }
        ],
        "complete": True,
        "buckets_differing": 1,
    }
    fake.answers["POST", "/v1/tables/diff"] = (200, report)
    assert run(fake, "diff", "t", "n1", "n2") == exits.UNHEALTHY
    assert fake.asked[-1][2] == {"table": "t", "nodes": ["n1", "n2"], "limit": 100}
    out = capsys.readouterr().out
    assert "n1/0: 9 deleted by n1/0; n2/0: missing" in out
    assert run(fake, "diff", "t", "-o", "json") == exits.UNHEALTHY
    assert json.loads(capsys.readouterr().out) == report


def test_join_status_says_who_is_apart(fake, capsys):
    """A member that does not hold the table is no reason for 1; one that fails is."""
    rows = [
        {"table": "t", "node": "n2", "phase": "absent", "why": "", "tries": 0, "moved": 0, "of": 0}
    ]
    fake.answers["GET", "/v1/tables/joins?table=t"] = (200, rows)
    assert run(fake, "join-status", "t") == exits.OK
    rows[0] |= {"phase": "staging", "moved": 5, "of": 10}
    assert run(fake, "join-status", "t", "--wait", "0.3") == exits.UNHEALTHY
    assert "5/10" in capsys.readouterr().out


@pytest.mark.contract("OPS-3")
def test_a_bar_is_for_terminals(capsys):
    """Nothing of it goes to a file; more than all is all."""
    progress = Progress("dump")
    progress.show(1, 2)
    progress.clear()
    assert capsys.readouterr().err == ""
    assert bar(1, 4, 4) == "[#...]  25 %  1/4"
    assert bar(9, 4, 4).startswith("[####] 100 %")
    assert bar(0, 0, 4).startswith("[####] 100 %")

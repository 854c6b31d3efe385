"""What the verbs of the store send, and what they refuse, without a store."""

from __future__ import annotations

import argparse
import base64

import pytest

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.exits import CliError
from meshsvc.admin.cli.kv_txn import transaction
from meshsvc.admin.cli.main import _command_in, main
from meshsvc.admin.cli.store_client import (
    StoreClient,
    StoreError,
    encoded,
    kv_row,
    lease_id,
    prefix_end,
)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("key", "end"),
    [(b"a", b"b"), (b"a/", b"a0"), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0")],
)
def test_the_end_of_a_prefix(key, end):
    """The first key after all that begin with the prefix; NUL when there is none."""
    assert prefix_end(key) == end


def test_a_transaction_is_read():
    """Compares by field, operations by word, quoted as for a shell."""
    body = transaction(
        ["version(a) = 0", "value(b c) != 'x y'", "lease(l) > ff"],
        ["put a 'one two'", "get d/ --prefix"],
        ["del a"],
    )
    assert body["compare"] == [
        {"key": b64(b"a"), "target": "VERSION", "result": "EQUAL", "version": "0"},
        {"key": b64(b"b c"), "target": "VALUE", "result": "NOT_EQUAL", "value": b64(b"x y")},
        {"key": b64(b"l"), "target": "LEASE", "result": "GREATER", "lease": "255"},
    ]
    assert body["success"] == [
        {"request_put": {"key": b64(b"a"), "value": b64(b"one two")}},
        {"request_range": {"key": b64(b"d/"), "range_end": b64(b"d0")}},
    ]
    assert body["failure"] == [{"request_delete_range": {"key": b64(b"a")}}]


@pytest.mark.parametrize(
    ("compare", "then", "says"),
    [
        ("a = 0", "get a", "version(a) = 0"),
        ("size(a) = 0", "get a", "the fields are"),
        ("version(a) = many", "get a", "not a whole number"),
        ("version(a) = 0", "put a", "put KEY VALUE"),
        ("version(a) = 0", "get 'a", "No closing quotation"),
        ("version(a) = 0", "", "put KEY VALUE"),
    ],
)
def test_a_transaction_that_cannot_be_read(compare, then, says):
    """Wrong usage, with the text that is wrong and how to write it."""
    with pytest.raises(CliError) as caught:
        transaction([compare], [then], [])
    assert caught.value.code == exits.USAGE
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("grpc", "code"),
    [(14, exits.RETRY), (4, exits.RETRY), (3, exits.USAGE), (16, exits.DENIED), (5, 1), (11, 1)],
)
def test_errors_of_the_store_have_exit_codes(grpc, code):
    """By gRPC status: what trying again can help, what is wrong usage, what is a plain no."""
    client = StoreClient("http://127.0.0.1:1")
    error = client.error_in(400, {"error": "no", "code": grpc, "message": "no"})
    assert isinstance(error, StoreError)
    assert (error.code, error.grpc) == (code, grpc)
    streamed = client.error_in(200, {"error": {"grpc_code": grpc, "message": "no"}})
    assert streamed.code == code


def test_a_row_shows_bytes_that_are_no_text():
    """Escaped, and numbers as numbers: the API spells them as strings."""
    row = kv_row({"key": b64(b"k\xff"), "mod_revision": "7", "version": "1", "lease": "255"})
    assert row["key"] == "k\\xff"
    assert (row["value"], row["revision"], row["lease"]) == ("", 7, "ff")
    assert encoded("k\udcff") == b64(b"k\xff"), "bytes of the command line come through"


def test_a_lease_is_hexadecimal():
    """As it is printed."""
    assert lease_id("2040a21a") == 0x2040A21A
    with pytest.raises(argparse.ArgumentTypeError, match="hexadecimal"):
        lease_id("xyz")


def test_a_command_stands_behind_two_dashes():
    """Whatever options it has are its own."""
    given = ["lock", "n", "--ttl", "5", "--", "sh", "-c", "x", "--", "y"]
    assert _command_in(given) == (["lock", "n", "--ttl", "5"], ["sh", "-c", "x", "--", "y"])
    assert _command_in(["kv", "put", "--", "-1"]) == (["kv", "put", "--", "-1"], None)
    assert _command_in(["lock", "n", "--"]) == (["lock", "n"], [])


STORE = {
    **{"cluster": "1c", "member": "2b", "missing": [], "revision": 7, "compacted": 0, "keys": 1},
    **{"bytes": 90, "quota": 0, "leases": 0, "watches": 0},
    "alarms": [{"node": "n2", "alarm": "NOSPACE"}],
    "groups": [
        {
            **{"group": "default", "role": "leader", "leader": "n1", "term": 3, "quorum": True},
            **{"last": 9, "stable": 9, "commit": 9, "applied": 9, "first": 1, "snapshot": 0},
            **{"voters": ["n1", "n2"], "learners": []},
            "peers": [{"node": "n2", "member": "2b", "mode": "replicate", "match": 9, "behind": 0}],
        }
    ],
}


@pytest.mark.contract("OPS-3", "RAFT-1")
def test_raft_status_and_transfer(fake, capsys):
    """A table of groups and one of members; 1 when something is missing; errors keep their code."""
    fake.answers["GET", "/v1/store"] = (200, STORE)
    assert main(["raft", "status", "--admin", fake.url]) == exits.OK
    out = capsys.readouterr().out
    assert "NOSPACE of n2" in out
    assert "n1, n2" in out
    assert "replicate" in out
    missing = STORE | {"missing": ["the store: group default has no leader"]}
    fake.answers["POST", "/v1/store/transfer"] = (200, missing)
    asked = ["raft", "transfer", "n2", "--timeout", "2", "--admin", fake.url, "-o", "json"]
    assert main(asked) == exits.UNHEALTHY
    assert fake.asked[-1] == ("POST", "/v1/store/transfer", {"node": "n2", "timeout_s": 2.0})
    for status, kind, code in (
        (503, "NoLeader", exits.RETRY),
        (409, "BadLeaderTransferee", exits.UNHEALTHY),
        (404, "NoStore", exits.UNHEALTHY),
    ):
        answer = {"error": {"kind": kind, "text": "no"}}
        fake.answers["POST", "/v1/store/transfer"] = (status, answer)
        assert main(asked) == code

"""Mistakes on the command line: each is told in words, with the exit code of its kind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading

import pytest

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.http_client import KEPT_S, JsonClient


@pytest.fixture
def cli(run_cli):
    """Runs a command against the fake: (exit code, stderr)."""

    def cli(*arguments):
        code, _, err = run_cli(*arguments)
        return code, err

    return cli


@pytest.mark.contract("OPS-3")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("query ping --timeout soon", "'soon' is no number of seconds"),
        ("query ping --timeout nan", "above 0, at most 600"),
        ("lock a --timeout -1 -- true", "'-1' is no number of seconds"),
        ("kv get a --limit x", "'x' is not a whole number of 0 or more"),
        ("lease grant 0", "'0' is not a whole number from 1 to 9000000000"),
        ("tables diff t --limit 0", "from 1 to 10000"),
        ("sim run --seed -1", "'-1' is not a whole number"),
        ("call n1 x NaN", "JSON has no NaN"),
        ("call N1 x", "names of nodes are of a-z, 0-9 and -"),
        ("lock a --", "no COMMAND behind the --"),
        ("snapshot save -", "name a file"),
        ("config check f --set a", "write --set section.key=value"),
        ("kv txn --if version(a)>=1", "the operators = != < >"),
        ("run --no-such", "--no-such not recognized; see meshsvc run --help"),
        ("run n1.toml", "write --config n1.toml"),
    ],
)
def test_a_mistake_is_named(cli, arguments, says):
    """What was wrong and what is taken, in words of the command line; always 64."""
    code, err = cli(*arguments.split())
    assert code == exits.USAGE
    assert says in err


def test_a_lock_wants_a_name(cli):
    """An empty one would be everybody's."""
    for verb in (("lock", ""), ("elect", "", "me"), ("elect", "", "--listen")):
        code, err = cli(*verb)
        assert (code, "NAME is empty" in err) == (exits.USAGE, True)


def test_a_snapshot_wants_a_directory_that_is_there(cli, tmp_path):
    """Told before anything is asked of the node, by the directory's own name."""
    code, err = cli("snapshot", "save", str(tmp_path / "none" / "x.snap"))
    assert code == exits.IO
    assert f"{tmp_path / 'none'} is no directory" in err


def test_tags_that_nobody_has_are_said(cli, fake):
    """No node to ask is a no, not an empty yes."""
    fake.answers["POST", "/v1/query"] = (200, {"answers": [], "missing": []})
    code, err = cli("query", "ping", "--tag", "zone=eu")
    assert (code, "no node that is alive has the tags zone=eu" in err) == (exits.UNHEALTHY, True)


def test_a_node_that_does_not_answer_is_told_from_one_that_is_not_there():
    """A time-out says that what was asked may have been done; a reset, that the port is wrong."""
    silent = socket.create_server(("127.0.0.1", 0))
    client = JsonClient(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.05)
    with silent, pytest.raises(Exception, match="may have been done or not"):
        client.post("/x", {})
    with rude_server() as url, pytest.raises(Exception, match="not another port of the node"):
        JsonClient(url).get("/x")


class rude_server:  # noqa: N801 - used as a function
    """Hangs up on the first that comes."""

    def __enter__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self._hang_up)
        self.thread.start()
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def _hang_up(self):
        self.socket.accept()[0].close()

    def __exit__(self, *_):
        self.thread.join()
        self.socket.close()


def test_a_connection_that_was_idle_is_not_used_again(fake):
    """Nodes close idle ones, and what is sent on one that is closing is lost: the revoke of a
    lock that was held for minutes, say."""
    fake.answers["POST", "/x"] = (200, {})
    client = JsonClient(fake.url)
    client.post("/x", 1)
    kept = client._connection.sock
    client.post("/x", 2)
    assert client._connection.sock is kept
    client._used_at -= KEPT_S + 1
    client.post("/x", 3)
    assert client._connection.sock is not kept
    assert [body for _, _, body in fake.asked] == [1, 2, 3]


INTERRUPTIBLE = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("meshsvc.admin.cli.main", run_name="__main__")
"""
"""As from a terminal: what a shell starts in the background has interrupts ignored."""


def test_interrupting_what_was_to_be_done_is_130(cli, monkeypatch):
    """A script must not take it for done."""

    class Interrupted:
        def read(self, _):
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Interrupted())
    assert cli("call", "n1", "x", "-") == (exits.INTERRUPTED, "")


def test_interrupting_what_follows_is_0():
    """That is how one ends it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        command = [sys.executable, "-c", INTERRUPTIBLE, "events", "--follow", "--admin", url]
        following = subprocess.Popen(command, stdout=subprocess.PIPE)
        connection, _ = server.accept()
        connection.recv(4096)
        connection.sendall(b'HTTP/1.1 200 OK\r\n\r\n{"type": "joined", "node": "n1"}\n')
        assert b"joined" in following.stdout.readline()
        following.send_signal(signal.SIGINT)
        assert following.wait(5) == exits.OK
        following.stdout.close()
        connection.close()

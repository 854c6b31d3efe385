"""The example's WebSockets in a real cluster: one session a user, and none of a dead node."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request

import pytest
from dev_cluster import wait_until
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Request, TextMessage

KICKED, TRY_AGAIN, BAD_USER = 4001, 4002, 4003


class Browser:
    """One WebSocket to a node; ``closed`` is the close code once there is one."""

    def __init__(self, at: str, user: str) -> None:
        host, _, port = at.removeprefix("http://").rpartition(":")
        self.closed: int | None = None
        self.messages: list[dict] = []
        self._wire = WSConnection(ConnectionType.CLIENT)
        self._sock = socket.create_connection((host, int(port)), 5)
        target = f"/ws?user={user}"
        self._sock.sendall(self._wire.send(Request(host=f"{host}:{port}", target=target)))
        self._sock.settimeout(0.05)

    def read(self) -> None:
        """Take what came."""
        try:
            data = self._sock.recv(65536)
        except TimeoutError:
            return
        self._wire.receive_data(data or None)
        for event in self._wire.events():
            if isinstance(event, TextMessage):
                self.messages.append(json.loads(event.data))
            elif isinstance(event, CloseConnection):
                self.closed = self.closed or event.code
            else:
                assert isinstance(event, AcceptConnection)

    def signed_in(self) -> dict | None:
        """The greeting, once it came."""
        self.read()
        return next((each for each in self.messages if each["type"] == "hello"), None)

    def ended(self) -> int | None:
        """The close code, once it came."""
        if self.closed is None:
            self.read()
        return self.closed

    def close(self) -> None:
        self._sock.close()


def sign_in(at: str, user: str) -> Browser:
    """Somebody who is on-line; who is told to try again does so, as the example's page does."""
    tries = [Browser(at, user)]

    def signed_in() -> dict | None:
        if tries[-1].ended() == TRY_AGAIN:
            tries.append(Browser(at, user))
        return tries[-1].signed_in()

    wait_until(signed_in, 15, lambda: f"{user} is not signed in: {tries[-1].closed}")
    return tries[-1]


def door(node) -> str:
    """Where a node serves, as it tells in its tag."""
    rows = node.get("members") or ()
    return next((row["tags"].get("presence", "") for row in rows if row["name"] == node.name), "")


def online(at: str, path: str = "") -> dict:
    try:
        with urllib.request.urlopen(f"{at}/online{path}", timeout=5) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return json.loads(error.read())


@pytest.fixture
def doors(cluster) -> dict[str, str]:
    cluster.wait_formed()
    wait_until(lambda: all(door(node) for node in cluster.nodes), 20, cluster.describe)
    return {node.name: door(node) for node in cluster.nodes}


@pytest.mark.slow
@pytest.mark.contract("TBL-3", "TBL-5")
def test_one_session_a_user_and_none_of_a_dead_node(cluster, doors):
    """Signing in again ends the first session wherever it is; a node's death ends all of its."""
    first = sign_in(doors["n1"], "alice")
    assert first.signed_in()["node"] == "n1"
    second = sign_in(doors["n3"], "alice")
    assert second.signed_in()["node"] == "n3"
    assert wait_until(first.ended, 10, "the first session goes on") == KICKED
    for at in doors.values():
        wait_until(
            lambda at=at: online(at, "/alice").get("node") == "n3",
            *(5, lambda: f"not known: {[online(each) for each in doors.values()]}"),
        )
    other = sign_in(doors["n2"], "bob")
    assert set(online(doors["n1"])["online"]) == {"alice", "bob"}
    assert set(online(doors["n1"], "?prefix=b")["online"]) == {"bob"}

    victim = next(node for node in cluster.nodes if node.name == "n3")
    victim.kill()
    wait_until(lambda: set(online(doors["n1"])["online"]) == {"bob"}, 15, "alice is still there")
    # Each node learns of a death by itself, a moment earlier or later.
    wait_until(lambda: "error" in online(doors["n2"], "/alice"), 15, "alice is there at n2")
    other.close()
    wait_until(lambda: online(doors["n1"])["count"] == 0, 10, "bob is still there")
    cluster.start_again(victim)
    cluster.wait_formed()


@pytest.mark.contract("TBL-3")
def test_who_gives_no_name_is_told(cluster, doors):
    """The close code says so; nothing is signed in."""
    nobody = Browser(doors["n1"], "%20")
    assert wait_until(nobody.ended, 10, "it stays open") == BAD_USER

"""A node whose processes are killed, stopped and told to end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
from running_node import Client, alive, fd_count, kill, wait_for

from meshsvc.node.handover import CAP

pytestmark = pytest.mark.slow

SHORT_HEARTBEAT = '[shards]\nheartbeat_timeout = "2 s"\n'


@pytest.mark.contract("SHD-8", "SHD-10")
def test_killed_shard_comes_back_and_counters_go_on(make_node):
    """kill -9: the other shard serves on, the killed one returns as a later incarnation, and
    its counters continue from where its first life left them."""
    node = make_node().start()
    port = node.port()
    before = node.children()
    wait_for(lambda: node.counter(1, "fake_beats_total") >= 2)
    counted = node.counter(1, "fake_beats_total")
    kill(before[1])
    node.wait_log("ended: killed by SIGKILL")
    client = Client(port)
    assert client.greet()[0] == 0  # the only one there is until the other is back
    client.close()
    node.wait_log("incarnation 2")
    lowest = counted
    end = time.monotonic() + 20
    while node.counter(1, "fake_beats_total") < counted + 2:
        assert time.monotonic() < end
        now = node.counter(1, "fake_beats_total")
        assert now >= lowest
        lowest = now
        time.sleep(0.05)
    rows, _ = node.states()
    assert rows[1][1:5] == [node.children()[1], "running", 2, 1]
    assert rows[0][3:5] == [1, 0]
    assert node.children()[0] == before[0]
    clients = [Client(port) for _ in range(4)]
    assert sorted(client.greet()[:2] for client in clients) == [(0, 1), (0, 1), (1, 2), (1, 2)]
    for client in clients:
        client.close()


@pytest.mark.contract("SHD-8")
def test_killed_supervisor_leaves_nothing(make_node):
    """kill -9 of the supervisor: within 2 s no process is left, not even a stopped one."""
    node = make_node().start()
    shards = node.children()
    kill(shards[1], signal.SIGSTOP)
    node.process.kill()
    node.process.wait()
    wait_for(lambda: not any(alive(pid) for pid in shards.values()), 2.0)
    # And nothing is in the way of the next life.
    node.output.unlink()
    node.start()


@pytest.mark.contract("SHD-8")
def test_wedged_shard_is_replaced(make_node):
    """SIGSTOP of a shard: it is found by its silence, killed, and started again."""
    node = make_node(extra=SHORT_HEARTBEAT).start()
    wedged = node.children()[1]
    kill(wedged, signal.SIGSTOP)
    node.wait_log("is killed: no heartbeat")
    node.wait_log("incarnation 2")
    wait_for(lambda: not alive(wedged))
    wait_for(lambda: [row[2] for row in node.states()[0]] == ["running", "running"])
    assert f"shard 1 (pid {wedged}) is killed" in node.log()


def test_paused_supervisor_kills_nobody(make_node):
    """A supervisor that was stopped for longer than the limit blames no shard for it."""
    node = make_node(extra=SHORT_HEARTBEAT).start()
    shards = node.children()
    wait_for(node.pids)
    node.process.send_signal(signal.SIGSTOP)
    time.sleep(3.5)  # this is the pause that is tested, not a wait
    node.process.send_signal(signal.SIGCONT)
    counted = node.counter(0, "fake_beats_total")
    wait_for(lambda: node.counter(0, "fake_beats_total") > counted + 2)
    assert node.children() == shards
    assert "is killed" not in node.log()


@pytest.mark.contract("SHD-9")
def test_sigterm_drains_and_ends_with_zero(make_node):
    """SIGTERM: shards are told their budget, nothing is accepted any more, exit code 0."""
    node = make_node().start()
    port = node.port()
    client = Client(port)
    assert client.greet()
    shards = node.children()
    node.process.send_signal(signal.SIGTERM)
    assert node.wait_exit() == 0
    assert not any(alive(pid) for pid in shards.values())
    with pytest.raises(ConnectionRefusedError):
        Client(port)
    assert "drain 30.0" in (node.data / "notes-0").read_text()
    assert "drain 30.0" in (node.data / "notes-1").read_text()
    assert "Traceback" not in node.log()
    assert "supervisor is gone" not in node.log()
    client.close()


@pytest.mark.contract("SHD-9")
def test_second_sigterm_ends_at_once(make_node):
    """A second signal does not wait for a shard that drains: exit code 1, nothing left."""
    node = make_node(extra="[applications.fake]\nhang_drain = 1\n").start()
    shards = node.children()
    node.process.send_signal(signal.SIGTERM)
    node.wait_log("SIGTERM: draining")
    wait_for(lambda: "drain" in (node.data / "notes-1").read_text())
    node.process.send_signal(signal.SIGTERM)
    assert node.wait_exit(5) == 1
    assert not any(alive(pid) for pid in shards.values())


@pytest.mark.contract("SHD-9")
def test_wedged_shard_does_not_hold_the_end_up(make_node):
    """SIGTERM with a stopped shard: killed when the budget is over, exit 70 naming it."""
    node = make_node(extra='[shards]\ndrain = "1 s"\n').start()
    shards = node.children()
    kill(shards[1], signal.SIGSTOP)
    began = time.monotonic()
    node.process.send_signal(signal.SIGINT)
    assert node.wait_exit() == 70
    assert time.monotonic() - began < 5
    assert "meshsvc: shard 1 did not stop in time and was killed" in node.log()
    assert not any(alive(pid) for pid in shards.values())


def test_sighup_is_survived(make_node):
    """SIGHUP is logged and changes nothing, also when all processes get it."""
    node = make_node().start()
    shards = node.children()
    for pid in (*shards.values(), node.process.pid):
        kill(pid, signal.SIGHUP)
    node.wait_log("SIGHUP: the config is not read again")
    for pid in shards.values():  # as a terminal's Ctrl-C would, but for the supervisor
        kill(pid, signal.SIGINT)
        kill(pid, signal.SIGTERM)
    client = Client(node.port())
    assert client.greet()
    client.close()
    assert node.children() == shards


@pytest.mark.contract("SHD-7")
def test_shard_that_never_gets_ready_is_named(make_node):
    """Ports of applications stay closed to clients until all shards are ready."""
    node = make_node(extra="[applications.fake]\nnever_ready = 1\n").start(wait=False)
    client = Client(node.port())  # the kernel's backlog takes it
    client.socket.settimeout(1.0)
    with pytest.raises(TimeoutError):
        client.greet()
    client.close()
    assert "shards are ready" not in node.log()


@pytest.mark.contract("SHD-3", "SHD-10")
def test_stopped_shard_holds_up_its_cap_at_most(make_node):
    """SIGSTOP of one shard under more connections than its cap: it gets no more than the
    cap, the rest is served by the other, none hangs once it is replaced, nothing leaks."""
    node = make_node(extra='[shards]\nheartbeat_timeout = "3 s"\n').start()
    port = node.port()
    wait_for(node.pids)
    base = fd_count(node.process.pid)
    stopped = node.children()[1]
    kill(stopped, signal.SIGSTOP)
    clients = [Client(port) for _ in range(3 * CAP)]
    for client in clients:
        client.socket.setblocking(False)
    served, open_ = set(), set(clients)

    def settled():
        """Everybody was served or closed."""
        for client in list(open_):
            try:
                data = client.socket.recv(64)
            except BlockingIOError:
                continue
            except ConnectionError:
                data = b""
            open_.discard(client)
            if data:
                served.add(client)
        return not open_

    wait_for(lambda: settled() or len(served) >= 2 * CAP)
    assert len(clients) - len(served) <= CAP
    wait_for(settled)
    assert len(served) >= 2 * CAP
    for client in clients:
        client.close()
    node.wait_log("incarnation 2")
    wait_for(lambda: fd_count(node.process.pid) <= base)
    assert not alive(stopped)


@pytest.mark.contract("SHD-3", "SHD-10")
def test_connections_nobody_can_take_are_closed_and_counted(make_node):
    """When every shard is full, a connection is closed, not kept waiting, and counted."""
    node = make_node(shards=1).start()
    port = node.port()
    wait_for(node.pids)
    base = fd_count(node.process.pid)
    kill(node.children()[0], signal.SIGSTOP)
    clients = [Client(port) for _ in range(CAP + 10)]
    closed = [client for client in clients[CAP:] if client.greet() is None]
    assert len(closed) == 10
    kill(node.children()[0], signal.SIGCONT)
    assert all(client.greet() for client in clients[:CAP])
    wait_for(lambda: node.counter(-1, "frame_drops_total", variant="fd_transfer", reason="full"))
    assert node.counter(-1, "frame_drops_total", variant="fd_transfer", reason="full") == 10
    for client in clients:
        client.close()
    assert fd_count(node.process.pid) <= base


def test_idle_node_hardly_uses_the_cpu(make_node):
    """The supervisor of an idle node uses well under 1% of a core."""
    node = make_node().start()
    wait_for(node.pids)

    def used_s():
        fields = Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = used_s()
    time.sleep(4)  # what is measured
    assert used_s() - before <= 0.04


def test_silence_on_the_peer_port_is_cut(make_node):
    """On the peer port garbage is cut at once and silence after 5 s; others get through."""
    extra = '[applications.fake]\nlisten = ["peer"]\n'
    node = make_node(extra=extra).start()
    port = node.port("peer")
    silent = [Client(port) for _ in range(3)]
    half = Client(port)
    half.socket.sendall(b"MSVC\x01")
    garbage = Client(port)
    garbage.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with contextlib.suppress(ConnectionResetError):
        assert garbage.greet() is None
    peer = Client(port)
    peer.socket.sendall(b"MSVC\x01\x00\x00\x00" + bytes(16))
    assert peer.greet()[0] == 0
    assert peer.file.read(24)[:4] == b"MSVC"  # the shard saw the preface itself, and echoes it
    for client in silent:
        assert client.greet() is None  # cut after five seconds
    with contextlib.suppress(ConnectionResetError):  # what it sent was never read
        assert half.greet() is None
    wait_for(lambda: node.counter(-1, "link_refusals_total", reason="silent", side="acceptor") == 4)
    assert node.counter(-1, "link_refusals_total", reason="garbage", side="acceptor") == 1
    for client in (*silent, half, garbage, peer):
        client.close()

"""Those who should not be there: garbage, silence, other clusters, doubles of a name."""

import os
import re
import socket
import time
from pathlib import Path

import pytest
from dev_cluster import free_port, wait_until


def peer_socket(node):
    host, port = node.row["peer"].rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=10)


def ended(sock):
    """Whether the other side closed or reset."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


PREFACE = b"MSVC\x01\x00\x00\x00" + bytes(range(16))


@pytest.mark.contract("MESH-6", "WIRE-2", "LINK-1")
@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00",
        os.urandom(4096),
        PREFACE + b"\x7f\xff\xff\xff",
        PREFACE + b"\x00\x00\x00\x04\x9f\x01\x02\xff",
        PREFACE + b"\x00\x00\x00\x01\xf6",
        b"MSVC\x01\x01\x00\x00" + bytes(16) + bytes(10_000),
    ],
    ids=["http", "one byte", "random", "2 GiB frame", "indefinite", "null", "zeroes"],
)
def test_garbage_is_cut_off_and_nobody_notices(cluster, said):
    """Whatever a stranger says, it is closed within the handshake deadline; the mesh stays."""
    epoch = cluster.wait_formed()
    sock = peer_socket(cluster.nodes[0])
    sock.sendall(said)
    started = time.monotonic()
    assert ended(sock)
    assert time.monotonic() - started < 8
    assert cluster.formed() == epoch


@pytest.mark.contract("LINK-1")
def test_fifty_silent_clients_delay_nobody(cluster):
    """Fifty connections that say nothing: a call still takes well under a second."""
    silent = [peer_socket(cluster.nodes[1]) for _ in range(50)]
    try:
        started = time.monotonic()
        assert "reply" in cluster.nodes[0].call("n2/1", "sys.echo", 1)
        assert time.monotonic() - started < 1
        assert all(ended(sock) for sock in silent)
        assert time.monotonic() - started < 8
    finally:
        for sock in silent:
            sock.close()


def config_like(node, directory, **changes):
    """The config of a node with other ports and directories, and these changes."""
    text = Path(node.row["config"]).read_text()
    directory.mkdir()
    changes = {
        "peer": f'"127.0.0.1:{free_port()}"',
        "admin": f'"127.0.0.1:{free_port()}"',
        "client": f'"127.0.0.1:{free_port()}"',
        "etcd": f'"127.0.0.1:{free_port()}"',
        "data_dir": f'"{directory / "data"}"',
        "run_dir": f'"{directory / "run"}"',
        **changes,
    }
    for key, value in changes.items():
        text = re.sub(rf"(?m)^{key} *=.*$", f"{key} = {value}", text)
    config = directory / "meshsvc.toml"
    config.write_text(text)
    return config


def admin_of(config):
    return re.search(r'(?m)^admin *= *"(.*)"', config.read_text())[1]


def refusals(node, reason):
    return sum(
        value
        for series, value in node.metrics().items()
        if series.startswith("link_refusals_total") and f'reason="{reason}"' in series
    )


@pytest.mark.contract("LINK-2")
def test_a_node_of_another_cluster_is_refused_on_both_sides(cluster, tmp_path):
    """Its links are refused with both cluster names; no membership goes either way."""
    config = config_like(cluster.nodes[2], tmp_path / "x", name='"n4"', cluster='"other"')
    process = cluster.run_node(config)
    log = config.parent / "by-hand.log"
    wait_until(lambda: "wrong-cluster" in log.read_text(), 20, log.read_text)
    wait_until(lambda: refusals(cluster.nodes[0], "wrong-cluster"), 10, "counted by the cluster")
    time.sleep(1)
    assert "n4" not in cluster.nodes[0].statuses()
    assert '"other"' in log.read_text() or "other" in log.read_text()
    assert log.read_text().count("wrong-cluster") < 20
    process.terminate()
    process.wait(40)


@pytest.mark.contract("LINK-2")
def test_a_second_node_of_a_name_is_refused_by_name(cluster, tmp_path):
    """The same name under another id: refused, the one that is there stays alive."""
    epoch = cluster.wait_formed()
    config = config_like(cluster.nodes[2], tmp_path / "x")
    process = cluster.run_node(config)
    log = config.parent / "by-hand.log"
    wait_until(lambda: "name-collision" in log.read_text(), 20, log.read_text)
    ids = {row["name"]: row["id"] for row in cluster.nodes[0].get("members")}
    assert len(ids) == 3
    process.terminate()
    process.wait(40)
    assert cluster.wait_formed() == epoch


@pytest.mark.contract("SHD-2")
def test_a_taken_port_and_a_locked_data_dir_end_the_start(cluster, tmp_path):
    """Exit code and a message that names the port, or the process that holds the directory."""
    node = cluster.nodes[1]
    port = node.row["peer"].rsplit(":", 1)[1]
    taken = config_like(node, tmp_path / "port", peer=f'"127.0.0.1:{port}"')
    process = cluster.run_node(taken)
    assert process.wait(20) == 73
    assert port in (taken.parent / "by-hand.log").read_text()
    locked = config_like(node, tmp_path / "lock", data_dir=f'"{node.row["data_dir"]}"')
    process = cluster.run_node(locked)
    assert process.wait(20) == 75
    assert str(node.pid) in (locked.parent / "by-hand.log").read_text()

"""Starting a node: what works, and what ends the start with a message and a code."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from running_node import TWISTD, Client, RunningNode, alive, kill, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """One healthy node of four shards for all tests that only look."""
    listen = 'listen = ["client", "tcp:127.0.0.1:0", "nonesuch", "admin"]'
    base = tmp_path_factory.mktemp("healthy")
    running = RunningNode(base, shards=4, extra=f"[applications.fake]\n{listen}\n")
    # More shards than CPUs is refused, so the CPUs are listed for as many as there are.
    running.config.write_text(
        running.config.read_text().replace(
            "cpu_allocation = 4", f"cpu_allocation = {min(4, len(os.sched_getaffinity(0)))}"
        )
    )
    running.start()
    yield running
    running.stop()


def test_serves_when_all_shards_are_ready(node):
    """Every shard runs as a child of the supervisor and answers its clients."""
    shards = len(node.children())
    client = Client(node.port())
    shard, incarnation, pid = client.greet()
    assert incarnation == 1
    assert node.children()[shard] == pid
    assert client.echo()
    client.close()
    wait_for(lambda: len(node.pids()) == shards)
    rows, _ = node.states()
    assert [row[2] for row in rows] == ["running"] * shards


@pytest.mark.contract("SHD-3")
def test_clients_are_spread_evenly(node):
    """100 connections at once: the shards' shares differ by one at most, all are served."""
    clients = [Client(node.port()) for _ in range(100)]
    served = [client.greet()[0] for client in clients]
    shares = [served.count(shard) for shard in node.children()]
    assert max(shares) - min(shares) <= 1
    assert all(client.echo() for client in clients)
    for client in clients:
        client.close()


def test_listeners_that_cannot_be_had_say_why(node):
    """An unknown listener is answered with what there is; admin is for shard 0 only."""
    last = len(node.children()) - 1
    notes = node.data / f"notes-{last}"
    text = wait_for(lambda: notes.exists() and "admin" in notes.read_text() and notes.read_text())
    assert "there is no listener 'nonesuch': configured are admin, client, peer" in text
    if last:
        assert "admin is served by shard 0 alone" in text


@pytest.mark.contract("SHD-2")
def test_listener_bound_on_demand_is_shared(node):
    """All shards that ask for one tcp: listener get the same port."""
    ports = set()
    for shard in node.children():
        notes = node.data / f"notes-{shard}"
        line = wait_for(
            lambda n=notes: [
                line for line in n.read_text().splitlines() if line.startswith("listening")
            ][1:2]
        )
        ports.add(line[0])
    assert len(ports) == 1


@pytest.mark.contract("SHD-2")
def test_only_the_supervisor_listens(node):
    """A port has one listening socket, the supervisor's: no SO_REUSEPORT."""
    second = socket.socket()
    second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    with pytest.raises(OSError, match="in use"):
        second.bind(("127.0.0.1", node.port()))
    second.close()


@pytest.mark.contract("SHD-2")
def test_locked_data_dir_names_its_holder(node):
    """A second node on the same data directory ends with 75 and the pid of the first."""
    ended = node.run("-n", "--pidfile=")
    assert ended.returncode == 75
    assert f"is locked by process {node.process.pid}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_supervisor_is_small(node):
    """The supervisor stays under 45 MiB."""
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    rss_kib = int(status.partition("VmRSS:")[2].split()[0])
    assert rss_kib < 45 * 1024


def test_supervisor_imports_nothing_it_does_not_need():
    """Neither metrics, nor HTTP, nor gossip are loaded into the supervisor."""
    code = "import sys, meshsvc.node.run; print(*sorted(sys.modules))"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    unwanted = ("prometheus_client", "twisted.web", "meshsvc.gossip", "meshsvc.messaging")
    assert not [name for name in loaded if name.startswith(unwanted)]


@pytest.mark.contract("SHD-2")
def test_port_in_use_names_port_and_remedy(make_node):
    """A port in use ends the start with 73, the port, its config key and what to do."""
    holder = socket.create_server(("127.0.0.1", 0))
    port = holder.getsockname()[1]
    ended = make_node(listen=f'client = "127.0.0.1:{port}"').run("-n", "--pidfile=")
    holder.close()
    assert ended.returncode == 73
    assert f"port {port} (listen.client = 127.0.0.1:{port}) is in use" in ended.stderr
    assert "choose another address" in ended.stderr


@pytest.mark.contract("SHD-1")
@pytest.mark.parametrize(
    ("cpus", "word"), [(0, "got 0"), ('"3..3"', "range is empty"), ("[4095]", "4095")]
)
def test_bad_cpu_allocation_ends_before_any_port(make_node, cpus, word):
    """A cpu_allocation that cannot be had ends with 78, before the data dir is touched."""
    node = make_node(cpus=cpus)
    ended = node.run("-n", "--pidfile=")
    assert ended.returncode == 78
    assert word in ended.stderr
    assert not node.data.exists()


def test_config_mistakes_are_all_told(make_node):
    """Mistakes in the config end the start with 78 and list each one."""
    node = make_node(extra='[shards]\nrestarts = "many"\ndrain = "soon"\n')
    ended = node.run("-n", "--pidfile=")
    assert ended.returncode == 78
    assert "shards.restarts" in ended.stderr
    assert "shards.drain" in ended.stderr


def test_overrides_come_from_flags(make_node):
    """--set section.key=value overrides the file; one without a value is a usage error."""
    node = make_node()
    command = [*TWISTD, "-n", "--pidfile=", *node.command, "--set", "node.cpu_allocation=0"]
    ended = subprocess.run(command, env=node.env, capture_output=True, text=True, check=False)
    assert (ended.returncode, "flag --set node.cpu_allocation" in ended.stderr) == (78, True)
    command[-1] = "node.cpu_allocation"
    ended = subprocess.run(command, env=node.env, capture_output=True, text=True, check=False)
    assert "write --set section.key=value" in ended.stdout + ended.stderr
    assert ended.returncode == 1


@pytest.mark.contract("SHD-1")
def test_shards_are_pinned(make_node):
    """With pinning each shard runs on one CPU of its own, out of the allowed mask."""
    allowed = sorted(os.sched_getaffinity(0))
    node = make_node(cpus=len(allowed[:2])).start()
    masks = [os.sched_getaffinity(pid) for _, pid in sorted(node.children().items())]
    assert masks == [{cpu} for cpu in allowed[:2]]
    assert os.sched_getaffinity(node.process.pid) == set(allowed)


@pytest.mark.contract("SHD-2")
def test_daemon_reports_a_failed_start(make_node):
    """Without -n a start that fails still ends the caller's process with code and message."""
    holder = socket.create_server(("127.0.0.1", 0))
    node = make_node(listen=f'client = "127.0.0.1:{holder.getsockname()[1]}"')
    pid_file = node.base / "pid"
    ended = node.run("--pidfile", str(pid_file), "--logfile", str(node.base / "log"))
    holder.close()
    assert ended.returncode == 73
    assert "is in use" in ended.stderr
    assert not pid_file.exists()


def use_run_dir(node, path):
    """Give a node another run directory."""
    text = node.config.read_text()
    node.config.write_text(text.replace("[node]\n", f'[node]\nrun_dir = "{path}"\n', 1))


@pytest.mark.contract("SHD-2")
def test_daemon_reports_a_run_directory_with_too_long_a_path(make_node):
    """What would fail in every shard is found before the fork, while the caller looks."""
    node = make_node()
    pid_file = node.base / "pid"
    use_run_dir(node, node.base / ("x" * 108))
    ended = node.run("--pidfile", str(pid_file))
    assert ended.returncode == 78, ended.stderr
    assert "set run_dir to a shorter one" in ended.stderr
    assert not pid_file.exists()


@pytest.mark.contract("SHD-2")
def test_a_run_directory_belongs_to_one_node(make_node, tmp_path):
    """Two nodes with one run directory would take each other's sockets: the second is refused."""
    first, second = make_node(), make_node()
    for node in (first, second):
        use_run_dir(node, tmp_path / "run")
    first.start()
    ended = second.run("-n", "--pidfile=")
    assert ended.returncode == 75, ended.stderr
    assert "is another running node's: set another node.run_dir" in ended.stderr


def test_a_run_directory_that_everybody_may_write_to_is_left_alone(make_node, tmp_path):
    """/tmp is no run directory: it is refused, and its mode stays."""
    node = make_node()
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(0o1777)
    use_run_dir(node, public)
    ended = node.run("-n", "--pidfile=")
    assert (ended.returncode, "set another node.run_dir" in ended.stderr) == (73, True)
    assert public.stat().st_mode & 0o7777 == 0o1777


def test_a_shard_started_by_hand_says_who_starts_it():
    """The subcommand is the supervisor's; a person is told what to run, without a traceback."""
    command = [*TWISTD, "-n", "--pidfile=", "meshsvc", "shard"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 64
    assert "twistd -n meshsvc run --config FILE" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_daemon_runs_and_stops(make_node):
    """Without -n the node leaves its terminal, holds its lock, logs, and stops on SIGTERM."""
    node = make_node()
    pid_file = node.base / "pid"
    ended = node.run("--pidfile", str(pid_file), "--logfile", str(node.base / "log"))
    assert ended.returncode == 0, ended.stderr
    pid = int(pid_file.read_text())
    try:
        client = Client(node.port())
        assert client.greet()
        assert (node.data / "lock").read_text().strip() == str(pid)
        again = node.run("-n", "--pidfile=")
        assert (again.returncode, f"process {pid}" in again.stderr) == (75, True)
        wait_for(node.pids)
        assert "starting up" in (node.data / "log" / "shard-0.log").read_text()
        kill(pid, signal.SIGTERM)
        wait_for(lambda: not alive(pid))
        wait_for(lambda: not pid_file.exists())
        assert not any(alive(each) for each in node.seen)
    finally:
        kill(pid)


def test_shard_that_refuses_ends_the_node(make_node):
    """A shard's Fatal ends the node with that shard's exit code and text, without restarts."""
    node = make_node(extra="[applications.fake]\nrefuse = 1\n").start(wait=False)
    assert node.wait_exit() == 69
    assert "meshsvc: shard 1: the fake refuses to start" in node.log()
    assert "incarnation 2" not in node.log()


@pytest.mark.contract("SHD-8")
def test_restart_intensity_names_the_shard(make_node):
    """A shard that ends again and again ends the node with 70, naming it and its last end."""
    extra = '[applications.fake]\ncrash = 1\n[shards]\nrestarts = 2\nrestart_window = "60 s"\n'
    node = make_node(extra=extra).start(wait=False)
    assert node.wait_exit(40) == 70
    expected = "meshsvc: shard 1 ended more than 2 times in 60 s, last: exit code 7"
    assert expected in node.log()
    assert node.log().count("shard 1 started") == 3


def test_ready_is_told_to_systemd(make_node, tmp_path):
    """READY=1 is sent once all shards are ready, STOPPING=1 at the end; WATCHDOG=1 all along."""

    def said():
        while (message := listener.recv(4096)) == b"WATCHDOG=1":
            continue
        return message

    path = str(tmp_path / "notify")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(path)
    listener.settimeout(20)
    node = make_node().start(env={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "30000000"})
    assert said() == b"READY=1\nSTATUS=serving with 2 shards"
    assert listener.recv(4096) == b"WATCHDOG=1"
    node.process.send_signal(signal.SIGTERM)
    assert said() == b"STOPPING=1\nSTATUS=draining"
    assert node.wait_exit() == 0
    listener.close()

"""The small parts of a node's processes: boot data, exit status, systemd, signals."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import pytest

from meshsvc.model import Address
from meshsvc.node import exits, notify
from meshsvc.node.boot import Boot
from meshsvc.node.exits import ExitStatus
from meshsvc.node.notify import Notifier
from meshsvc.node.shard_process import find_factory


def test_boot_survives_the_way_to_the_shard():
    """What the supervisor writes is what the shard reads."""
    boot = Boot(
        node_id="ab" * 16,
        name="n1",
        cluster="c",
        incarnation=1_800_000_000,
        shard=2,
        shard_incarnation=3,
        shards=4,
        cpus=(5,),
        run_dir="/run/x",
        data_dir="/data/ü",
        listeners={"peer": Address("::1", 7700)},
        advertise=Address("n1.example", 7700),
        config={"node": {"name": "n1"}, "applications": {}},
        supervisor=77,
    )
    assert Boot.from_json(boot.to_json()) == boot


class TestExitStatus:
    """How the process ends."""

    def test_first_failure_wins(self):
        """Later reasons follow from the first one, which is the one to tell."""
        left = []
        status = ExitStatus(left.append)
        assert not status.note(exits.OK, "fine")
        assert status.note(73, "port")
        assert not status.note(70, "shard")
        status.apply()
        assert (left, status.text) == ([73], "port")

    def test_success_leaves_the_end_alone(self):
        """Without a failure nothing is done."""
        ExitStatus(lambda code: pytest.fail("left")).apply()

    def test_code_reaches_the_caller_through_a_clean_end(self):
        """Installed, it turns the normal end of an interpreter into the code, after output."""
        code = (
            "from meshsvc.node.exits import ExitStatus\n"
            "status = ExitStatus(); status.install(); status.note(70, 'x'); print('last words')"
        )
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        assert (ended.returncode, ended.stdout) == (70, b"last words\n")
        assert ended.stderr == b"meshsvc: x (exit code 70)\n"


class TestNotifier:
    """sd_notify."""

    @pytest.mark.parametrize("abstract", [False, True])
    def test_states_are_sent(self, tmp_path, abstract):
        """Lines arrive as one datagram, at a path or an abstract name."""
        path = f"@meshsvc-test-{tmp_path.name}-{id(tmp_path)}" if abstract else f"{tmp_path}/n"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind("\0" + path[1:] if abstract else path)
            Notifier({"NOTIFY_SOCKET": path}, 1).send("READY=1", "STATUS=x")
            listener.settimeout(5)
            assert listener.recv(100) == b"READY=1\nSTATUS=x"

    def test_without_systemd_nothing_happens(self, tmp_path):
        """No socket, or one that nobody reads, is no error."""
        Notifier({}, 1).send("READY=1")
        Notifier({"NOTIFY_SOCKET": f"{tmp_path}/gone"}, 1).send("READY=1")

    def test_watchdog_is_for_the_named_process(self):
        """WATCHDOG=1 is wanted when systemd set an interval, for this pid."""
        env = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "30000000"}
        assert Notifier(env, 1).watched
        assert Notifier({**env, "WATCHDOG_PID": "1"}, 1).watched
        assert not Notifier({**env, "WATCHDOG_PID": "2"}, 1).watched
        assert not Notifier({"NOTIFY_SOCKET": "/x"}, 1).watched

    def test_children_do_not_speak_to_systemd(self):
        """Shards get the environment without systemd's variables."""
        env = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}
        assert notify.without(env) == {"PATH": "/bin"}


def test_shard_does_not_outlive_a_supervisor_that_is_gone():
    """A shard whose parent is not the supervisor that started it ends before it serves."""
    code = "from meshsvc.node.shard_process import die_with; die_with(1 << 30); print('served')"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "the supervisor 1073741824 is gone" in ended.stderr
    assert "served" not in ended.stdout


def test_shards_ignore_the_signals_of_the_group():
    """SIGINT, SIGTERM and SIGHUP to a shard change nothing: its supervisor decides."""
    code = (
        "import os, signal\n"
        "from meshsvc.node.signals import leave_to_supervisor\n"
        "leave_to_supervisor()\n"
        "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):\n"
        "    os.kill(os.getpid(), number)\n"
        "print('alive')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "alive\n")
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN


def test_factories_are_found_by_name():
    """module:function names what a shard runs."""
    assert find_factory("meshsvc.node.boot:Boot") is Boot

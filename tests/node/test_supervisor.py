"""The supervisor on a clock of ours: no process is started, each one's part is played."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from meshsvc.model import Address, Incarnation, NodeId
from meshsvc.node.config import Config
from meshsvc.node.exits import ExitStatus
from meshsvc.node.spawn import Launch
from meshsvc.node.start import Prepared
from meshsvc.node.supervisor import FAILURE_DRAIN_S, REAP_S, Supervisor
from meshsvc.node.worker import START_S
from meshsvc.storage.identity import Identity
from meshsvc.wire import messages
from meshsvc.wire.frames import FrameBuffer, pack
from meshsvc.wire.registry import Role, decode_message, encode_message


class Wire(StringTransport):
    """A transport that ends its protocol when it is aborted."""

    def getHost(self):
        return None

    def abortConnection(self):
        super().abortConnection()
        self.protocol.connectionLost(Failure(ConnectionAbortedError()))


class Process:
    """One shard process, played by the test."""

    def __init__(self, reactor, protocol, argv, pid):
        self.reactor, self.protocol, self.argv, self.pid = reactor, protocol, argv, pid
        self.signals, self.ended = [], False
        self.frames = FrameBuffer(1 << 20)
        self.wire = None
        protocol.makeConnection(self)

    def signalProcess(self, name):
        if self.ended:
            raise ProcessExitedAlready
        self.signals.append(name)

    def end(self, code=None, number=signal.SIGKILL):
        """The process is gone; its channel with it."""
        self.ended = True
        self.wire.protocol.connectionLost(Failure(ConnectionResetError()))
        if code == 0:
            why = ProcessDone(0)
        else:
            why = ProcessTerminated(code, None if code else number)
        self.protocol.processEnded(Failure(why))

    def say(self, *said):
        """Send messages to the supervisor."""
        for message in said:
            self.wire.protocol.dataReceived(pack(encode_message(message)))

    def heard(self, kind):
        """The messages of a kind that the supervisor sent since the last call."""
        self.reactor.advance(0)
        bodies = self.frames.feed(self.wire.value())
        self.wire.clear()
        told = [decode_message(body, Role.SUPERVISOR) for body in bodies]
        return [message for message in told if isinstance(message, kind)]


class Stage(Clock):
    """A reactor that starts no processes and opens no connections."""

    def __init__(self):
        super().__init__()
        self.processes, self.stops, self.running = [], 0, True
        self.refuse = False

    def spawnProcess(self, protocol, executable, argv, env, childFDs):  # noqa: N803 - twisted's
        if self.refuse:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        self.processes.append(Process(self, protocol, argv, 1000 + len(self.processes)))
        return self.processes[-1]

    def adoptStreamConnection(self, fd, family, factory):
        wire = Wire()
        wire.protocol = factory.buildProtocol(None)
        wire.protocol.makeConnection(wire)
        self.processes[-1].wire = wire

    def callWhenRunning(self, call):
        call()

    def callFromThread(self, call, *args):
        self.callLater(0, call, *args)

    def stop(self):
        self.stops += 1

    def pump_seconds(self, seconds, each=lambda: None):
        """Let time pass in eighths of a second, which add up exactly."""
        for _ in range(max(1, round(seconds * 8))):
            self.advance(0.125)
            each()


class Notes(list):
    """Stands for systemd, and for the lock file."""

    watched = True

    def send(self, *lines):
        self.extend(lines)

    note = list.append


@pytest.fixture(autouse=True)
def _signals():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, action in zip(numbers, before, strict=True):
        signal.signal(number, action)


@pytest.fixture
def made(tmp_path, capsys):
    plain = {"node": {"name": "n1", "cluster": "c", "data_dir": str(tmp_path)}}
    config = Config.from_dict(plain | {"shards": {"restarts": 2}})
    identity = Identity(NodeId("ab" * 16), Incarnation(7), Notes())
    prepared = Prepared(config, identity, ((), ()), {}, {"peer": Address("127.0.0.1", 7700)})
    stage, status, systemd = Stage(), ExitStatus(lambda code: None), Notes()
    launch = Launch("x:y", {"A": "b"}, "")
    supervisor = Supervisor(stage, prepared, launch, status, systemd)
    supervisor.startService()
    return SimpleNamespace(
        stage=stage,
        supervisor=supervisor,
        status=status,
        systemd=systemd,
        lock=identity.lock,
        shard=lambda index: stage.processes[index],
    )


def ready(made, *indices):
    for index in indices:
        made.shard(index).say(messages.ShardReady(()))


def beat(made, *indices):
    for index in indices:
        made.shard(index).say(messages.Beat(1, 2.5, ()))


@pytest.mark.contract("SHD-7")
def test_late_first_start_ends_the_node_naming_the_shard(made, logged_errors):
    """A shard that is not ready in 30 s ends the start with 70; the others get to drain."""
    ready(made, 0)
    made.stage.pump_seconds(START_S + 0.1, lambda: beat(made, 0))
    assert made.status.code == 70
    assert made.status.text == "shard 1 did not start: not ready within 30 s"
    assert made.shard(1).signals == ["KILL"]
    assert made.shard(0).heard(messages.Drain) == [messages.Drain(FAILURE_DRAIN_S)]
    assert made.stage.stops == 0
    made.shard(1).end()
    made.shard(0).end(0)
    assert made.stage.stops == 1
    logged_errors.flush()


def test_late_restart_is_started_again(made):
    """Once the node has served, a shard that starts too slowly is killed and tried again."""
    ready(made, 0, 1)
    made.shard(1).end()
    made.stage.pump_seconds(0.1)
    made.stage.pump_seconds(START_S, lambda: beat(made, 0))
    assert made.shard(2).signals == ["KILL"]
    made.shard(2).end()
    made.stage.pump_seconds(0.2)
    assert len(made.stage.processes) == 4
    assert (made.status.code, made.stage.stops) == (0, 0)


@pytest.mark.contract("SHD-8")
def test_a_process_that_cannot_be_started_counts_as_an_end(made, logged_errors):
    """Out of processes: tried again with pauses, then the node ends and says why."""
    ready(made, 0, 1)
    made.stage.refuse = True
    before = len(os.listdir("/proc/self/fd"))
    made.shard(0).end()
    made.stage.pump_seconds(2.0, lambda: beat(made, 1))
    assert made.status.code == 70
    assert "shard 0 ended more than 2 times in 60 s" in made.status.text
    assert "could not be started: [Errno 11]" in made.status.text
    made.shard(1).end(0)
    assert made.stage.stops == 1
    assert len(os.listdir("/proc/self/fd")) <= before
    logged_errors.flush()


@pytest.mark.contract("SHD-8")
def test_silence_is_punished_and_withholds_the_watchdog(made):
    """WATCHDOG=1 stops while a shard is silent; the shard is killed and started again."""
    ready(made, 0, 1)
    made.systemd.clear()
    made.stage.pump_seconds(5.0, lambda: beat(made, 0, 1))
    assert made.systemd.count("WATCHDOG=1") == 5
    made.stage.pump_seconds(11.0, lambda: beat(made, 0))
    assert made.shard(1).signals == ["KILL"]
    assert made.systemd.count("WATCHDOG=1") <= 8
    made.shard(1).end()
    made.stage.pump_seconds(0.2, lambda: beat(made, 0))
    ready(made, 2)
    made.systemd.clear()
    made.stage.pump_seconds(3.0, lambda: beat(made, 0, 2))
    assert made.systemd.count("WATCHDOG=1") == 3


def test_a_shard_that_loses_its_channel_is_ended(made):
    """A process that closed its channel and lives on is killed: it cannot be told to stop."""
    ready(made, 0, 1)
    made.shard(1).wire.protocol.connectionLost(Failure(ConnectionResetError()))
    made.stage.pump_seconds(0.9, lambda: beat(made, 0))
    assert made.shard(1).signals == []
    made.stage.pump_seconds(0.2, lambda: beat(made, 0))
    assert made.shard(1).signals == ["KILL"]


def test_words_before_the_end_are_heard(made, logged_errors):
    """A process is reaped before its channel is read: what it said still counts."""
    ready(made, 0, 1)
    process = made.shard(1)
    process.ended = True
    process.protocol.processEnded(Failure(ProcessTerminated(1, None)))
    process.say(messages.Fatal(74, "the disk failed"))
    made.stage.pump_seconds(0.3)
    assert (made.status.code, made.status.text) == (74, "shard 1: the disk failed")
    logged_errors.flush()


def test_states_are_told_on_change_and_every_second(made):
    """Every shard learns what all do: pid, state, incarnation, restarts, lag, CPU, share."""
    ready(made, 0)
    row = made.shard(1).heard(messages.ShardStates)[-1].rows
    assert row[0] == [0, 1000, "running", 1, 0, 0.0, -1, 0]
    assert row[1] == [1, 1001, "starting", 1, 0, 0.0, -1, 0]
    ready(made, 1)
    beat(made, 0, 1)
    made.shard(1).heard(messages.ShardStates)
    made.stage.pump_seconds(2.0)
    told = made.shard(1).heard(messages.ShardStates)
    assert len(told) == 2
    assert told[-1].rows[1] == [1, 1001, "running", 1, 0, 2.5, -1, 0]
    assert made.shard(0).heard(messages.NodeCounters)
    assert not made.shard(1).heard(messages.NodeCounters)


def test_a_blocked_channel_costs_nothing_more(made):
    """A shard that reads nothing is sent no periodic news, so nothing piles up for it."""
    ready(made, 0, 1)
    channel = made.shard(1).wire.protocol
    made.stage.advance(0)
    channel.pauseProducing()
    frames = channel.outbox.frames
    made.stage.pump_seconds(5.0, lambda: beat(made, 0, 1))
    assert channel.outbox.frames == frames


@pytest.mark.contract("SHD-9")
def test_a_process_that_cannot_even_be_killed_is_not_waited_for(made):
    """After a second signal the node ends although a process hangs in the kernel."""
    ready(made, 0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    made.stage.advance(0)
    os.kill(os.getpid(), signal.SIGINT)
    made.stage.advance(0)
    assert made.shard(0).signals == made.shard(1).signals == ["KILL"]
    made.shard(0).end()
    assert made.stage.stops == 0
    made.stage.pump_seconds(REAP_S + 0.1)
    assert (made.stage.stops, made.status.code) == (1, 1)


def test_stopping_the_service_drains(made):
    """Stopped by somebody else than a signal, the service waits until no process is left."""
    ready(made, 0, 1)
    stopped = []
    made.supervisor.stopService().addCallback(stopped.append)
    assert made.shard(0).heard(messages.Drain) == [messages.Drain(30.0)]
    made.shard(0).end(0)
    assert not stopped
    made.shard(1).end(0)
    assert stopped == [None]
    assert made.stage.stops == 0  # it stops already
    assert made.systemd.count("STOPPING=1") == 1


def test_lock_names_the_process_that_runs(made):
    """The pid in the lock is noted when the service starts, after any fork."""
    assert made.lock == [str(os.getpid())]


def test_a_restarting_shard_does_not_hold_the_end_up(made):
    """SIGTERM while a shard waits for its restart: it is not started again."""
    ready(made, 0, 1)
    made.shard(1).end()
    os.kill(os.getpid(), signal.SIGTERM)
    made.stage.advance(0)
    made.shard(0).end(0)
    made.stage.pump_seconds(1.0)
    assert (made.stage.stops, len(made.stage.processes), made.status.code) == (1, 2, 0)

"""One life of one shard: its process, its two sockets, what it last said.

The process is started by exec, through the ``shard`` subcommand of the same twistd plugin,
never by a bare fork of a process that runs a reactor. It gets three descriptors beside the
standard ones; what it is comes as a file in memory, which has no size limit and shows in no
process list.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from meshsvc.model import Incarnation, Sent, ShardId
from meshsvc.node.boot import BOOT_FD, CONTROL_FD, HANDOFF_FD, Boot
from meshsvc.node.channel import Channel, attach, pass_descriptor
from meshsvc.wire.registry import Role

LAST_WORDS_S = 0.25
"""After a process ended, what it wrote before may still wait in its socket."""

_CODE = "from twisted.scripts.twistd import run; run()"


@dataclass(frozen=True, slots=True)
class Launch:
    """How shard processes are started: the same for all of a node.

    ``factory`` is ``module:function``; ``log_dir`` is empty when shards log where the
    supervisor does, which a daemon does not leave open.
    """

    factory: str
    env: Mapping[str, str]
    log_dir: str


class Watcher(Protocol):
    """Who is told what becomes of a life."""

    def life_said(self, life: Life, message: Any) -> None:
        """The process sent a message."""

    def life_silenced(self, life: Life) -> None:
        """The channel closed while the process runs, as far as is known yet."""

    def life_over(self, life: Life, cause: str) -> None:
        """The process ended and all it said has been passed on; called once."""


class Life(ProcessProtocol):
    """A shard process from its start to its end."""

    def __init__(self, reactor: Any, boot: Boot, watcher: Watcher) -> None:
        self.shard: ShardId = boot.shard
        self.incarnation: Incarnation = boot.shard_incarnation
        self.cpus = boot.cpus
        self.pid = 0
        self.lag_ms = 0.0
        self.connections = 0
        self._reactor = reactor
        self._boot = boot
        self._watcher = watcher
        self._cause = ""
        self._channel_open = False
        self.channel = Channel(reactor, self, Role.SHARD)
        self._handoff: socket.socket | None = None

    def start(self, launch: Launch) -> None:
        """Start the process.

        Raises:
            OSError: when there is no room for another process or descriptor.
        """
        control, control_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        handoff, handoff_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        boot_fd = _memory_file(self._boot.to_json())
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        errors = _error_log(launch.log_dir, self.shard)
        fds = {
            0: null,
            1: 1 if errors is None else null,
            2: 2 if errors is None else errors,
            CONTROL_FD: control_theirs.fileno(),
            HANDOFF_FD: handoff_theirs.fileno(),
            BOOT_FD: boot_fd,
        }
        argv = _argv(launch, self.shard)
        try:
            process = self._reactor.spawnProcess(
                self, sys.executable, argv, env=dict(launch.env), childFDs=fds
            )
        except BaseException:
            control.close()
            handoff.close()
            raise
        finally:
            control_theirs.close()
            handoff_theirs.close()
            for fd in (boot_fd, null, *([] if errors is None else [errors])):
                os.close(fd)
        self.pid = process.pid
        handoff.setblocking(False)
        self._handoff = handoff
        self._channel_open = True
        attach(self._reactor, control, self.channel)

    def pass_connection(self, packet: bytes, fd: int) -> Sent:
        """Hand one connection over, now or not at all."""
        if self._handoff is None or self._cause:
            return Sent.DISCONNECTED
        return pass_descriptor(self._handoff, packet, fd)

    def kill(self) -> None:
        """SIGKILL."""
        if self.transport is None:
            return
        try:
            self.transport.signalProcess("KILL")
        except ProcessExitedAlready:
            return  # its end is on the way here

    def channel_message(self, channel: Channel, message: Any) -> None:
        """Pass on."""
        self._watcher.life_said(self, message)

    def channel_ended(self, channel: Channel, text: str) -> None:
        """The process ended or is about to; or it closed the channel and goes on."""
        self._channel_open = False
        if self._cause:
            self._end()
        else:
            self._watcher.life_silenced(self)

    def processEnded(self, reason: Failure) -> None:
        """Twisted: the process was reaped."""
        self._cause = _cause(reason.value)
        if self._channel_open:
            self._reactor.callLater(LAST_WORDS_S, self.channel.abort)
        else:
            self._end()

    def _end(self) -> None:
        if self._handoff is not None:
            self._handoff.close()
            self._handoff = None
            self._watcher.life_over(self, self._cause)


def _argv(launch: Launch, shard: ShardId) -> list[str]:
    # -P: a shard finds its modules where its supervisor did, not first in the working directory.
    argv = [sys.executable, "-P", "-c", _CODE, "--nodaemon", "--pidfile="]
    if launch.log_dir:
        argv.append(f"--logfile={os.path.join(launch.log_dir, f'shard-{shard}.log')}")
    return [*argv, "meshsvc", "shard", f"--index={shard}", f"--shard-factory={launch.factory}"]


def _memory_file(data: bytes) -> int:
    fd = os.memfd_create("meshsvc-boot", os.MFD_CLOEXEC)
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _error_log(log_dir: str, shard: ShardId) -> int | None:
    """What a shard prints before it logs; only the last life's is kept, so it cannot grow."""
    if not log_dir:
        return None
    path = os.path.join(log_dir, f"shard-{shard}.err")
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def _cause(error: Any) -> str:
    if error.signal is not None:
        names = {each.value: each.name for each in signal.Signals}
        return f"killed by {names.get(error.signal, f'signal {error.signal}')}"
    return f"exit code {error.exitCode}"

"""What every shard process does, whatever it serves: pin itself, die with its supervisor,
drain when told to.

A shard must not outlive its supervisor: nobody would restart it, and its successor could
not know of it. The kernel kills it when the supervisor dies; should that not work, the end
of the channel does.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

from meshsvc.errors import StartError
from meshsvc.node import signals
from meshsvc.node.boot import BOOT_FD, CONTROL_FD, HANDOFF_FD, Boot
from meshsvc.node.channel import ShardChannel
from meshsvc.node.exits import USAGE

Factory = Callable[[Boot, ShardChannel, Any], IService]
"""``build_shard(boot, channel, reactor)``: the service that a shard runs."""

ORPHANED = 1
"""The exit code of a shard whose supervisor is gone; nobody is left to read it."""

SETTLE_S = 3.0
"""After this long a shard has imported what it needs: its memory is tidied once."""

GC_THRESHOLDS = (10_000, 20, 50)
"""Collections of young objects by the ten thousand: calls come and go without cycles, and
what a shard keeps (modules, frozen once) is not walked again and again."""

_PR_SET_PDEATHSIG = 1


def read_boot() -> Boot:
    """The ``Boot`` this process was started with; its descriptors go to no other process.

    Raises:
        StartError: when the process was not started by a supervisor.
    """
    try:
        with open(BOOT_FD, "rb") as file:
            boot = Boot.from_json(file.read())
    except OSError as error:
        text = "only a supervisor starts a shard: twistd -n meshsvc run --config FILE"
        raise StartError(text, USAGE) from error
    for fd in (CONTROL_FD, HANDOFF_FD):
        os.set_inheritable(fd, False)
    return boot


def die_with(supervisor: int) -> None:
    """Have the kernel SIGKILL this process when its parent dies.

    Raises:
        SystemExit: when the parent is gone already.
    """
    try:
        import ctypes  # noqa: PLC0415 - see below

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (ImportError, MemoryError, OSError, AttributeError):
        # Some hardened systems let ctypes allocate no callbacks, which it does on import;
        # then the end of the channel has to do.
        Logger().warn("the kernel cannot be asked to end this shard with its supervisor")
    if os.getppid() != supervisor:
        raise SystemExit(f"the supervisor {supervisor} is gone")


def pin(cpus: tuple[int, ...]) -> None:
    """Run on these CPUs only; an empty tuple leaves the mask as it is.

    Raises:
        OSError: when a CPU is not allowed (any more).
    """
    if cpus:
        os.sched_setaffinity(0, cpus)


def tidy_memory() -> None:
    """Leave what was imported out of later collections, and give freed pages back."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    with suppress(ImportError, MemoryError, AttributeError):  # as for die_with; glibc only
        import ctypes  # noqa: PLC0415

        ctypes.CDLL(None).malloc_trim(0)


def find_factory(name: str) -> Factory:
    """The function that ``module:function`` names."""
    module, _, function = name.partition(":")
    found: Factory = getattr(import_module(module), function)
    return found


class ShardProcess(MultiService):
    """Runs the service of a shard and ends the process when it is told to or orphaned."""

    _log = Logger()

    def __init__(self, reactor: Any, boot: Boot, channel: ShardChannel, factory: Factory) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reactor = reactor
        self._boot = boot
        self._channel = channel
        self._factory = factory
        self._ending = False

    def startService(self) -> None:
        """Build and start the shard's service.

        Raises:
            Exception: whatever the service raises; twistd then ends the process.
        """
        # The reactor installs handlers of its own as it starts.
        self._reactor.callWhenRunning(signals.leave_to_supervisor)
        self._reactor.callLater(SETTLE_S, tidy_memory)
        self._channel.ends_with(self._drained, self._orphaned)
        try:
            self._factory(self._boot, self._channel, self._reactor).setServiceParent(self)
            super().startService()  # type: ignore[no-untyped-call]
        except StartError as error:
            # Not raised: the reactor has to run for the supervisor to hear of it.
            self._log.critical("shard {shard}: {text}", shard=self._boot.shard, text=str(error))
            self._channel.fatal(error.exit_code, str(error))

    def _drained(self) -> None:
        self._ending = True
        self._stop()

    def _orphaned(self) -> None:
        if self._ending:
            return  # the reactor closes the channel as it stops
        # At once, like the supervisor: a shard that stopped its services would tell the
        # cluster that the node leaves on purpose, when it died.
        self._log.critical("the supervisor is gone: this shard ends")
        os._exit(ORPHANED)

    def _stop(self) -> None:
        with suppress(ReactorNotRunning):  # somebody else stopped it first
            self._reactor.stop()


def build_shard_process(reactor: Any, factory: str) -> IService:
    """The service of this shard process, which holds the descriptors of ``meshsvc.node.boot``.

    Raises:
        SystemExit: when the supervisor is gone already.
        StartError: when the process was not started by a supervisor.
    """
    signals.leave_to_supervisor()
    boot = read_boot()
    die_with(boot.supervisor)
    pin(boot.cpus)
    return ShardProcess(reactor, boot, ShardChannel(reactor), find_factory(factory))

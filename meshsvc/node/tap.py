"""The twistd plugin: ``twistd meshsvc run`` is a node, ``twistd meshsvc shard`` one of its
shards, which only a supervisor starts.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from twisted.application.service import IService
from twisted.python import usage

from meshsvc.errors import StartError

DEFAULT_FACTORY = "meshsvc.node.shard:build_shard"


class RunOptions(usage.Options):
    """``twistd meshsvc run``."""

    longdesc = "Run a node: a supervisor and its shards."
    optParameters = [  # noqa: RUF012 - twisted reads it from the class
        ["config", "c", "meshsvc.toml", "The config file of the node."],
        ["shard-factory", None, DEFAULT_FACTORY, "What a shard runs, as module:function."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["set"] = {}

    def opt_set(self, assignment: str) -> None:
        """Override one value of the config: section.key=value. May be repeated."""
        key, equals, value = assignment.partition("=")
        if not equals:
            raise usage.UsageError(f"--set {assignment}: write --set section.key=value")
        self["set"][key] = value


class ShardOptions(usage.Options):
    """``twistd meshsvc shard``."""

    longdesc = "Run one shard of a node; only a supervisor can start it."
    optParameters = [  # noqa: RUF012 - twisted reads it from the class
        ["index", None, "0", "Which shard; shown in process lists, nothing else."],
        ["shard-factory", None, DEFAULT_FACTORY, "What the shard runs, as module:function."],
    ]


class Options(usage.Options):
    """``twistd meshsvc``."""

    synopsis = "[run|shard] [options]"
    subCommands = [  # noqa: RUF012 - twisted reads it from the class
        ["run", None, RunOptions, "Run a node."],
        ["shard", None, ShardOptions, "Run one shard (for the supervisor)."],
    ]

    def postOptions(self) -> None:
        """Require a subcommand."""
        if self.subCommand is None:
            raise usage.UsageError("say what to do: run")


def makeService(options: Any) -> IService:
    """Twisted: build what the subcommand asks for. A node that cannot start ends here, in
    the foreground also when it is to become a daemon, with a message and an exit code.
    """
    if options.subCommand == "shard":
        return _make_shard(options.subOptions)
    try:
        return _make_supervisor(options)
    except StartError as error:
        sys.stderr.write(f"meshsvc: cannot start: {error}\n")
        sys.stderr.flush()
        raise SystemExit(error.exit_code) from None


def _make_supervisor(options: Any) -> IService:
    from twisted.internet import reactor

    from meshsvc.node import notify
    from meshsvc.node.exits import ExitStatus
    from meshsvc.node.spawn import Launch
    from meshsvc.node.start import make_log_dir, prepare
    from meshsvc.node.supervisor import Supervisor

    run = options.subOptions
    prepared = prepare(run["config"], os.environ, run["set"])
    daemon = not options.parent["nodaemon"]
    log_dir = make_log_dir(prepared.config.node.data_dir) if daemon else ""
    launch = Launch(run["shard-factory"], notify.without(os.environ), log_dir)
    status = ExitStatus()
    status.install()
    return Supervisor(reactor, prepared, launch, status, notify.here())


def _make_shard(options: Any) -> IService:
    from twisted.internet import reactor

    from meshsvc.node.channel import ShardChannel
    from meshsvc.node.shard_process import ShardProcess, die_with, find_factory, pin, read_boot

    boot = read_boot()
    die_with(boot.supervisor)
    pin(boot.cpus)
    factory = find_factory(options["shard-factory"])
    return ShardProcess(reactor, boot, ShardChannel(reactor), factory)

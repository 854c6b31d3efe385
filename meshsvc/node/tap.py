"""The twistd plugin: ``twistd meshsvc run`` is a node, ``twistd meshsvc shard`` one of its
shards, which only a supervisor starts.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.application.service import IService
from twisted.python import usage

from meshsvc.errors import StartError

DEFAULT_FACTORY = "meshsvc.admin.service:build_shard"
"""What stands on top of this floor is named, not imported."""


class RunOptions(usage.Options):
    """``twistd meshsvc run``."""

    synopsis = "Usage: meshsvc run [options]    (or: twistd [options] meshsvc run [options])"
    longdesc = "Run a node: a supervisor and its shards."
    optParameters = [  # noqa: N815, RUF012 - twisted's name
        ["config", "c", "meshsvc.toml", "The config file of the node."],
        ["shard-factory", None, DEFAULT_FACTORY, "What a shard runs, as module:function."],
    ]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["set"] = {}

    def opt_set(self, assignment: str) -> None:
        """Override one value of the config: section.key=value. May be repeated."""
        key, equals, value = assignment.partition("=")
        if not equals:
            raise usage.UsageError(f"--set {assignment}: write --set section.key=value")
        self["set"][key] = value

    def parseArgs(self, *words: str) -> None:
        """There are none."""
        if words:
            raise usage.UsageError(f"{words[0]!r} is no option: write --config {words[0]}")


class ShardOptions(usage.Options):
    """``twistd meshsvc shard``."""

    longdesc = "Run one shard of a node; only a supervisor can start it."
    optParameters = [  # noqa: N815, RUF012 - twisted's name
        ["index", None, "0", "Which shard; shown in process lists, nothing else."],
        ["shard-factory", None, DEFAULT_FACTORY, "What the shard runs, as module:function."],
    ]


class Options(usage.Options):
    """``twistd meshsvc``."""

    synopsis = "[run|shard] [options]"
    subCommands = [  # noqa: N815, RUF012 - twisted's name
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
    # Imported here: twistd loads this module to list its options, and neither process
    # needs what the other is made of.
    from twisted.internet import reactor  # noqa: PLC0415

    chosen = options.subOptions
    try:
        if options.subCommand == "shard":
            from meshsvc.node.shard_process import build_shard_process  # noqa: PLC0415

            return build_shard_process(reactor, chosen["shard-factory"])

        from meshsvc.node.run import build_supervisor  # noqa: PLC0415

        daemon = not options.parent["nodaemon"]
        return build_supervisor(
            reactor, chosen["config"], chosen["set"], chosen["shard-factory"], daemon
        )
    except StartError as error:
        sys.stderr.write(f"meshsvc: cannot start: {error}\n")
        sys.stderr.flush()
        raise SystemExit(error.exit_code) from None

"""``meshsvc run``: the same as ``twistd -n meshsvc run``, by the same code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from meshsvc.admin.cli import exits


def run(arguments: Sequence[str]) -> int:
    """Become the node; returns when it has stopped.

    No pid file, since a node in the foreground is whoever started it's to signal, and two
    nodes started in one folder would fight for the file.
    """
    # Twisted takes 0.2 s to import, which no other verb has to spend.
    from twisted.python.usage import UsageError  # noqa: PLC0415
    from twisted.scripts import twistd  # noqa: PLC0415

    from meshsvc.node.tap import RunOptions  # noqa: PLC0415

    try:
        RunOptions().parseOptions(list(arguments))  # type: ignore[no-untyped-call]
    except UsageError as error:  # which twistd ends with 1, behind a page of its own options
        print(f"meshsvc run: {error}; see meshsvc run --help", file=sys.stderr)
        return exits.USAGE
    sys.argv = ["twistd", "--nodaemon", "--pidfile=", "meshsvc", "run", *arguments]
    twistd.run()
    return 0

"""``meshsvc``: runs the verb that was asked for and turns failures into exit codes."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.exits import CliError
from meshsvc.admin.cli.run import run
from meshsvc.errors import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["run"]:
        # Not parsed here: its options are those of the twistd plugin, so they cannot differ.
        return run(given[1:])
    args = Namespace(until_interrupted=False)
    try:
        code = _verb(given, args)
        if sys.stdout is not None:  # the shell can have closed it
            sys.stdout.flush()
    except KeyboardInterrupt:
        # How one ends what follows events; of all else it means that it was not done.
        return exits.OK if args.until_interrupted else exits.INTERRUPTED
    except Exception as error:
        return _failed(error)
    return code


def _verb(given: Sequence[str], args: Namespace) -> int:
    # Imported here: a node that runs need not hold what the other verbs use.
    from meshsvc.admin.cli.arguments import build_parser  # noqa: PLC0415
    from meshsvc.admin.cli.client import DEFAULT_URL  # noqa: PLC0415

    given, command = _command_in(given)
    build_parser().parse_args(given, args)
    args.command = command
    args.admin = getattr(args, "admin", None) or os.environ.get("MESHSVC_ADMIN") or DEFAULT_URL
    args.output = getattr(args, "output", "table")
    code: int = args.verb(args)
    return code


def _command_in(given: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """What stands behind the -- of ``lock NAME -- COMMAND`` is not for the parser.

    None without a --: that means to hold the lock, and no words behind it are a mistake.
    """
    words = list(given)
    if "--" in words and "lock" in words[: words.index("--")]:
        at = words.index("--")
        return words[:at], words[at + 1 :]
    return words, None


def _failed(error: Exception) -> int:
    """Say what went wrong, and give the exit code for it."""
    if isinstance(error, CliError):
        return _say(error.code, str(error))
    if isinstance(error, ConfigError):
        return _say(exits.CONFIG, str(error))
    if isinstance(error, BrokenPipeError):
        # The reader has what it wanted; flushing at exit would complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.IO
    if isinstance(error, OSError):
        where = error.filename or "reading or writing"
        return _say(exits.IO, f"{where}: {error.strerror or error}")
    import traceback  # noqa: PLC0415  (only for what should never happen)

    traceback.print_exception(error)
    return _say(exits.BUG, f"a fault of meshsvc ({type(error).__name__}): please report it")


def _say(code: int, text: str) -> int:
    print("\n".join(f"meshsvc: {line}" for line in text.splitlines()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

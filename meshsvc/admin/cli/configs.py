"""The verbs about config files: check and show. They need no node."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.exits import CliError
from meshsvc.admin.cli.output import show_row
from meshsvc.errors import ConfigError
from meshsvc.node.config import Config, load
from meshsvc.node.config_problems import shown


def check(args: argparse.Namespace) -> int:
    """Say that a config is right, or everything that is wrong with it."""
    try:
        load(args.file, os.environ, _overrides(args))
    except ConfigError as error:
        if args.output != "table":
            show_row(args.output, {"ok": False, "problems": list(error.problems)}, [])
        else:
            print(error, file=sys.stderr)
            count = len(error.problems)
            print(f"{args.file}: {count} problem{'s' * (count != 1)}", file=sys.stderr)
        return exits.CONFIG
    if args.output != "table":
        show_row(args.output, {"ok": True, "problems": []}, [])
    else:
        print(f"{args.file}: ok")
    return exits.OK


def show(args: argparse.Namespace) -> int:
    """Print every value that holds, and with ``--origin`` where it was set."""
    config = load(args.file, os.environ, _overrides(args))
    if args.output != "table":
        plain = config.to_dict()
        show_row(args.output, _with_origins(config) if args.origin else plain, [])
        return exits.OK
    for section, table in config.to_dict().items():
        if section == "applications":
            continue
        print(f"[{section}]")
        for key, value in table.items():
            print(_line(key, value, config, f"{section}.{key}", args.origin))
        print()
    for name, options in config.applications.items():
        print(f"[applications.{name}]")
        for key, value in options.items():
            print(_line(key, value, config, f"applications.{name}.{key}", args.origin))
        print()
    return exits.OK


def _overrides(args: argparse.Namespace) -> dict[str, object]:
    for each in args.set:
        if "=" not in each or "." not in each.partition("=")[0]:
            raise CliError(exits.USAGE, f"--set {each}: write --set section.key=value")
    pairs = (each.partition("=") for each in args.set)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _with_origins(config: Config) -> dict[str, Any]:
    return {
        f"{section}.{key}": {"value": value, "origin": _origin(config, f"{section}.{key}")}
        for section, table in config.to_dict().items()
        for key, value in table.items()
    }


def _origin(config: Config, dotted: str) -> str:
    found = config.origins.get(dotted)
    inner = (at for key, at in config.origins.items() if key.startswith(dotted + "."))
    return found or ", ".join(dict.fromkeys(inner)) or "default"


def _line(key: str, value: object, config: Config, dotted: str, origin: bool) -> str:
    text = f"{key} = {shown(value)}"
    return f"{text:<40}  # {_origin(config, dotted)}" if origin else text

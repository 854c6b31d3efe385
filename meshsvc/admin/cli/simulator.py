"""``meshsvc sim``: whole clusters in this process, over virtual time, from a seed.

The simulator stands above this floor and is found by name, only when it is asked for.
"""

from __future__ import annotations

import argparse
from importlib import import_module

SIMULATOR = "meshsvc.sim.cli"


def run(args: argparse.Namespace) -> int:
    """Run a scenario for many seeds; ends with 1 when an invariant did not hold."""
    code: int = import_module(SIMULATOR).run(args)
    return code


def replay(args: argparse.Namespace) -> int:
    """Run one seed again and print its event log, a line for each event."""
    code: int = import_module(SIMULATOR).replay(args)
    return code


def scenarios(args: argparse.Namespace) -> int:
    """List the scenarios that come with meshsvc."""
    code: int = import_module(SIMULATOR).scenarios(args)
    return code

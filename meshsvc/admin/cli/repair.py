"""``meshsvc repair``: look at the journals of a stopped node, or give one up to be rebuilt."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from typing import Any

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.exits import CliError
from meshsvc.admin.cli.output import show_rows
from meshsvc.errors import StartError
from meshsvc.storage import owner as owners
from meshsvc.storage import repair as repairs
from meshsvc.storage.failures import Damaged
from meshsvc.storage.files import RealFileSystem
from meshsvc.storage.identity import IDENTITY
from meshsvc.storage.owner import journal_dir
from meshsvc.storage.repair import Finding, GivenUp

COLUMNS = ("shard", "state", "replica", "groups", "entries", "detail")
REBUILT_COLUMNS = ("shard", "state", "replaces", "moved_to")


def repair(args: argparse.Namespace) -> int:
    """Check what a stopped node keeps for Raft; with --rebuild, give up what is damaged.

    A replica that was given up starts without a log, as a new member, and is filled by the
    others. Do that only while a majority of the other members is well.
    """
    fs, data_dir = RealFileSystem(), os.path.abspath(args.data_dir)
    if not os.path.isdir(data_dir):
        raise CliError(exits.USAGE, f"{data_dir} is no directory: name a node's data directory")
    try:
        lock = repairs.lock_stopped(fs, data_dir)
        try:
            return _repair(args, fs, data_dir)
        finally:
            lock.release()
    except StartError as error:
        raise CliError(error.exit_code, str(error)) from error


def _repair(args: argparse.Namespace, fs: RealFileSystem, data_dir: str) -> int:
    shards = repairs.shards(fs, data_dir)
    if args.shard is not None and args.shard not in shards:
        raise CliError(exits.USAGE, f"{data_dir} has nothing of shard {args.shard}")
    if not shards:
        _say_nothing_kept(data_dir)
    _check_owners(fs, data_dir, shards)
    chosen = shards if args.shard is None else (args.shard,)
    findings = [_look(fs, data_dir, shard) for shard in chosen]
    damaged = [finding for finding in findings if finding.damage]
    if not args.rebuild or not damaged:
        show_rows(args.output, [_row(finding) for finding in findings], COLUMNS)
        if args.rebuild:
            print("meshsvc: nothing is damaged, so nothing was given up", file=sys.stderr)
        return exits.UNHEALTHY if damaged else exits.OK
    given_up = [repairs.give_up(fs, data_dir, finding.shard) for finding in damaged]
    show_rows(args.output, [_rebuilt(each) for each in given_up], REBUILT_COLUMNS)
    return exits.OK


def _check_owners(fs: RealFileSystem, data_dir: str, shards: tuple[int, ...]) -> None:
    """Refuse (78) the shards of another node: to give one up here would drop that node's member."""
    try:
        node_id = str(json.loads(fs.read(os.path.join(data_dir, IDENTITY)) or b"")["node_id"])
    except (ValueError, KeyError, TypeError):
        return  # lost or damaged, as the start of the node says
    for shard in shards:
        folder = journal_dir(data_dir, shard)
        try:
            owner = owners.load(fs, folder)
        except Damaged:
            continue
        if owner is not None:
            owners.check(owner, folder, node_id, shard)


def _say_nothing_kept(data_dir: str) -> None:
    if not os.path.exists(os.path.join(data_dir, IDENTITY)):
        text = f"{data_dir} has no {IDENTITY} and no shard: name a node's data directory"
        raise CliError(exits.USAGE, text)
    print(f"meshsvc: {data_dir} keeps nothing for Raft: this node held no store", file=sys.stderr)


def _look(fs: RealFileSystem, data_dir: str, shard: int) -> Finding:
    """The journal and, beside that of shard 0, the record of which store it is a part of."""
    from meshsvc.node.store.record import RecordFile  # noqa: PLC0415

    finding = repairs.look(fs, data_dir, shard)
    if finding.damage or shard != 0:
        return finding
    record = RecordFile(fs, data_dir, finding.replica, held=finding.groups > 0)
    return replace(finding, damage=record.damage())


def _row(finding: Finding) -> dict[str, Any]:
    return {
        "shard": finding.shard,
        "state": "damaged" if finding.damage else "well",
        "replica": f"{finding.replica:016x}",
        "groups": finding.groups,
        "entries": finding.entries,
        "detail": finding.damage or "; ".join(finding.notes),
    }


def _rebuilt(given_up: GivenUp) -> dict[str, Any]:
    return {
        "shard": given_up.shard,
        "state": "to be rebuilt",
        "replaces": f"{given_up.replaces:016x}",
        "moved_to": given_up.moved_to,
    }

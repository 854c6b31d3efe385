"""``meshsvc snapshot``: the store as a file: save it, look at it, begin a new cluster with it.

A file is written aside and gets its name once it is whole and its checksum was compared. What
``etcdctl snapshot save`` writes with a node of ours is the same.

The store is imported by the verbs that need it: the others are not to wait for that.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meshsvc.admin.cli import exits
from meshsvc.admin.cli.exits import CliError
from meshsvc.admin.cli.output import show_row
from meshsvc.admin.cli.progress import Progress
from meshsvc.admin.cli.store_client import StoreClient, decoded, store_of
from meshsvc.errors import StartError

SAVED = ["file", "bytes", "revision"]
STATUS = ["file", "bytes", "revision", "compacted", "keys", "leases", "hash"]
RESTORED = ["data_dir", "node", "cluster", "member", "revision", "keys", "leases"]

SILENCE_S = 30.0
"""How long no piece of a snapshot may come."""

PARTIAL = ".part"


def save(args: argparse.Namespace) -> int:
    """Save the store of a node as a file, with a checksum; nothing that is there is overwritten."""
    from meshsvc.kv.snapshot import BadSnapshot  # noqa: PLC0415

    target, partial = Path(args.file), Path(args.file + PARTIAL)
    if args.file == "-":
        raise CliError(exits.USAGE, "a snapshot is checked once it is written: name a file for it")
    if not target.parent.is_dir():
        raise CliError(exits.IO, f"{target.parent} is no directory: make it, or name another")
    if target.exists():
        raise CliError(exits.CANNOT_CREATE, f"{target} is there already: name another file")
    pieces = _pieces(store_of(args)) if args.data_dir is None else _salvaged(args.data_dir)
    size = revision = 0
    try:
        with partial.open("wb") as file:
            for data, revision in pieces:  # noqa: B007 - the last one counts
                size += file.write(data)
            file.flush()
            os.fsync(file.fileno())
        for _ in _chunks(partial, "check"):
            pass
        partial.rename(target)
    except BadSnapshot as error:
        raise CliError(exits.RETRY, f"what came is not whole ({error}): try again") from None
    finally:
        partial.unlink(missing_ok=True)
    show_row(args.output, {"file": str(target), "bytes": size, "revision": revision}, SAVED)
    return exits.OK


def _salvaged(data_dir: str) -> Iterator[tuple[bytes, int]]:
    """The same from the disk of a stopped node."""
    from meshsvc.node.store import salvaging  # noqa: PLC0415
    from meshsvc.storage.files import RealFileSystem  # noqa: PLC0415
    from meshsvc.storage.repair import lock_stopped  # noqa: PLC0415

    fs, folder = RealFileSystem(), str(Path(data_dir).absolute())
    if not Path(folder).is_dir():
        raise CliError(exits.USAGE, f"{folder} is no directory: name a node's data directory")
    try:
        lock = lock_stopped(fs, folder)
        try:
            machine = salvaging.salvage(fs, folder)
        finally:
            lock.release()
    except StartError as error:
        raise CliError(error.exit_code, str(error)) from None
    for data in salvaging.saved(machine):
        yield data, machine.mvcc.revision


def _pieces(store: StoreClient) -> Iterator[tuple[bytes, int]]:
    """The pieces of a snapshot as they come, and the revision that each of them names."""
    progress, done = Progress("snapshot"), 0
    try:
        for result in store.results("/v3/maintenance/snapshot", {}, SILENCE_S):
            data = decoded(result.get("blob"))
            done += len(data)
            progress.show(done, done + int(result.get("remaining_bytes", 0)))
            yield data, int(result.get("header", {}).get("revision", 0))
    finally:
        progress.clear()


def _chunks(path: Path, what: str) -> Iterator[bytes]:
    """The chunks of a file.

    Raises:
        BadSnapshot: as ``snapshot_file.scan``.
        OSError: it cannot be read.
    """
    from meshsvc.kv import snapshot_file  # noqa: PLC0415

    progress, size = Progress(what), path.stat().st_size
    try:
        with path.open("rb") as file:
            for chunk in snapshot_file.scan(file.read):
                progress.show(file.tell(), size)
                yield chunk
    finally:
        progress.clear()


def status(args: argparse.Namespace) -> int:
    """Read a saved snapshot to its end and print what is in it; 1 when it is damaged."""
    from meshsvc.kv.hash import combine, hash_keys  # noqa: PLC0415
    from meshsvc.kv.machine import Machine  # noqa: PLC0415
    from meshsvc.kv.snapshot import BadSnapshot, Restore  # noqa: PLC0415

    path = Path(args.file)
    filling = Restore(Machine())
    try:
        whole = [filling.feed(chunk) for chunk in _chunks(path, "read")]
    except BadSnapshot as error:
        raise CliError(exits.UNHEALTHY, f"{path}: {error}") from None
    if not whole or not whole[-1]:
        raise CliError(exits.UNHEALTHY, f"{path}: the snapshot ends too early: save it again")
    machine = filling.machine
    value, compacted = _finish(hash_keys(machine.mvcc, 0))
    row = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "revision": machine.mvcc.revision,
        "compacted": max(0, compacted),
        "keys": len(machine.mvcc.index),
        "leases": len(machine.leases),
        "hash": f"{combine(value, []):08x}",
    }
    show_row(args.output, row, STATUS)
    return exits.OK


def _finish(steps: Any) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def restore(args: argparse.Namespace) -> int:
    """Make a stopped node the first of a new cluster, with what a snapshot holds."""
    from meshsvc.kv.snapshot import BadSnapshot  # noqa: PLC0415
    from meshsvc.model import NodeId  # noqa: PLC0415
    from meshsvc.node.store import restoring  # noqa: PLC0415
    from meshsvc.storage.files import RealFileSystem  # noqa: PLC0415
    from meshsvc.storage.identity import open_identity  # noqa: PLC0415

    path, fs = Path(args.file), RealFileSystem()
    if not path.is_file():
        raise CliError(exits.IO, f"{path} is no file")
    data_dir, name, cluster = _node_of(args)
    aside = Path(data_dir, restoring.ASIDE)
    try:
        restoring.refuse_taken(fs, data_dir)
        mint = lambda: NodeId(uuid.uuid4().hex)  # noqa: E731
        me = open_identity(fs, data_dir, name, cluster, time.time(), mint)
        try:
            shutil.rmtree(aside, ignore_errors=True)  # of an attempt that was interrupted
            chunks = _chunks(path, "restore")
            rng = random.SystemRandom()
            done = restoring.restore(fs, data_dir, me.node_id, chunks, lambda: rng.getrandbits(64))
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            me.lock.release()
    except BadSnapshot as error:
        raise CliError(exits.IO, f"{path}: {error}; nothing was restored") from None
    except StartError as error:
        raise CliError(error.exit_code, str(error)) from None
    row = {
        "data_dir": data_dir,
        "node": name,
        "cluster": f"{done.cluster:x}",
        "member": f"{done.member:x}",
        "revision": done.revision,
        "keys": done.keys,
        "leases": done.leases,
    }
    show_row(args.output, row, RESTORED)
    if args.output == "table":
        text = "start this node, then others whose data directories are empty: they join it"
        print(f"\n{text}", file=sys.stderr)
    return exits.OK


def _node_of(args: argparse.Namespace) -> tuple[str, str, str]:
    """Data directory, name and cluster of the node, by its config or by what was given."""
    if args.config is None:
        if args.data_dir is None or args.name is None or args.cluster is None:
            text = "give --config NODE.toml, or all of --data-dir, --name and --cluster"
            raise CliError(exits.USAGE, text)
        return str(Path(args.data_dir).absolute()), args.name, args.cluster
    from meshsvc.node.config import load  # noqa: PLC0415

    config = load(Path(args.config), os.environ)
    if not config.store.expect:
        text = f"{args.config} has [store] expect = 0: that node would never open what is restored"
        raise CliError(exits.CONFIG, text)
    return config.node.data_dir, config.node.name, config.node.cluster

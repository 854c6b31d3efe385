"""Who this node is and which life of it this is, from its data directory.

Why it is more than reading a file: the generation must be on the disk before anybody hears
it, or a crash would let two lives of the node speak under one number; and it must rise even
when the clock was set back. And one directory belongs to one process at a time, hence the
lock comes first and is never let go while the node lives.

The file carries a checksum over all its other keys: a generation with a flipped bit would be
a number like any other. A file that an earlier version wrote has exactly the keys of
``_Stored`` and no checksum; it is accepted, and the new life writes it with one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from meshsvc.errors import StartError
from meshsvc.model import Incarnation, NodeId
from meshsvc.storage.checksum import checksum
from meshsvc.storage.files import EX_IOERR, FileSystem, Lock, Locked, replace

LOCK = "lock"
IDENTITY = "identity.json"

EX_TEMPFAIL = 75
EX_CONFIG = 78

CHECKSUM = "checksum"

_NODE_ID_DIGITS = 32
_KEYS = {"node_id", "cluster", "name", "generation"}


@dataclass(frozen=True, slots=True)
class Identity:
    """A node's id, this life's generation (unix seconds at least), and the lock it holds."""

    node_id: NodeId
    generation: Incarnation
    lock: Lock


@dataclass(frozen=True, slots=True)
class _Stored:
    node_id: str
    cluster: str
    name: str
    generation: int


def open_identity(
    fs: FileSystem,
    data_dir: str,
    name: str,
    cluster: str,
    now_s: float,
    mint: Callable[[], NodeId],
) -> Identity:
    """Lock a data directory, making it when needed, and begin a new life of its node.

    Args:
        fs: the disk.
        data_dir: absolute path.
        name: the configured name of the node.
        cluster: the configured name of the cluster.
        now_s: unix time in seconds.
        mint: gives the id of a node that has none yet, called at most once.

    Raises:
        StartError: 75 when another process has the directory, 78 when it belongs to another
            node or cluster, 74 when it cannot be used or its content is damaged.
    """
    try:
        fs.make_dir(data_dir)
        lock = fs.lock(os.path.join(data_dir, LOCK))
    except Locked as error:
        raise StartError(_locked(data_dir, error.holder), EX_TEMPFAIL) from None
    except OSError as error:
        raise StartError(_unusable(data_dir, error), EX_IOERR) from error
    try:
        identity = _begin(fs, data_dir, name, cluster, now_s, mint)
    except OSError as error:
        lock.release()
        raise StartError(_unusable(data_dir, error), EX_IOERR) from error
    except StartError:
        lock.release()
        raise
    return Identity(NodeId(identity.node_id), Incarnation(identity.generation), lock)


def _begin(
    fs: FileSystem,
    data_dir: str,
    name: str,
    cluster: str,
    now_s: float,
    mint: Callable[[], NodeId],
) -> _Stored:
    path = os.path.join(data_dir, IDENTITY)
    data = fs.read(path)
    if data is None:
        begun = _Stored(mint(), cluster, name, int(now_s))
    else:
        stored = _parse(path, data)
        _check_owner(data_dir, stored, name, cluster)
        generation = max(stored.generation + 1, int(now_s))
        begun = _Stored(stored.node_id, cluster, name, generation)
    replace(fs, path, _dump(begun))
    return begun


def _parse(path: str, data: bytes) -> _Stored:
    try:
        row = json.loads(data)
        stored = _Stored(row["node_id"], row["cluster"], row["name"], row["generation"])
        intact = row.keys() == _KEYS or row[CHECKSUM] == _sum(row)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StartError(_damaged(path, "it is no whole JSON object of a node"), EX_IOERR) from None
    texts = (stored.node_id, stored.cluster, stored.name)
    if not all(isinstance(text, str) for text in texts) or type(stored.generation) is not int:
        raise StartError(_damaged(path, "a value has the wrong type"), EX_IOERR)
    if not intact:
        raise StartError(_damaged(path, "its checksum is not that of its content"), EX_IOERR)
    if len(stored.node_id) != _NODE_ID_DIGITS or set(stored.node_id) - set("0123456789abcdef"):
        raise StartError(_damaged(path, f"{stored.node_id!r} is no node id"), EX_IOERR)
    return stored


def _sum(row: dict[str, Any]) -> str:
    """Over every other key, whatever a later version adds, and whatever the layout."""
    content = {key: value for key, value in row.items() if key != CHECKSUM}
    return checksum(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def _dump(stored: _Stored) -> bytes:
    row = asdict(stored)
    return json.dumps({**row, CHECKSUM: _sum(row)}, indent=2).encode() + b"\n"


def _check_owner(data_dir: str, stored: _Stored, name: str, cluster: str) -> None:
    """A directory speaks for one node of one cluster: a copied config must not borrow it."""
    for what, theirs, mine in (
        ("cluster", stored.cluster, cluster),
        ("node", stored.name, name),
    ):
        if theirs != mine:
            raise StartError(
                f"the data directory {data_dir} belongs to {what} {theirs!r}, the config says"
                f" {mine!r}: set another node.data_dir, or change the config back",
                EX_CONFIG,
            )


def _locked(data_dir: str, holder: str) -> str:
    who = f"process {holder}" if holder else "another process"
    return (
        f"the data directory {data_dir} is locked by {who}: stop that node, or set another"
        " node.data_dir"
    )


def _unusable(data_dir: str, error: OSError) -> str:
    return f"the data directory {data_dir} cannot be used: {error}: check its owner and its disk"


def _damaged(path: str, what: str) -> str:
    return (
        f"{path} is damaged ({what}): check the disk and start again, as it may have been misread;"
        " if it stays so, restore the file from a backup, or, when the other nodes are well, move"
        " the data directory away: the node joins again under its name, as another one"
    )

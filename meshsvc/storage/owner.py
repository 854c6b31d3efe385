"""Whose journal a directory holds: which node, which shard, and which replica it is.

The replica is a number minted with the journal. It is the member that its groups vote as, so
it lives and dies with the votes on this disk: a journal that was lost or quarantined comes
back under another number and never votes as its old self. ``replaces`` tells which member
that was, so that the groups can drop it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from zlib import crc32

from meshsvc.errors import StartError
from meshsvc.storage.failures import Damaged
from meshsvc.storage.files import FileSystem, replace

FILE = "journal.id"
EX_CONFIG = 78


@dataclass(frozen=True, slots=True)
class Owner:
    """Who a journal belongs to; ``replica`` and ``replaces`` are unsigned 64-bit numbers."""

    node_id: str
    shard: int
    replica: int
    replaces: int = 0


def shard_dir(data_dir: str, shard: int) -> str:
    """Where a shard keeps what belongs to its replica."""
    return os.path.join(data_dir, f"shard-{shard}")


def journal_dir(data_dir: str, shard: int) -> str:
    """Where the journal of a shard is."""
    return os.path.join(shard_dir(data_dir, shard), "journal")


def snapshots_dir(data_dir: str, shard: int) -> str:
    """Where the snapshots of a shard's groups are."""
    return os.path.join(shard_dir(data_dir, shard), "snapshots")


def load(fs: FileSystem, folder: str) -> Owner | None:
    """Whose journal is in a directory, None when there is none yet.

    Raises:
        Damaged: the file cannot be made sense of.
    """
    path = os.path.join(folder, FILE)
    data = fs.read(path)
    if data is None:
        return None
    text, _, check = data.partition(b"\n")
    if check.strip() != f"{crc32(text):08x}".encode():
        raise Damaged(path, 0, "its checksum is wrong")
    try:
        return Owner(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise Damaged(path, 0, f"it does not say whose journal this is ({error})") from None


def save(fs: FileSystem, folder: str, owner: Owner) -> None:
    """Say durably whose journal a directory holds."""
    text = json.dumps(asdict(owner)).encode()
    replace(fs, os.path.join(folder, FILE), text + f"\n{crc32(text):08x}\n".encode())


def check(owner: Owner, folder: str, node_id: str, shard: int) -> None:
    """Refuse the journal of another.

    Raises:
        StartError: 78, naming both.
    """
    # No node: a repair could not read whose it was; the identity of the directory is checked.
    if owner.shard == shard and owner.node_id in (node_id, ""):
        return
    raise StartError(
        f"the journal in {folder} belongs to shard {owner.shard} of node {owner.node_id}, and"
        f" this is shard {shard} of node {node_id}: a copy would vote twice; give this node a"
        " data directory of its own, or move the journal away to join as a new replica",
        EX_CONFIG,
    )

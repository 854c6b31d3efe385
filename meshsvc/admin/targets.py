"""Whom a call is for, as people write it.

``n1`` is any shard of a node, ``n1/1`` one of its shards, ``key:user:17`` the owner of a
key, ``all`` every node. Pure, and used by the command line as well as by the node.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from meshsvc.model import MAX_SHARDS

FORMS = "NODE, NODE/SHARD, key:KEY or all"
MAX_KEY = 4096
"""Characters of a key: longer ones are data, not names."""

_NODE = re.compile(r"([a-z0-9-]{1,63})(?:/([0-9]{1,3}))?")


@dataclass(frozen=True, slots=True)
class Target:
    """``kind`` says which of the other fields is set."""

    kind: Literal["node", "shard", "key", "all"]
    node: str = ""
    shard: int | None = None
    key: str = ""


def parse_target(text: str) -> Target:
    """Read a target.

    Raises:
        ValueError: when the text has none of the forms above.
    """
    if text == "all":
        return Target("all")
    if text.startswith("key:"):
        key = text[4:]
        if not 0 < len(key) <= MAX_KEY:
            raise ValueError(f"a key has 1 to {MAX_KEY} characters, {len(key)} were given")
        return Target("key", key=key)
    match = _NODE.fullmatch(text)
    if match is None:
        names = "names of nodes are of a-z, 0-9 and -"
        raise ValueError(f"{text!r:.80} is not a target: write {FORMS}; {names}")
    if match[2] is None:
        return Target("node", match[1])
    if int(match[2]) >= MAX_SHARDS:
        raise ValueError(f"{text!r}: shards are 0 to {MAX_SHARDS - 1}")
    return Target("shard", match[1], int(match[2]))

"""Every section and key of the config: its type, its default, what it is for.

A key that holds a duration is an attribute ending in ``_s``: ``[gossip] interval`` is
``config.gossip.interval_s``, in seconds. All other attributes are called like their keys.
To add a key, add a field here and its lines in ``etc/meshsvc.toml``; a test compares them.
"""

# ruff: noqa: RUF009 - key() returns a dataclass field, not a shared default

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from meshsvc.model import Address
from meshsvc.node import config_kinds as kinds
from meshsvc.node.config_kinds import Kind

_REQUIRED = object()


def key(default: object, kind: Kind) -> Any:
    """A dataclass field for one key; ``default`` is spelled as in the file."""
    metadata = {"kind": kind, "default": default, "required": default is _REQUIRED}
    if default is _REQUIRED:
        return field(metadata=metadata)
    return field(default=kind.read(default), metadata=metadata)


@dataclass(frozen=True, slots=True)
class Node:
    """``[node]``: who this node is and what of the machine it uses."""

    name: str = key(_REQUIRED, kinds.name())
    cluster: str = key(_REQUIRED, kinds.filled())
    data_dir: str = key(_REQUIRED, kinds.filled())
    run_dir: str = key("", kinds.text())
    cpu_allocation: str | int | tuple[int, ...] = key("all", kinds.cpu_allocation())
    pin_cores: bool = key(True, kinds.boolean())
    applications: str | tuple[str, ...] = key("all", kinds.texts("all"))
    advertise: Address | None = key("", kinds.address(optional=True, dialable=True))


@dataclass(frozen=True, slots=True)
class Listen:
    """``[listen]``: the ports; names other than the four below are the applications' own."""

    peer: Address = key("127.0.0.1:7700", kinds.address())
    admin: Address | None = key("127.0.0.1:7701", kinds.address(optional=True))
    client: Address | None = key("", kinds.address(optional=True))
    etcd: Address | None = key("", kinds.address(optional=True))
    others: Mapping[str, Address] = field(default_factory=dict)

    def bound(self) -> dict[str, Address]:
        """Every listener to bind, by name; those set to "" are left out."""
        named = {"peer": self.peer, "admin": self.admin, "client": self.client, "etcd": self.etcd}
        return {name: at for name, at in (named | dict(self.others)).items() if at is not None}


@dataclass(frozen=True, slots=True)
class Seeds:
    """``[seeds]``: nodes to contact first."""

    addresses: tuple[Address, ...] = key([], kinds.addresses())
    required: bool = key(False, kinds.boolean())
    timeout_s: float = key("10 s", kinds.duration("100 ms", "10 min"))


@dataclass(frozen=True, slots=True)
class Discovery:
    """``[discovery]``: what says where peers are, besides ``[seeds]``.

    ``options`` are those of the backend, free in form here: each backend checks its own.
    """

    backend: str = key("static", kinds.filled())
    timeout_s: float = key("10 s", kinds.duration("100 ms", "5 min"))
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mesh:
    """``[mesh]``: which nodes hold data links with each other, and who decides it."""

    controller: str = key("static", kinds.choice("static", "raft"))
    roster: tuple[str, ...] = key([], kinds.names())
    form_delay_s: float = key("500 ms", kinds.duration("0 s", "1 min"))
    start_wait_s: float = key("5 s", kinds.duration("0 s", "10 min"))


@dataclass(frozen=True, slots=True)
class Gossip:
    """``[gossip]``: how fast news spreads and how fast a dead node is noticed."""

    interval_s: float = key("1 s", kinds.duration("20 ms", "1 min"))
    probe_interval_s: float = key("1 s", kinds.duration("20 ms", "1 min"))
    probe_timeout_s: float = key("1 s", kinds.duration("10 ms", "1 min"))
    suspicion_s: float = key("1 s", kinds.duration("20 ms", "10 min"))


@dataclass(frozen=True, slots=True)
class Shards:
    """``[shards]``: how shard processes are watched, restarted and stopped."""

    restarts: int = key(5, kinds.integer(0, 1000))
    restart_window_s: float = key("60 s", kinds.duration("1 s", "1 d"))
    heartbeat_timeout_s: float = key("10 s", kinds.duration("2 s", "10 min"))
    drain_s: float = key("30 s", kinds.duration("0 s", "1 h"))


@dataclass(frozen=True, slots=True)
class Tables:
    """``[tables]``: replicated tables; ``[tables.NAME]`` opens one on every shard."""

    max_row: int = key("256 KiB", kinds.size("1 KiB", "4 MiB"))
    write_timeout_s: float = key("5 s", kinds.duration("10 ms", "10 min"))
    join_wait_s: float = key("5 s", kinds.duration("0 s", "10 min"))
    repair_interval_s: float = key("3 s", kinds.duration("100 ms", "10 min"))
    tombstone_life_s: float = key("1 h", kinds.duration("1 s", "365 d"))
    max_tombstones: int = key(100_000, kinds.integer(100, 100_000_000))
    named: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Store:
    """``[store]``: the consistent store that clients of etcd's API see."""

    expect: int = key(0, kinds.integer(0, 9))
    quota: int = key("2 GiB", kinds.size("16 MiB", "64 GiB"))
    heartbeat_s: float = key("100 ms", kinds.duration("10 ms", "10 s"))
    election_s: float = key("1 s", kinds.duration("100 ms", "1 min"))


@dataclass(frozen=True, slots=True)
class Admin:
    """``[admin]``: who may ask the admin port."""

    hosts: tuple[str, ...] = key([], kinds.texts())


Section = Node | Listen | Seeds | Discovery | Mesh | Gossip | Shards | Tables | Store | Admin

SECTIONS: dict[str, type[Section]] = {
    "node": Node,
    "listen": Listen,
    "seeds": Seeds,
    "discovery": Discovery,
    "mesh": Mesh,
    "gossip": Gossip,
    "shards": Shards,
    "tables": Tables,
    "store": Store,
    "admin": Admin,
}
"""The sections with fixed keys; ``[applications.NAME]`` is free and comes on top."""

FREE = (("applications",), ("discovery", "options"))
"""Where tables begin whose keys are not ours: options of applications and of a backend."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of one section; ``default`` is spelled as in the file, None when required."""

    section: str
    name: str
    attribute: str
    kind: Kind
    default: object
    required: bool

    def __str__(self) -> str:
        return f"{self.section}.{self.name}"


def _keys() -> Iterator[Key]:
    for section, cls in SECTIONS.items():
        for each in fields(cls):
            kind = each.metadata.get("kind")
            if kind is None:
                continue
            name = each.name.removesuffix("_s") if kind.is_duration else each.name
            required = each.metadata["required"]
            default = None if required else each.metadata["default"]
            yield Key(section, name, each.name, kind, default, required)


KEYS: dict[tuple[str, str], Key] = {(each.section, each.name): each for each in _keys()}
"""Every fixed key by section and name, in the order of the sections above."""

_OPTION = Key("applications", "", "", kinds.free(), None, required=False)
_APPLICATION = Key("applications", "", "", kinds.table(), None, required=False)
_BACKEND_OPTIONS = Key("discovery", "options", "options", kinds.table(), {}, required=False)
_LISTENER = Key("listen", "", "", kinds.address(), None, required=False)
_NAMED_TABLE = Key("tables", "", "", kinds.replicated_table(), None, required=False)


def find_key(path: tuple[str, ...]) -> Key | None:
    """The key at a path, None when there is none; free names are allowed where they are."""
    if path[0] == "applications" and len(path) > 1:
        return _OPTION if len(path) > 2 else _APPLICATION
    if path[:2] == ("discovery", "options"):
        return _OPTION if len(path) > 2 else _BACKEND_OPTIONS
    if len(path) != 2:
        return None
    if path[0] == "listen" and (path not in KEYS) and path[1].replace("-", "_").isidentifier():
        return _LISTENER
    if path[0] == "tables" and path not in KEYS:
        return _NAMED_TABLE
    return KEYS.get((path[0], path[1]))

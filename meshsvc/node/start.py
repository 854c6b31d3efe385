"""All that can keep a node from starting, done before twistd forks, in the foreground.

The order: the config; the shards and their CPUs; the data directory, locked, with this
life's generation on the disk; the ports. Whatever fails ends the start with one message and
its exit code, while whoever started the node is still looking. Nothing here touches the
reactor, which must not be used before a fork.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from meshsvc.errors import ConfigError, StartError
from meshsvc.model import Address, Incarnation, NodeId, ShardId
from meshsvc.node import exits
from meshsvc.node.boot import Boot
from meshsvc.node.config import Config, load
from meshsvc.node.ports import AT_ONCE, address_of, bind, listen
from meshsvc.shards.cpus import allocate, cgroup_quota, parse_allocation
from meshsvc.shards.service import socket_path
from meshsvc.storage.files import Locked, RealFileSystem
from meshsvc.storage.identity import Identity, open_identity

RUN_LOCK = "run.lock"
"""Two nodes in one run directory would take each other's sockets."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A node that is ready to start: nothing else can be in its way but its own shards."""

    config: Config
    identity: Identity
    cpus: tuple[tuple[int, ...], ...]
    sockets: Mapping[str, socket.socket]
    addresses: Mapping[str, Address]

    @property
    def shards(self) -> int:
        """How many shards the node has."""
        return len(self.cpus)

    def boot(self, shard: ShardId, incarnation: Incarnation) -> Boot:
        """What one life of one shard is told."""
        node = self.config.node
        return Boot(
            node_id=self.identity.node_id,
            name=node.name,
            cluster=node.cluster,
            incarnation=self.identity.generation,
            shard=shard,
            shard_incarnation=incarnation,
            shards=self.shards,
            cpus=self.cpus[shard],
            run_dir=node.run_dir,
            data_dir=node.data_dir,
            listeners=self.addresses,
            advertise=node.advertise or self.addresses["peer"],
            config=self.config.to_dict(),
            supervisor=os.getpid(),
        )


def prepare(path: str, env: Mapping[str, str], overrides: Mapping[str, object]) -> Prepared:
    """Read the config of a node and take hold of everything it needs.

    Raises:
        StartError: with the exit code and one message that names what to do.
    """
    config, cpus = _configured(path, env, overrides)
    node = config.node
    socket_path(node.run_dir, len(cpus) - 1)  # too long a path would fail in every shard
    identity = open_identity(
        RealFileSystem(), node.data_dir, node.name, node.cluster, time.time(), _mint
    )
    identity.lock.note(str(os.getpid()))
    sockets: dict[str, socket.socket] = {}
    try:
        _make_run_dir(node.run_dir)
        for name, wanted in config.listen.bound().items():
            sockets[name] = bind(f"listen.{name}", wanted)
            if name in AT_ONCE:
                listen(f"listen.{name}", wanted, sockets[name])
    except StartError:
        for bound in sockets.values():
            bound.close()
        identity.lock.release()
        raise
    wanted_at = config.listen.bound()
    addresses = {name: address_of(sockets[name], wanted_at[name]) for name in sockets}
    return Prepared(config, identity, cpus, sockets, addresses)


def _configured(
    path: str, env: Mapping[str, str], overrides: Mapping[str, object]
) -> tuple[Config, tuple[tuple[int, ...], ...]]:
    try:
        config = load(path, env, overrides)
        allowed = sorted(os.sched_getaffinity(0))
        spec = parse_allocation(config.node.cpu_allocation)
        cpus = allocate(spec, allowed, cgroup_quota(_read), config.node.pin_cores)
    except ConfigError as error:
        raise StartError("\n".join(error.problems), exits.CONFIG) from error
    return config, cpus


def room_for_shards() -> int:
    """How many shards a node that is started by this process can have at most."""
    everything = parse_allocation("all")
    allowed = sorted(os.sched_getaffinity(0))
    return len(allocate(everything, allowed, cgroup_quota(_read), pin=False))


def _make_run_dir(path: str) -> None:
    """Make the run directory, private, and lock it for as long as this process lives."""
    fs = RealFileSystem()
    try:
        fs.make_dir(path)
        if os.stat(path).st_mode & stat.S_IWOTH:  # such as /tmp: it has to stay as it is
            raise PermissionError(errno.EPERM, "everybody may write to it")
        os.chmod(path, 0o700)  # its sockets speak for the node: nobody else may connect
        fs.lock(os.path.join(path, RUN_LOCK))
    except Locked:
        text = f"the run directory {path} is another running node's: set another node.run_dir"
        raise StartError(text, exits.RETRY) from None
    except OSError as error:
        raise StartError(
            f"the run directory {path} cannot be used: {error}: set another node.run_dir",
            exits.CANNOT_CREATE,
        ) from error


def _mint() -> NodeId:
    return NodeId(uuid.uuid4().hex)


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def make_log_dir(data_dir: str) -> str:
    """Where the shards of a daemon log, as it has no terminal; the path.

    Raises:
        StartError: when it cannot be made.
    """
    path = os.path.join(data_dir, "log")
    try:
        RealFileSystem().make_dir(path)
    except OSError as error:
        raise StartError(f"{path} cannot be made: {error}: check the disk", exits.IO) from error
    return path

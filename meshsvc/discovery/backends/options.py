"""``[discovery.options]`` of the backends that come with meshsvc, read and checked.

Pure, so that ``meshsvc config check`` finds a mistake before anything runs. To add an option,
add a field to the class of its backend here and its line in ``etc/meshsvc.toml``.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from meshsvc.discovery.addresses import dialable
from meshsvc.model import Address

MAX_NAMES = 100
"""Names to resolve: each costs two questions a check; whoever has more has a zone for them."""

MAX_NAME_CHARS = 253
"""Of a domain name (RFC 1035)."""

DEFAULT_PORT = 7700
"""As ``[listen] peer`` has it."""

DEFAULT_VARIABLE = "MESHSVC_PEERS"


@dataclass(frozen=True, slots=True)
class StaticOptions:
    """``addresses``: peers to look for besides ``[seeds] addresses``."""

    addresses: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class FileOptions:
    """``path``: an absolute path, read anew by each check."""

    path: str


@dataclass(frozen=True, slots=True)
class EnvOptions:
    """``variable``: the environment variable that holds the addresses."""

    variable: str = DEFAULT_VARIABLE


@dataclass(frozen=True, slots=True)
class DnsOptions:
    """Where to ask for what.

    Attributes:
        names: host names with an A or AAAA record for each peer, all at ``port``.
        services: names with an SRV record for each peer, which has its port.
        port: the peer port behind ``names``.
        servers: name servers to ask; those of /etc/resolv.conf when there are none.
    """

    names: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    port: int = DEFAULT_PORT
    servers: tuple[Address, ...] = ()


def _list(value: Any, read: Callable[[Any], Any]) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError("not a list")
    if len(value) > MAX_NAMES:
        raise ValueError(f"{len(value)} entries, at most {MAX_NAMES} are looked for")
    return tuple(dict.fromkeys(map(read, value)))


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is not a text, or empty")
    return value


def _host(value: Any) -> str:
    text = _text(value)
    labels = text.rstrip(".").split(".")
    if len(text) > MAX_NAME_CHARS or not all(0 < len(label) < 64 for label in labels):
        raise ValueError(f"{text!r} is not a domain name")
    if not text.isascii() or any(char.isspace() or char == ":" for char in text):
        raise ValueError(f"{text!r} is not a domain name: no port, no spaces, ASCII only")
    return text


def _address(value: Any) -> Address:
    return dialable(_text(value))


def _server(value: Any) -> Address:
    text = _text(value)
    return dialable(text if ":" in text else f"{text}:53")


def _absolute(value: Any) -> str:
    path = _text(value)
    if not posixpath.isabs(path) or "\0" in path:
        raise ValueError(f"{path!r} is not an absolute path")
    return path


def _variable(value: Any) -> str:
    name = _text(value)
    if "=" in name or "\0" in name:
        raise ValueError(f"{name!r} is not the name of an environment variable")
    return name


def _port(value: Any) -> int:
    if type(value) is not int or not 0 < value <= 65535:
        raise ValueError(f"{value!r} is not a port: 1 to 65535")
    return value


_READERS: dict[type[Any], dict[str, Callable[[Any], Any]]] = {
    StaticOptions: {"addresses": lambda value: _list(value, _address)},
    FileOptions: {"path": _absolute},
    EnvOptions: {"variable": _variable},
    DnsOptions: {
        "names": lambda value: _list(value, _host),
        "services": lambda value: _list(value, _host),
        "port": _port,
        "servers": lambda value: _list(value, _server),
    },
}

KINDS: dict[str, type[Any]] = {
    "static": StaticOptions,
    "file": FileOptions,
    "env": EnvOptions,
    "dns": DnsOptions,
}
"""The class of options of each backend that comes with meshsvc."""


def read_options(backend: str, options: Mapping[str, object]) -> Any:
    """The options of a backend that comes with meshsvc, as its class of ``KINDS``.

    Raises:
        ValueError: naming every option that is wrong, one a line.
    """
    kind = KINDS[backend]
    readers = _READERS[kind]
    values, problems = {}, []
    for name, value in options.items():
        if name not in readers:
            known = ", ".join(readers)
            problems.append(f"{name}: no option of backend {backend!r}, which has {known}")
            continue
        try:
            values[name] = readers[name](value)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if not problems:
        problems += _absent(backend, kind, values)
    if problems:
        raise ValueError("\n".join(problems))
    return kind(**values)


def _absent(backend: str, kind: type[Any], values: Mapping[str, object]) -> list[str]:
    if kind is FileOptions and "path" not in values:
        return [f"path: missing; backend {backend!r} needs the path of the file"]
    if kind is DnsOptions and not (values.get("names") or values.get("services")):
        return [f"names: missing; backend {backend!r} needs names or services to look up"]
    return []

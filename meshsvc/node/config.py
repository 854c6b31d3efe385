"""The config of a node: a TOML file and what overrides it, as frozen values.

Rules: a later layer wins over an earlier one, key by key, in the order defaults, file,
``conf.d/*.toml`` beside the file by name, ``MESHSVC_SECTION__KEY`` variables, flags. Every
mistake of every layer is reported in one ``ConfigError``, with the place it is in. Relative
paths in a file start at the folder of that file. Nothing here imports Twisted, so that
checking a config is quick.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshsvc.discovery.backends.options import KINDS as BACKENDS
from meshsvc.discovery.backends.options import read_options
from meshsvc.errors import ConfigError
from meshsvc.model import Address
from meshsvc.node import config_lines
from meshsvc.node.config_problems import missing, unknown, wrong
from meshsvc.node.config_sections import (
    FREE,
    KEYS,
    SECTIONS,
    Admin,
    Discovery,
    Gossip,
    Key,
    Listen,
    Mesh,
    Node,
    Seeds,
    Shards,
    Store,
    Tables,
    find_key,
)

ENV_PREFIX = "MESHSVC_"

KeyPath = tuple[str, ...]
Options = Mapping[str, object]

_WILDCARDS = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class Config:
    """One value per section; ``origins`` says for each set key where it was set."""

    node: Node
    listen: Listen = field(default_factory=Listen)
    seeds: Seeds = field(default_factory=Seeds)
    discovery: Discovery = field(default_factory=Discovery)
    mesh: Mesh = field(default_factory=Mesh)
    gossip: Gossip = field(default_factory=Gossip)
    shards: Shards = field(default_factory=Shards)
    tables: Tables = field(default_factory=Tables)
    store: Store = field(default_factory=Store)
    admin: Admin = field(default_factory=Admin)
    applications: Mapping[str, Options] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    def options(self, application: str) -> Options:
        """The ``[applications.NAME]`` table of an application, empty when there is none."""
        return self.applications.get(application, {})

    def to_dict(self) -> dict[str, Any]:
        """The config as JSON can carry it, spelled as in a file: {section: {key: value}}."""
        plain: dict[str, Any] = {section: {} for section in SECTIONS}
        for key in KEYS.values():
            value = getattr(getattr(self, key.section), key.attribute)
            plain[key.section][key.name] = key.kind.write(value)
        plain["discovery"]["options"] = dict(self.discovery.options)
        plain["listen"].update({name: str(at) for name, at in self.listen.others.items()})
        plain["tables"].update({name: dict(row) for name, row in self.tables.named.items()})
        plain["applications"] = {name: dict(table) for name, table in self.applications.items()}
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Config:
        """The config that ``to_dict`` was called on; its paths are absolute already.

        Raises:
            ConfigError: naming every value that is wrong.
        """
        reading = _Reading()
        reading.add_table(plain, lambda _: "config", Path.cwd())
        return reading.finish("config")


def load(
    path: str | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Config:
    """Read the config of a node.

    Args:
        path: the TOML file; every ``conf.d/*.toml`` beside it is read after it.
        env: the process environment, of which only ``MESHSVC_SECTION__KEY`` is used.
        overrides: values from flags by ``"section.key"``; texts are read like variables.

    Raises:
        ConfigError: listing every mistake as ``place: section.key: what, got, expected``.
    """
    file = Path(path).absolute()
    reading = _Reading()
    reading.add_file(path, file)
    for extra in sorted(file.parent.glob("conf.d/*.toml")):
        shown_path = Path(path).parent / "conf.d" / extra.name
        reading.add_file(shown_path, extra, base=file.parent)
    for variable, text in sorted((env or {}).items()):
        parts = variable.removeprefix(ENV_PREFIX).lower().split("__")
        if variable.startswith(ENV_PREFIX) and len(parts) > 1:
            reading.add(tuple(parts), text, f"environment {variable}", Path.cwd(), spelled=True)
    for dotted, value in (overrides or {}).items():
        where = f"flag --set {dotted}"
        reading.add(tuple(dotted.split(".")), value, where, Path.cwd(), spelled=True)
    return reading.finish(os.fspath(path))


class _Reading:
    """What has been read so far: values that passed, and every problem with its place."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.values: dict[KeyPath, object] = {}
        self.origins: dict[KeyPath, str] = {}
        self.tried: set[KeyPath] = set()
        self.section_lines: dict[str, str] = {}
        self.unread = False

    def add_file(self, name: str | os.PathLike[str], file: Path, base: Path | None = None) -> None:
        """Read one file; ``name`` is how messages call it, ``base`` where its paths start."""
        try:
            text = file.read_bytes().decode("utf-8-sig")
        except OSError as error:
            self.problems.append(f"{name}: cannot be read: {error.strerror}; give another file")
            self.unread = True
            return
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            self.problems.append(f"{name}:{line}: not UTF-8 text; save the file as UTF-8")
            return
        parsed = config_lines.parse(text.replace("\r\n", "\n"))
        self.problems += [f"{name}:{line}: TOML: {what}" for line, what in parsed.errors]
        self.tried |= parsed.broken
        for section in parsed.data:
            self.section_lines.setdefault(section, f"{name}:{parsed.line((section,))}")
        start = len(self.problems)
        self.add_table(parsed.data, lambda at: f"{name}:{parsed.line(at)}", base or file.parent)
        # In the order of the file, not of the layers' dicts, so that it can be worked through.
        self.problems[start:] = sorted(self.problems[start:], key=_line_of)

    def add_table(self, data: Mapping[str, Any], where: Any, base: Path) -> None:
        """Take every value of a parsed file; ``where(path)`` says its place."""
        for path, value in _flat(data):
            self.add(path, value, where(path), base)

    def add(
        self, path: KeyPath, value: object, where: str, base: Path, spelled: bool = False
    ) -> None:
        """Take one value; ``spelled`` when it is text from a variable or a flag."""
        key = find_key(path)
        if key is None:
            self.problems.append(unknown(path, value, where))
            return
        self.tried.add(path)
        raw = key.kind.from_text(value) if spelled and isinstance(value, str) else value
        try:
            read = key.kind.read(raw)
        except ValueError as error:
            self.problems.append(wrong(path, str(error), value, key.kind.expected, where))
            return
        if path in (("node", "data_dir"), ("node", "run_dir")) and read:
            read = os.path.normpath(base / Path(str(read)).expanduser())
        if is_free(path):
            self._forget_around(path)
        self.values[path] = read
        self.origins[path] = where

    def _forget_around(self, path: KeyPath) -> None:
        """A value replaces a table of an earlier layer at its path, and the reverse."""
        for old in [old for old in self.values if is_free(old) and len(old) > 2]:
            shorter = min(len(old), len(path))
            if old[:shorter] == path[:shorter] and shorter > 2 and old != path:
                del self.values[old], self.origins[old]

    def finish(self, name: str) -> Config:
        """Build the config.

        Raises:
            ConfigError: when any layer had a problem, or values do not go together.
        """
        for path, key in KEYS.items():
            if key.required and path not in self.tried and not self.unread:
                place = self.section_lines.get(key.section, f"{name}:1")
                self.problems.append(missing(path, key.kind.expected, place))
        self.problems += self._conflicts(name)
        if self.problems:
            raise ConfigError(tuple(dict.fromkeys(self.problems)))
        sections = {section: self._section(section) for section in SECTIONS}
        origins = {".".join(path): where for path, where in self.origins.items()}
        return Config(**sections, applications=self._applications(), origins=origins)

    def _value(self, key: Key) -> Any:
        default = None if key.required else key.kind.read(key.default)
        return self.values.get((key.section, key.name), default)

    def _section(self, section: str) -> Any:
        values = {k.attribute: self._value(k) for k in KEYS.values() if k.section == section}
        if section == "listen":
            values["others"] = self._named("listen")
        if section == "tables":
            values["named"] = self._named("tables")
        if section == "discovery":
            values["options"] = self._free(("discovery",)).get("options", {})
        if section == "node" and not values["run_dir"]:
            values["run_dir"] = os.path.join(values["data_dir"], "run")
        return SECTIONS[section](**values)

    def _named(self, section: str) -> dict[str, Any]:
        """The keys of a section whose names are free."""
        return {
            path[1]: at
            for path, at in self.values.items()
            if path[0] == section and path not in KEYS
        }

    def _applications(self) -> dict[str, dict[str, object]]:
        return self._free(("applications",))

    def _free(self, root: KeyPath) -> dict[str, dict[str, object]]:
        """The tables below a path, by name, built of their options."""
        tables: dict[str, dict[str, object]] = {}
        start = len(root)
        for path, value in self.values.items():
            if path[:start] != root or not is_free(path):
                continue
            table = tables.setdefault(path[start], {})
            for part in path[start + 1 : -1]:
                table = table.setdefault(part, {})  # type: ignore[assignment]
            if len(path) > start + 1:
                table[path[-1]] = value
        return tables

    def _conflicts(self, name: str) -> Iterator[str]:
        """What is wrong with values that are right each by itself."""
        bound: dict[Address, str] = {}
        listen: Listen = self._section("listen")
        for listener, at in listen.bound().items():
            where = self.origins.get(("listen", listener), name)
            if at.port and at in bound:
                what = f"the address of listen.{bound[at]} too"
                expected = "an address of its own for each listener"
                yield wrong(("listen", listener), what, str(at), expected, where)
            bound.setdefault(at, listener)
        yield from self._backend_problems(name)
        advertise = self.values.get(("node", "advertise"))
        where = self.origins.get(("listen", "peer"), name)
        if listen.peer.host in _WILDCARDS and advertise is None:
            what = f"missing, and listen.peer is {listen.peer}, which nobody can dial"
            yield wrong(("node", "advertise"), what, "", '"host:port" to reach this node', where)
        yield from self._without_store(name)

    def _without_store(self, name: str) -> Iterator[str]:
        """What needs the store, on a node that holds no part of it."""
        if self.values.get(("store", "expect")):
            return
        expected = "[store] expect = N, the number of nodes that found the store"
        for path in (("listen", "etcd"), ("mesh", "controller")):
            value = self.values.get(path)
            if value and value != "static":
                where = self.origins.get(path, name)
                yield wrong(path, "needs the store, and expect is 0", str(value), expected, where)

    def _backend_problems(self, name: str) -> Iterator[str]:
        """What is wrong with the options of a backend that comes with meshsvc."""
        discovery: Discovery = self._section("discovery")
        if discovery.backend not in BACKENDS:
            return  # a plugin's: it checks them when it starts
        try:
            read_options(discovery.backend, discovery.options)
        except ValueError as error:
            for line in str(error).splitlines():
                option, _, what = line.partition(": ")
                at = ("discovery", "options", option)
                where = self.origins.get(at) or self.origins.get(("discovery", "backend"), name)
                yield f"{where}: {'.'.join(at)}: {what}"


def is_free(path: KeyPath) -> bool:
    """Whether a path is in a table whose keys are not ours."""
    return any(path[: len(root)] == root for root in FREE)


def _flat(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, object]]:
    """(path, value) of everything set; free options one by one."""
    for section, table in data.items():
        if not isinstance(table, dict):
            yield (section,), table
            continue
        for key, value in table.items():
            yield from _flat_key((section, key), value)


def _flat_key(path: KeyPath, value: object) -> Iterator[tuple[KeyPath, object]]:
    if not is_free(path) or not isinstance(value, dict):
        yield path, value
        return
    if len(path) == 2 or not value:
        yield path, {}  # a table without options is still an option, or names its application
    for option, item in value.items():
        yield from _flat_key((*path, option), item)


def _line_of(problem: str) -> int:
    digits = problem.split(": ", 1)[0].rpartition(":")[2]
    return int(digits) if digits.isdecimal() else 0

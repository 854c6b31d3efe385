"""What a config value may be: a ``Kind`` reads, checks and prints one sort of value.

Rules: ``read`` takes what TOML gave and raises ``ValueError`` saying what is wrong, in words
that fit before "got ..., expected ..."; ``write`` gives back what ``read`` takes, so that a
config survives a trip through JSON; ``from_text`` is how the same value is spelled in an
environment variable or on a command line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass

from meshsvc.errors import ConfigError
from meshsvc.model import Address
from meshsvc.node.config_units import format_duration, format_size, parse_duration, parse_size
from meshsvc.shards.cpus import FORMS, parse_allocation


def _same(value: object) -> object:
    return value


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of value; ``expected`` completes the sentence of an error."""

    expected: str
    read: Callable[[object], object]
    write: Callable[[object], object] = _same
    from_text: Callable[[str], object] = _same
    is_duration: bool = False


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not a string")
    return value


def _toml_text(text: str) -> object:
    """The TOML value a text spells, or the text itself when it spells none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def _list_text(*words: str) -> Callable[[str], object]:
    def read(text: str) -> object:
        value = _toml_text(text)
        if not isinstance(value, str) or text in words:
            return value
        return [item.strip() for item in text.split(",") if item.strip()]

    return read


def free() -> Kind:
    """Any value that JSON can carry: the options of an application."""
    return Kind("a string, number, boolean, list or table", _plain, from_text=_toml_text)


def table() -> Kind:
    """A table of free options."""

    def read(value: object) -> object:
        if not isinstance(value, dict):
            raise ValueError("not a table")
        return _plain(value)

    return Kind("a table: [applications.NAME]", read, from_text=_toml_text)


def replicated_table() -> Kind:
    """What a table is opened as: kind, owned and resolver, each of which has a default."""

    def read(value: object) -> object:
        if not isinstance(value, dict):
            raise ValueError("no such key, or not a table")
        unknown = sorted(set(value) - {"kind", "owned", "resolver"})
        if unknown:
            raise ValueError(f"an unknown key {unknown[0]!r}")
        if value.get("kind", "set") not in ("set", "ordered", "bag"):
            raise ValueError(f"an unknown kind {value['kind']!r}")
        if type(value.get("owned", False)) is not bool:
            raise ValueError("owned is neither true nor false")
        _read_filled(value.get("resolver", "last-writer"))
        return dict(value)

    return Kind(
        'a table: [tables.NAME] with kind "set", "ordered" or "bag", owned and resolver',
        read,
        from_text=_toml_text,
    )


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if not isinstance(value, str | int | float | bool):
        raise ValueError("a date or time has no JSON form: quote it")
    return value


def name() -> Kind:
    """A name that is safe in logs, file names and DNS."""
    return Kind('1 to 63 of a-z, 0-9 and "-"', _read_name)


def _read_name(value: object) -> str:
    text = _string(value)
    if not re.fullmatch(r"[a-z0-9-]{1,63}", text):
        raise ValueError("not a valid name")
    return text


def filled() -> Kind:
    """Any text that is not empty."""
    return Kind("a text that is not empty", _read_filled)


def _read_filled(value: object) -> str:
    text = _string(value)
    if not text.strip() or "\0" in text:
        raise ValueError("empty")
    return text


def text() -> Kind:
    """Any text; empty means unset."""
    return Kind("a string", _string)


def boolean() -> Kind:
    """``true`` or ``false``."""

    def read(value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError("not a boolean")
        return value

    return Kind("true or false", read, from_text=_toml_text)


def integer(low: int, high: int) -> Kind:
    """A whole number between two bounds, both allowed."""

    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("not a whole number")
        if not low <= value <= high:
            raise ValueError("out of range")
        return value

    return Kind(f"a whole number from {low} to {high}", read, from_text=_toml_text)


def duration(low: str, high: str) -> Kind:
    """A duration between two bounds, both allowed; seconds as a float."""
    low_s, high_s = parse_duration(low), parse_duration(high)

    def read(value: object) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise ValueError("a duration without a unit")
        seconds = parse_duration(_string(value))
        if not low_s <= seconds <= high_s:
            raise ValueError("out of range")
        return seconds

    expected = f'a duration from "{low}" to "{high}" in us, ms, s, min, h or d'
    return Kind(expected, read, write=_write_duration, is_duration=True)


def _write_duration(value: object) -> object:
    assert isinstance(value, int | float)
    return format_duration(value)


def size(low: str, high: str) -> Kind:
    """A size between two bounds, both allowed; bytes as an int."""
    low_b, high_b = parse_size(low), parse_size(high)

    def read(value: object) -> int:
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise ValueError("a size without a unit")
        count = parse_size(_string(value))
        if not low_b <= count <= high_b:
            raise ValueError("out of range")
        return count

    return Kind(f'a size from "{low}" to "{high}" in B, KiB, MiB or GiB', read, _write_size)


def _write_size(value: object) -> object:
    assert isinstance(value, int)
    return format_size(value)


def choice(*words: str) -> Kind:
    """One of a few words."""

    def read(value: object) -> str:
        if _string(value) not in words:
            raise ValueError("not a known word")
        return str(value)

    return Kind("one of " + ", ".join(f'"{word}"' for word in words), read)


def address(optional: bool = False, dialable: bool = False) -> Kind:
    """``host:port``; ``Address``, or None for an empty text where that is allowed."""

    def read(value: object) -> Address | None:
        if optional and value == "":
            return None
        return _read_dialable(value) if dialable else _read_address(value)

    rest = ', or "" for none' if optional else ""
    return Kind(f'"host:port" or "[v6]:port"{rest}', read, _write_address)


def _read_address(value: object) -> Address:
    try:
        return Address.parse(_string(value))
    except ValueError as error:
        if not isinstance(value, str):
            raise
        raise ValueError("not an address") from error


def _read_dialable(value: object) -> Address:
    found = _read_address(value)
    if found.port == 0:
        raise ValueError("an address with port 0, which cannot be dialed")
    return found


def _write_address(value: object) -> object:
    return "" if value is None else str(value)


def _items(value: object, read: Callable[[object], object], bound: int) -> tuple[object, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError("not a list")
    if len(value) > bound:
        raise ValueError(f"{len(value)} entries")
    seen: list[object] = []
    for position, item in enumerate(value, 1):
        try:
            entry = read(item)
        except ValueError as error:
            raise ValueError(f"entry {position} is {error}") from None
        if entry in seen:
            raise ValueError(f"entry {position} ({item}) is there twice")
        seen.append(entry)
    return tuple(seen)


def addresses() -> Kind:
    """A list of addresses to dial, each once."""

    def read(value: object) -> object:
        return _items(value, _read_dialable, 1000)  # more seeds than any cluster has nodes

    def write(value: object) -> object:
        assert isinstance(value, tuple)
        return [str(entry) for entry in value]

    return Kind('a list of at most 1000 different "host:port"', read, write, _list_text())


def names(*words: str, read_item: Callable[[object], object] = _read_name) -> Kind:
    """A list of names, each once, or one of the given words instead of a list."""

    def read(value: object) -> object:
        if isinstance(value, str) and value in words:
            return value
        return _items(value, read_item, 1000)  # more than any cluster has nodes

    def write(value: object) -> object:
        return value if isinstance(value, str) else list(value)  # type: ignore[call-overload]

    either = "".join(f'"{word}" or ' for word in words)
    return Kind(f"{either}a list of at most 1000 different names", read, write, _list_text(*words))


def texts(*words: str) -> Kind:
    """A list of texts that are not empty, each once, or one of the given words instead."""
    return names(*words, read_item=_read_filled)


def cpu_allocation() -> Kind:
    """The form of a CPU allocation; which CPUs there are is checked when shards start."""
    return Kind(FORMS, _read_allocation, _write_allocation, _toml_text)


def _read_allocation(value: object) -> object:
    try:
        parse_allocation(value)
    except ConfigError as error:
        why = error.problems[0].partition(": ")[2]
        raise ValueError(why if not why.startswith("write ") else "not an allocation") from None
    return tuple(value) if isinstance(value, list) else value


def _write_allocation(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value

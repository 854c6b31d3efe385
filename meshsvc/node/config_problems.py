"""The words of config errors: each says where, which key, what, what was got, what to write."""

from __future__ import annotations

import json

from meshsvc.node.config_sections import KEYS, SECTIONS

_SHOWN = 60
"""Characters of a wrong value that are repeated: enough to find it by."""


def shown(value: object) -> str:
    """A value as the file spells it, cut when long."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def wrong(path: tuple[str, ...], what: str, value: object, expected: str, where: str) -> str:
    """A value that its key does not take."""
    return f"{where}: {'.'.join(path)}: {what}, got {shown(value)}, expected {expected}"


def missing(path: tuple[str, ...], expected: str, where: str) -> str:
    """A required key that no layer sets."""
    return f"{where}: {'.'.join(path)}: required but not set, got nothing, expected {expected}"


def unknown(path: tuple[str, ...], value: object, where: str) -> str:
    """A path at which there is no key, with the nearest that exists."""
    dotted = ".".join(path)
    if path[0] not in SECTIONS and path[0] != "applications":
        near = nearest_section(path)
        return f"{where}: {dotted}: unknown section, got [{path[0]}], nearest: {near}"
    if len(path) == 1:
        expected = f"a table: [{path[0]}{'.NAME' if path[0] == 'applications' else ''}]"
        return f"{where}: {dotted}: not a table, got {shown(value)}, expected {expected}"
    return f"{where}: {dotted}: unknown key, got {shown(value)}, nearest: {nearest_key(path)}"


def nearest_section(path: tuple[str, ...]) -> str:
    """The section meant by a wrong one: by its own name, else by the key in it."""
    import difflib  # noqa: PLC0415  (5 ms that a correct config need not pay)

    names = [*SECTIONS, "applications"]
    close = difflib.get_close_matches(path[0], names, 1)
    if close:
        return f"[{close[0]}]"
    homes = [section for section, name in KEYS if name in (path[0], *path[1:2])]
    return f"[{homes[0]}]" if homes else ", ".join(f"[{name}]" for name in names)


def nearest_key(path: tuple[str, ...]) -> str:
    """The key meant by a wrong one: of its section, else of another, else all there are."""
    import difflib  # noqa: PLC0415

    section, name = path[0], path[1]
    own = [key for home, key in KEYS if home == section]
    close = difflib.get_close_matches(name, own, 1)
    if close:
        return f"{section}.{close[0]}"
    homes = [f"{home}.{key}" for home, key in KEYS if key == name]
    far = difflib.get_close_matches(name, [key for _, key in KEYS], 1, cutoff=0.8)
    homes += [f"{home}.{key}" for home, key in KEYS if key in far]
    return homes[0] if homes else "one of " + ", ".join(f"{section}.{key}" for key in own)

"""Where things are in a TOML file: the line of every key, and what is left after a mistake.

``tomllib`` tells values but not lines, and stops at the first syntax error. This module
finds the lines by walking over the text, and takes a broken line out so that the rest of
the file can be checked in the same run. It need not understand values, only step over them.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field

Path = tuple[str, ...]

MAX_SYNTAX_ERRORS = 20
"""Broken lines reported of one file; a file with more is probably not TOML at all."""

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?(?:"""|\Z)|'
    r"'''.*?(?:'''|\Z)|"
    r'"(?:\\.|[^"\\\n])*"?|'
    r"'[^'\n]*'?|"
    r"\#[^\n]*|[\[\]{}]|\n|[^\n\"'#\[\]{}]+",
    re.DOTALL,
)
_HEADER = re.compile(r"\s*\[\[?\s*(?P<path>[^\]\n]+?)\s*\]\]?")
_KEY = re.compile(r"""\s*(?P<path>(?:"[^"\n]*"|'[^'\n]*'|[A-Za-z0-9_.\s-])+?)\s*=""")
_PART = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*(?:\.|$)""")
_AT_LINE = re.compile(r"\s*\(at line (\d+), column \d+\)")


@dataclass(slots=True)
class Parsed:
    """What could be read of a file.

    ``errors`` is a list of (line, text); ``broken`` are the paths whose lines did not parse.
    """

    data: dict[str, object]
    lines: dict[Path, int]
    errors: list[tuple[int, str]] = field(default_factory=list)
    broken: set[Path] = field(default_factory=set)

    def line(self, path: Path) -> int:
        """The line of a path or of what holds it; 1 when the file does not mention it."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[:-1]
        return 1


def parse(text: str) -> Parsed:
    """Read a TOML text as far as it goes; never raises for its content."""
    parsed = Parsed({}, {})
    for _ in range(MAX_SYNTAX_ERRORS):
        try:
            parsed.data = tomllib.loads(text)
        except RecursionError:
            parsed.errors.append((1, "nested too deeply"))
            break
        except tomllib.TOMLDecodeError as error:
            rest = _without_mistake(text, str(error), parsed)
            if rest is None:
                break
            text = rest
        else:
            break
    parsed.lines.update(find_lines(text))
    return parsed


def _without_mistake(text: str, message: str, parsed: Parsed) -> str | None:
    """Note a syntax error and blank its line; None when the rest would make no sense."""
    at = _AT_LINE.search(message)
    rows = text.split("\n")
    number = int(at[1]) if at is not None else len(rows)
    what = _AT_LINE.sub("", message).replace("(at end of document)", "").strip()
    parsed.errors.append((number, what))
    row = rows[number - 1]
    found = _KEY.match(row)
    if at is None or found is None or what.startswith("Unclosed"):
        return None
    section: Path = ()
    for earlier in rows[: number - 1]:
        header = _HEADER.match(earlier)
        section = _split(header["path"]) if header is not None else section
    path = section + _split(found["path"])
    parsed.broken.add(path)
    parsed.lines.setdefault(path, number)
    rows[number - 1] = ""
    return "\n".join(rows)


def find_lines(text: str) -> dict[Path, int]:
    """The line of every section and key of a TOML text, by full path."""
    lines: dict[Path, int] = {}
    section: Path = ()
    for number, statement in _statements(text):
        header = _HEADER.match(statement)
        if header is not None:
            section = _split(header["path"])
            lines.setdefault(section, number)
            continue
        found = _KEY.match(statement)
        if found is not None:
            lines.setdefault(section + _split(found["path"]), number)
    return lines


def _statements(text: str) -> list[tuple[int, str]]:
    """(line, text) of each statement: a line, or several joined by brackets or quotes."""
    found: list[tuple[int, str]] = []
    number, start, depth, parts = 1, 1, 0, list[str]()
    for match in _TOKEN.finditer(text + "\n"):
        token = match[0]
        if token == "\n" and depth <= 0:
            found.append((start, "".join(parts)))
            parts, start, depth = [], number + 1, 0
        elif not token.startswith("#"):
            depth += (token in ("[", "{")) - (token in ("]", "}"))
            parts.append(token)
        number += token.count("\n")
    return found


def _split(path: str) -> Path:
    return tuple(
        next(part for part in m.groups() if part is not None) for m in _PART.finditer(path)
    )
